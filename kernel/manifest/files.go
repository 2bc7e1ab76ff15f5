package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// closed are the directories whose content is Solo's.
var closed = []string{"/proc", "/dev", "/tmp", "/run", "/sys"}

// made are the directories and links that every sandbox has (sandbox/launcher): no
// file can take their place.
var made = []string{
	"/app", "/data", "/etc", "/usr", "/var", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64",
	"/usr/share", "/var/tmp", "/bin", "/sbin", "/lib", "/lib64",
}

// merged are the directories of the root that are links into /usr inside.
var merged = []string{"/bin", "/sbin", "/lib", "/lib64"}

// inside is where a path leads in a sandbox.
func inside(p string) string {
	if slices.ContainsFunc(merged, func(dir string) bool { return below(p, dir) }) {
		return "/usr" + p
	}
	return p
}

// below tells whether p is dir or lies in it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func (c *checker) files(m *solov1.DeployRequest, with Contents) {
	if len(m.GetFiles()) > MaxFiles {
		c.add("files", "%d files are over the limit of %d", len(m.GetFiles()), MaxFiles)
		return
	}
	var paths []string
	for i, f := range m.GetFiles() {
		field := fmt.Sprintf("files[%d]", i)
		if c.path(field+".path", f.GetPath()) {
			c.place(field+".path", f.GetPath(), paths)
			paths = append(paths, inside(f.GetPath()))
		}
		if f.GetFrom() != "" {
			c.add(field+".from", "is for manifests that solo-ctl sends; give content or artifact")
		}
		if len(f.GetContent()) > 0 {
			c.add(field+".content", inline)
		}
		c.mode(field+".mode", f)
		if with.Files[i] && f.GetArtifact() != "" {
			c.add(field, "has both content and artifact")
		} else if f.GetArtifact() != "" {
			if why := CheckDigest(f.GetArtifact()); why != "" {
				c.add(field+".artifact", "%s", why)
			}
		}
	}
	for _, i := range slices.Sorted(maps.Keys(with.Files)) {
		if i < 0 || i >= len(m.GetFiles()) {
			c.add("files", "content for file %d of %d", i, len(m.GetFiles()))
		}
	}
}

// place says what else is where a file is to be.
func (c *checker) place(field, p string, others []string) {
	for _, dir := range closed {
		if below(p, dir) {
			c.add(field, "lies below %s, which is Solo's", dir)
		}
	}
	if slices.Contains(made, p) {
		c.add(field, "%q is a directory of every sandbox", p)
	}
	for _, other := range others {
		switch in := inside(p); {
		case in == other:
			c.add(field, "%q is there twice", clip(p))
		case below(in, other) || below(other, in):
			c.add(field, "%q and %q cannot both be files", clip(p), clip(other))
		}
	}
}

// mode fills in a file's mode and writes it in one way.
func (c *checker) mode(field string, f *solov1.File) {
	if f.GetMode() == "" {
		f.Mode = "0444"
	}
	bits, err := strconv.ParseUint(f.GetMode(), 8, 32)
	if err != nil || bits > 0o777 {
		c.add(field, "%q is not octal permission bits up to 0777", clip(f.GetMode()))
		return
	}
	f.Mode = fmt.Sprintf("%04o", bits)
}
