package ipc

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Seals are what a memfd must carry before its reader trusts that the content
// stays (memfd_create(2), fcntl(2) F_ADD_SEALS).
const Seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// SealedFile makes a sealed memfd with the given content; the caller owns it.
func SealedFile(name string, content []byte) (*os.File, error) {
	f, err := NewMemfd(name)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(content); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write memfd: %w", err)
	}
	if err := Seal(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// NewMemfd makes an empty memfd that can be sealed; the caller owns it.
func NewMemfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Seal forbids every later change of the memfd and rewinds it.
func Seal(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind memfd: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, Seals); err != nil {
		return fmt.Errorf("seal memfd: %w", err)
	}
	return nil
}

// CheckSealed returns the size of a sealed memfd, or a ProtocolError when the file
// is anything else or larger than limit.
func CheckSealed(f *os.File, limit int64) (int64, error) {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0, &ProtocolError{What: "descriptor is not a memfd"}
	}
	if seals&Seals != Seals {
		return 0, &ProtocolError{What: "memfd is not sealed"}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("fstat memfd: %w", err)
	}
	if st.Size > limit {
		return 0, &ProtocolError{What: fmt.Sprintf("memfd of %d bytes is over the limit of %d", st.Size, limit)}
	}
	return st.Size, nil
}
