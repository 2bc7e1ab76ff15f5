package filesystem

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxProgram is the largest program of the host that is read.
	maxProgram = 1 << 30
	maxDigests = 1024
	// settled is how old a file's last change must be before its digest is kept: a
	// change within one tick of the file system's clock does not show in its times.
	settled = 2 * time.Second
)

// version tells one content of a file from the next.
type version struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// digests are the digests of the host's programs, so that each is read once.
type digests struct {
	mu    sync.Mutex
	known map[version]string
}

func versionOf(f *os.File) (version, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return version{}, step("stat program", err)
	}
	return version{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}

// of is the digest of an open program. A file that changes under it is refused.
func (d *digests) of(f *os.File) (string, error) {
	before, err := versionOf(f)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	digest, ok := d.known[before]
	d.mu.Unlock()
	if ok {
		return digest, nil
	}
	if before.size > maxProgram {
		return "", problemf("too_large", "is %d bytes, at most %d are allowed", before.size, maxProgram)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, before.size)); err != nil {
		return "", step("read program", err)
	}
	after, err := versionOf(f)
	if err != nil {
		return "", err
	}
	if before != after {
		return "", problemf("changed", "changed while it was read; try again")
	}
	digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	if time.Since(time.Unix(after.ctime.Unix())) > settled {
		d.keep(after, digest)
	}
	return digest, nil
}

func (d *digests) keep(v version, digest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxDigests {
		d.known = map[version]string{}
	}
	d.known[v] = digest
}
