package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps"
)

// closed are the directories where a sandbox has file systems of its own.
var closed = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/run", "/var/tmp"}

func isClosed(p string) bool {
	return slices.ContainsFunc(closed, func(dir string) bool { return below(p, dir) })
}

// rootLinks are the links that every sandbox has in its root.
var rootLinks = []string{"/bin", "/sbin", "/lib", "/lib64"}

// inside is where a path of the host is inside: what the sandbox's links lead to.
func inside(p string) string {
	for _, link := range rootLinks {
		if below(p, link) {
			return "/usr" + p
		}
	}
	return p
}

// libraries are the mounts of a program's closure. Where the root directory of the
// host has other links than a sandbox, the files are there under both paths.
func libraries(c elfdeps.Closure) []Mount {
	var mounts []Mount
	for _, f := range c.Files {
		mounts = append(mounts, Mount{Source: f.Source, Target: inside(f.Target)})
	}
	for _, l := range c.Links {
		if slices.Contains(rootLinks, l.Path) {
			continue
		}
		to := path.Join("/", l.Target)
		for _, f := range c.Files {
			if below(f.Target, to) {
				mounts = append(mounts, Mount{Source: f.Source, Target: l.Path + strings.TrimPrefix(f.Target, to)})
			}
		}
	}
	return mounts
}

// expand finds what a pattern of a descriptor stands for, in the order of names. What
// matches and is a link is there under its own path and under the one it leads to, so
// that links from elsewhere work too. Nothing there, or nothing for others, is no error.
func (t tree) expand(pattern string) ([]Mount, error) {
	dir, last := path.Split(pattern)
	names := []string{last}
	if strings.Contains(last, "*") {
		var err error
		if names, err = t.matching(dir, last); err != nil {
			return nil, err
		}
	}
	var found []Mount
	for _, name := range names {
		p := path.Join(dir, name)
		real, info, err := t.real(p)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !forOthers(info.Mode()) {
			continue
		}
		found = append(found, Mount{Source: real, Target: inside(real), Directory: info.IsDir()})
		if real != p {
			found = append(found, Mount{Source: real, Target: inside(p), Directory: info.IsDir()})
		}
	}
	return found, nil
}

// forOthers tells whether others can use a file or a directory; nothing else is
// mounted.
func forOthers(m fs.FileMode) bool {
	return m.IsDir() && m.Perm()&0o005 == 0o005 || m.IsRegular() && m.Perm()&0o004 != 0
}

// matching are the names in a directory that match a pattern with one star.
func (t tree) matching(dir, pattern string) ([]string, error) {
	dir, info, err := t.real(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(t.at(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, after, _ := strings.Cut(pattern, "*")
	var names []string
	for _, e := range entries {
		n := e.Name()
		if len(n) >= len(before)+len(after) && strings.HasPrefix(n, before) && strings.HasSuffix(n, after) {
			names = append(names, n)
		}
	}
	return names, nil
}

// unique keeps the first mount of each target, sorted by target.
func unique(mounts []Mount) []Mount {
	seen := map[string]bool{}
	var out []Mount
	for _, m := range mounts {
		if !seen[m.Target] {
			seen[m.Target] = true
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	return out
}
