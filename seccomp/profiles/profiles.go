// Package profiles holds the seccomp profiles that Solo ships, as complete OCI JSON.
//
// Trust: constant bytes within the program. The package is linked by the kernel and
// therefore decodes nothing; package seccomp does. The files are written by
// seccomp/profiles/gen; README.md beside them says what each allows and why.
package profiles

import (
	"embed"
	"errors"
	"fmt"
	"strings"
)

//go:generate go run ./gen .

//go:embed *.json
var files embed.FS

// ErrUnknown says that there is no profile of that name.
var ErrUnknown = errors.New("unknown seccomp profile")

// Names lists the profiles, sorted.
func Names() []string {
	// The directory is part of the program: reading it cannot go wrong.
	entries, _ := files.ReadDir(".")
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// Read returns the JSON of a profile; the caller owns the bytes. The error is
// ErrUnknown.
func Read(name string) ([]byte, error) {
	text, err := files.ReadFile(name + ".json")
	if err != nil || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%w %q", ErrUnknown, name)
	}
	return text, nil
}
