package cgroups

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeFile writes value with one write(2), as control files want it. It makes no file.
func writeFile(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		_ = f.Close()
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

func readFile(file string) (string, error) {
	content, err := os.ReadFile(file)
	return string(content), err
}

// gone tells that a group or the process in question does not exist any more.
// A file of a removed group that is still open answers ENODEV.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}
