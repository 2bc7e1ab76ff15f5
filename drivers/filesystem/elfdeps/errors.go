package elfdeps

import (
	"errors"
	"fmt"
)

var (
	// ErrNotELF is a file that does not begin as an ELF file does.
	ErrNotELF = errors.New("not an ELF file")
	// ErrScript is a file that begins with "#!".
	ErrScript = errors.New("a script, not an ELF program")
	// ErrMalformed is an ELF file whose headers lie or cannot be read.
	ErrMalformed = errors.New("malformed ELF file")
	// ErrTooMany is a program that needs more than MaxFiles files.
	ErrTooMany = fmt.Errorf("needs more than %d libraries", MaxFiles)
	// ErrTooLong is a program whose search directories and links are too many.
	ErrTooLong = errors.New("the search for libraries takes too many steps")
)

// ArchitectureError is a program for another machine.
type ArchitectureError struct {
	// Architecture of the program, such as "aarch64", "x86 (32-bit)".
	Architecture string
}

func (e *ArchitectureError) Error() string {
	return "a program for " + e.Architecture + ", not for this machine"
}

// NotExecutableError is an ELF file that is no program.
type NotExecutableError struct {
	// Kind says what it is: "relocatable object", "core dump", "shared library".
	Kind string
}

func (e *NotExecutableError) Error() string { return "not a program but a " + e.Kind }

// InterpreterError is a program whose loader cannot be used.
type InterpreterError struct {
	Path   string
	Reason string
}

func (e *InterpreterError) Error() string {
	return fmt.Sprintf("interpreter %q %s", e.Path, e.Reason)
}

// MissingLibraryError is a library that the loader would not find.
type MissingLibraryError struct {
	// Name as it stands in DT_NEEDED.
	Name string
	// NeededBy is the path of the file that needs it.
	NeededBy string
}

func (e *MissingLibraryError) Error() string {
	return fmt.Sprintf("library %q, needed by %s, is not found", e.Name, e.NeededBy)
}

// LibraryError is a library that was found and cannot be used.
type LibraryError struct {
	Path string
	Err  error
}

func (e *LibraryError) Error() string { return fmt.Sprintf("library %s: %v", e.Path, e.Err) }

func (e *LibraryError) Unwrap() error { return e.Err }
