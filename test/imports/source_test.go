package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// use is one qualified name in a source file, such as time.Now.
type use struct {
	pkg  string // the import path
	name string
	at   token.Position
}

// uses lists the qualified names of a file.
func uses(t *testing.T, file string, src any) []use {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	imported := make(map[string]string)
	for _, i := range f.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		name := path[strings.LastIndexByte(path, '/')+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		imported[name] = path
	}
	var list []use
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && imported[x.Name] != "" {
			list = append(list, use{pkg: imported[x.Name], name: sel.Sel.Name, at: fset.Position(sel.Pos())})
		}
		return true
	})
	return list
}

// readsClock reports whether a name of package time depends on when it is called.
func readsClock(u use) bool {
	return u.pkg == "time" && slices.Contains([]string{
		"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker",
	}, u.name)
}

// passesDescriptors reports whether a name sends or receives SCM_RIGHTS.
func passesDescriptors(u use) bool {
	return slices.Contains([]string{"golang.org/x/sys/unix", "syscall"}, u.pkg) && slices.Contains([]string{
		"SCM_RIGHTS", "UnixRights", "ParseUnixRights", "MSG_CMSG_CLOEXEC",
	}, u.name)
}

// check reports every forbidden use in a package's non-test sources.
func check(t *testing.T, p listed, forbidden func(use) bool, why string) {
	t.Helper()
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		for _, u := range uses(t, filepath.Join(p.Dir, name), nil) {
			if forbidden(u) {
				t.Errorf("%s: %s.%s: %s", u.at, u.pkg, u.name, why)
			}
		}
	}
}

func TestPureReadsNoClock(t *testing.T) {
	for path, p := range own(t) {
		if withinAny(path, pure) {
			check(t, p, readsClock, "a pure package is told the time")
		}
	}
}

func TestDescriptorsPassInIPCOnly(t *testing.T) {
	for path, p := range own(t) {
		if !within(path, "ipc") && !within(path, "test") {
			check(t, p, passesDescriptors, "descriptors are passed by package ipc only")
		}
	}
}

func TestUsesFinds(t *testing.T) {
	const src = `package p
import (
	clock "time"
	"golang.org/x/sys/unix"
)
var a = clock.Now()
var b = unix.UnixRights(1)
`
	found := uses(t, "p.go", src)
	if len(found) != 2 || !readsClock(found[0]) || !passesDescriptors(found[1]) {
		t.Errorf("found %v", found)
	}
}
