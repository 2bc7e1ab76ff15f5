package elfdeps

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// MaxFiles is the largest number of files in a Closure.
const MaxFiles = 150

// Mount is one file that has to be visible inside.
type Mount struct {
	// Target is the absolute path inside, as the loader opens it except that the
	// links of the host's root directory (/lib to usr/lib) are followed: inside,
	// the same links must be there, see Closure.Links.
	Target string
	// Source is the path on the host, below Host.Root, without any link.
	Source string
}

// Link is a symbolic link in the root directory.
type Link struct {
	// Path such as /lib64, and what it holds, such as usr/lib64.
	Path, Target string
}

// Closure is what a program needs besides itself.
type Closure struct {
	// Static programs need nothing; all other fields are empty then.
	Static bool
	// Interpreter is the loader as the program names it, absolute.
	Interpreter string
	// Files begins with the interpreter and goes on in the order in which the
	// loader opens them; each target once.
	Files []Mount
	// Links are those of the root directory on the way to the files.
	Links []Link
}

// Resolve reads the program and finds its closure on the host. file is the
// program's absolute path inside, for $ORIGIN; if empty, search directories with
// $ORIGIN are left out. It opens and closes files of the host and may block on the
// file system.
//
// Errors: ErrScript, ErrNotELF, ErrMalformed, ErrTooMany, ErrTooLong,
// *ArchitectureError, *NotExecutableError, *InterpreterError, *MissingLibraryError,
// *LibraryError, or what the program's reader returned.
func Resolve(program io.ReaderAt, file string, host Host) (Closure, error) {
	m, err := host.machine()
	if err != nil {
		return Closure{}, err
	}
	o, err := parse(program, m)
	if err != nil {
		return Closure{}, err
	}
	if err := o.executable(); err != nil {
		return Closure{}, err
	}
	if o.interp == "" {
		return Closure{Static: true}, nil
	}
	s := &search{
		view: host.view(), machine: m,
		known: map[string]bool{}, objects: map[string]read{}, loaded: map[string]bool{}, targets: map[string]bool{},
	}
	main := &node{object: o, path: file}
	if err := s.interpreter(o.interp); err != nil {
		return Closure{}, err
	}
	if err := s.closure(main); err != nil {
		return Closure{}, err
	}
	links := s.view.links(s.opened)
	return Closure{Interpreter: o.interp, Files: s.files, Links: links}, nil
}

// executable tells whether execve(2) would run the file.
func (o *object) executable() error {
	library := o.interp == "" && !o.pie && (o.soname != "" || len(o.needed) > 0)
	switch {
	case o.kind == typeRel:
		return &NotExecutableError{Kind: "relocatable object"}
	case o.kind == typeCore:
		return &NotExecutableError{Kind: "core dump"}
	case o.kind != typeExec && o.kind != typeDyn:
		return &NotExecutableError{Kind: fmt.Sprintf("file of ELF type %d", o.kind)}
	case o.kind == typeDyn && (o.entry == 0 || library):
		return &NotExecutableError{Kind: "shared library"}
	case o.entry == 0:
		return &NotExecutableError{Kind: "file without an entry point"}
	}
	return nil
}

// node is a loaded object and who asked for it first.
type node struct {
	*object
	// path as the loader opened it, "" if unknown.
	path   string
	parent *node
}

// search is one run of the loader's algorithm.
type search struct {
	view    *view
	machine machine
	loader  loader
	// known are the names under which something is loaded.
	known map[string]bool
	// objects are the files read so far, loaded those taken, by resolved path.
	objects map[string]read
	loaded  map[string]bool
	targets map[string]bool
	files   []Mount
	opened  []string
}

type read struct {
	*object
	err error
}

// read parses a file once.
func (s *search) read(real string) (*object, error) {
	r, ok := s.objects[real]
	if !ok {
		r.object, r.err = s.view.object(real, s.machine)
		s.objects[real] = r
	}
	return r.object, r.err
}

// loader is what differs between the two.
type loader interface {
	// provides tells whether the loader itself is the library of that name.
	provides(name string) bool
	// find returns the path at which a library without a slash in its name is
	// opened, or errAbsent.
	find(s *search, name string, by *node) (string, error)
}

func (s *search) interpreter(name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name || isReserved(s.view.inside(name)) {
		return &InterpreterError{Path: name, Reason: "is not a usable absolute path"}
	}
	real, err := s.view.file(name)
	if err != nil {
		return &InterpreterError{Path: name, Reason: "does not exist"}
	}
	o, err := s.read(real)
	if err != nil {
		return &InterpreterError{Path: name, Reason: "cannot be used: " + err.Error()}
	}
	s.known[name], s.loaded[real] = true, true
	if o.soname != "" {
		s.known[o.soname] = true
	}
	s.loader = glibc{}
	if strings.HasPrefix(path.Base(name), "ld-musl-") {
		s.loader, err = newMusl(s, name)
	} else {
		s.loader, err = newGlibc(s)
	}
	if err != nil {
		return err
	}
	return s.add(name, real)
}

// add puts a file into the result.
func (s *search) add(opened, real string) error {
	target := s.view.inside(opened)
	if s.targets[target] {
		return nil
	}
	if len(s.files) == MaxFiles {
		return ErrTooMany
	}
	s.targets[target] = true
	s.files = append(s.files, Mount{Target: target, Source: real})
	s.opened = append(s.opened, opened)
	return nil
}

// closure loads breadth first, as both loaders do.
func (s *search) closure(main *node) error {
	for queue := []*node{main}; len(queue) > 0; queue = queue[1:] {
		for _, name := range queue[0].needed {
			if s.known[name] || s.loader.provides(name) {
				continue
			}
			s.known[name] = true
			next, err := s.load(name, queue[0])
			if err != nil {
				return err
			}
			if next != nil {
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// load finds and reads one library. It returns nil for a file that is loaded
// already, under another name.
func (s *search) load(name string, by *node) (*node, error) {
	missing := &MissingLibraryError{Name: name, NeededBy: by.path}
	if missing.NeededBy == "" {
		missing.NeededBy = "the program"
	}
	var opened string
	var err error
	if strings.Contains(name, "/") {
		paths := s.expand(name, by)
		if len(paths) == 0 {
			return nil, missing
		}
		opened = paths[0]
	} else {
		opened, err = s.loader.find(s, name, by)
	}
	if errors.Is(err, errAbsent) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	real, err := s.usable(opened)
	if errors.Is(err, errAbsent) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if err := s.add(opened, real); err != nil {
		return nil, err
	}
	if s.loaded[real] {
		return nil, nil
	}
	o, err := s.read(real)
	if err != nil {
		return nil, &LibraryError{Path: opened, Err: err}
	}
	if o.kind != typeDyn {
		return nil, &LibraryError{Path: opened, Err: errors.New("not a shared library")}
	}
	s.loaded[real] = true
	if o.soname != "" {
		s.known[o.soname] = true
	}
	return &node{object: o, path: opened, parent: by}, nil
}

// usable resolves a path that can be the same inside: it is absolute, and not in a
// directory of the sandbox's own.
func (s *search) usable(opened string) (string, error) {
	if !path.IsAbs(opened) || isReserved(s.view.inside(opened)) {
		return "", errAbsent
	}
	return s.view.file(opened)
}

// candidate tells whether a loader would take the file: one for another machine is
// passed over (glibc's open_verify does, for biarch hosts).
func (s *search) candidate(opened string) (bool, error) {
	real, err := s.usable(opened)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = s.read(real)
	var other *ArchitectureError
	return !errors.As(err, &other), nil
}

// inDirs looks for a name in directories, with the tokens of ld.so(8) expanded for
// the object that holds them.
func (s *search) inDirs(name string, dirs []string, holder *node) (string, error) {
	for _, dir := range dirs {
		for _, d := range s.expand(dir, holder) {
			opened := strings.TrimSuffix(d, "/") + "/" + name
			ok, err := s.candidate(opened)
			if ok || err != nil {
				return opened, err
			}
		}
	}
	return "", errAbsent
}

// expand replaces $ORIGIN, $LIB and $PLATFORM. A directory relative to the working
// directory gives nothing, and one with $ORIGIN none if the origin is not known.
func (s *search) expand(dir string, holder *node) []string {
	if strings.Contains(dir, "$") {
		for _, form := range []string{"${ORIGIN}", "$ORIGIN"} {
			if strings.Contains(dir, form) && holder.path == "" {
				return nil
			}
			dir = strings.ReplaceAll(dir, form, path.Dir(holder.path))
		}
		for _, form := range []string{"${PLATFORM}", "$PLATFORM"} {
			dir = strings.ReplaceAll(dir, form, s.machine.name)
		}
	}
	if !path.IsAbs(dir) || len(dir) > maxName {
		return nil
	}
	if !strings.Contains(dir, "$") {
		return []string{dir}
	}
	var all []string
	for _, lib := range []string{"lib/" + s.machine.triplet, "lib64", "lib"} {
		d := strings.NewReplacer("${LIB}", lib, "$LIB", lib).Replace(dir)
		if !strings.Contains(d, "$") && len(d) <= maxName {
			all = append(all, d)
		}
	}
	return all
}
