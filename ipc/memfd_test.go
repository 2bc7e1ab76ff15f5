package ipc_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
)

func TestSealedFile(t *testing.T) {
	for _, content := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("solo"), 1<<18)} {
		f, err := ipc.SealedFile("code", content)
		check(t, err)
		closeLater(t, f)
		size, err := ipc.CheckSealed(f, int64(len(content)))
		check(t, err)
		if size != int64(len(content)) {
			t.Errorf("size %d, want %d", size, len(content))
		}
		got, err := io.ReadAll(f)
		check(t, err)
		if !bytes.Equal(got, content) {
			t.Errorf("content of %d bytes came back as %d others", len(content), len(got))
		}
		// None of the ways to change it works any more.
		if _, err := f.WriteAt([]byte("y"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("write: %v, want EPERM", err)
		}
		if err := f.Truncate(size + 1); !errors.Is(err, unix.EPERM) {
			t.Errorf("grow: %v, want EPERM", err)
		}
		if size > 0 {
			if err := f.Truncate(size - 1); !errors.Is(err, unix.EPERM) {
				t.Errorf("shrink: %v, want EPERM", err)
			}
			if _, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
				t.Errorf("writable mapping: %v, want EPERM", err)
			}
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) {
			t.Errorf("seal again: %v, want EPERM", err)
		}
	}
}

func TestSealFails(t *testing.T) {
	f, err := ipc.NewMemfd("mapped")
	check(t, err)
	closeLater(t, f)
	check(t, f.Truncate(4096))
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	if err := ipc.Seal(f); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a writable mapping: %v, want EBUSY", err)
	}
	check(t, unix.Munmap(m))
	check(t, ipc.Seal(f))
	r, w, err := os.Pipe()
	check(t, err)
	closeLater(t, r)
	closeLater(t, w)
	if err := ipc.Seal(r); err == nil {
		t.Error("sealed a pipe")
	}
	check(t, f.Close())
	if err := ipc.Seal(f); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestCheckSealedRefuses(t *testing.T) {
	memfd := func(seals int, size int64) *os.File {
		f, err := ipc.NewMemfd("test")
		check(t, err)
		check(t, f.Truncate(size))
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
		check(t, err)
		return f
	}
	unsealable, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	check(t, err)
	plain, err := os.Create(filepath.Join(t.TempDir(), "file"))
	check(t, err)
	shm, err := os.CreateTemp("/dev/shm", "solo-test-")
	check(t, err)
	check(t, os.Remove(shm.Name()))
	r, w, err := os.Pipe()
	check(t, err)
	closeLater(t, w)
	sealed := memfd(ipc.Seals, 10)
	path, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_CLOEXEC, 0)
	check(t, err)
	const limit = 4096
	files := map[string]struct {
		f    *os.File
		want string
	}{
		"at the limit":   {memfd(ipc.Seals, limit), ""},
		"over the limit": {memfd(ipc.Seals, limit+1), "memfd of 4097 bytes is over the limit of 4096"},
		"unsealed":       {memfd(0, 10), "memfd is not sealed"},
		"may grow":       {memfd(ipc.Seals&^unix.F_SEAL_GROW, 10), "memfd is not sealed"},
		"may shrink":     {memfd(ipc.Seals&^unix.F_SEAL_SHRINK, 10), "memfd is not sealed"},
		"may be written": {memfd(ipc.Seals&^unix.F_SEAL_WRITE, 10), "memfd is not sealed"},
		"may be written where it is mapped": {
			memfd(ipc.Seals&^unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE, 10), "memfd is not sealed",
		},
		"may be sealed further": {memfd(ipc.Seals&^unix.F_SEAL_SEAL, 10), "memfd is not sealed"},
		"made without sealing":  {os.NewFile(uintptr(unsealable), "unsealable"), "memfd is not sealed"},
		"file on disk":          {plain, "descriptor is not a memfd"},
		"file in shared memory": {shm, "memfd is not sealed"},
		"pipe":                  {r, "descriptor is not a memfd"},
		"path only":             {os.NewFile(uintptr(path), "path"), "descriptor is not a memfd"},
	}
	for name, c := range files {
		_, err := ipc.CheckSealed(c.f, limit)
		e := (*ipc.ProtocolError)(nil)
		switch {
		case c.want == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.As(err, &e) || e.What != c.want:
			t.Errorf("%s: %v, want protocol: %s", name, err, c.want)
		}
		check(t, c.f.Close())
	}
	check(t, sealed.Close())
	if _, err := ipc.CheckSealed(sealed, limit); err == nil {
		t.Error("closed: no error")
	}
}
