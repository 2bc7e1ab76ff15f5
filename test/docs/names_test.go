package docs

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/solo-os/solo/test/testenv"
)

// documents are the texts that are held to the code, relative to the module.
func documents(t testing.TB) []string {
	t.Helper()
	list := []string{"README.md", "ARCHITECTURE.md", "RATIONALE.md", "SECURITY.md", "CONTRIBUTING.md"}
	more, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range more {
		list = append(list, filepath.Join("docs", filepath.Base(path)))
	}
	return list
}

// tree is the module's sources, by path.
type tree struct {
	files map[string]string   // contents of those that are text of ours
	dirs  map[string][]string // the files in each
	bases map[string]bool     // of files
}

func sources(t testing.TB) tree {
	t.Helper()
	tr := tree{map[string]string{}, map[string][]string{}, map[string]bool{}}
	top := root(t)
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "build", ".vagrant"}, name):
			return filepath.SkipDir
		case d.IsDir():
			tr.dirs[name] = []string{}
			return nil
		}
		tr.dirs[filepath.Dir(name)] = append(tr.dirs[filepath.Dir(name)], name)
		tr.bases[d.Name()] = true
		tr.files[name] = ""
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".pb.go") || name == "Makefile" {
			data, err := os.ReadFile(p)
			tr.files[name] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

var (
	span       = regexp.MustCompile("`([^`\n]+)`")
	fence      = regexp.MustCompile("(?ms)^```.*?^```$")
	aPath      = regexp.MustCompile(`^[A-Za-z0-9_.*-]+(/[A-Za-z0-9_.*-]+)*/?$`)
	anIdent    = regexp.MustCompile(`^([a-z0-9]+(?:/[a-z0-9]+)*)\.([A-Za-z_]\w*)$`)
	aTest      = regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w*$`)
	aFlag      = regexp.MustCompile(`^--[a-z-]+$`)
	aMetric    = regexp.MustCompile(`^solo_[a-z_]+$`)
	ourFile    = regexp.MustCompile(`\.(md|go|c|h|proto|ya?ml|sh|py|mod|txt|service|textproto)$|^(Makefile|Vagrantfile|LICENSE)$`)
	target     = regexp.MustCompile(`(?m)^([a-z-]+):`)
	metricName = regexp.MustCompile(`"(solo_[a-z_]+)"`)
)

// missing says what of the tree a span of code names that is not there, or "". What is
// neither a path, a name in a package, a target, a flag nor a metric of ours is nothing
// to look for.
func (tr tree) missing(code string) string {
	words := strings.Fields(code)
	switch ident := anIdent.FindStringSubmatch(code); {
	case words[0] == "make":
		return tr.missingTarget(words[1:])
	case aFlag.MatchString(code):
		if !tr.has("cmd", `"`+code[2:]+`"`) {
			return "no program has the flag"
		}
	case aMetric.MatchString(code):
		if !tr.has("system/monitor", `"`+code+`"`) {
			return "solo-monitor has no such metric"
		}
	case aTest.MatchString(code):
		if !tr.has(".", "\nfunc "+code+"(") {
			return "there is no such test"
		}
	case ourFile.MatchString(code) && !strings.ContainsAny(code, "/ "):
		if !tr.bases[code] {
			return "there is no such file"
		}
	case ident != nil && tr.dirs[ident[1]] != nil:
		return tr.missingIdent(ident[1], ident[2])
	case ident != nil && aTest.MatchString(ident[2]):
		return "there is no such package"
	case aPath.MatchString(code) && strings.Contains(code, "/") && tr.dirs[strings.SplitN(code, "/", 2)[0]] != nil:
		if !tr.exists(code) {
			return "there is no such path"
		}
	}
	return ""
}

func (tr tree) missingTarget(words []string) string {
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(tr.files["Makefile"], -1) {
		targets[m[1]] = true
	}
	for _, w := range words {
		if !strings.Contains(w, "=") && !targets[w] {
			return "the Makefile has no target " + w
		}
	}
	return ""
}

// missingIdent looks for a name, or a test, in the sources of one package.
func (tr tree) missingIdent(dir, name string) string {
	for _, file := range tr.dirs[dir] {
		if aTest.MatchString(name) && strings.Contains(tr.files[file], "\nfunc "+name+"(") ||
			!aTest.MatchString(name) && hasWord(tr.files[file], name) {
			return ""
		}
	}
	return "the package has no such name"
}

// hasWord tells whether a name stands in a text, and not as a part of another.
func hasWord(text, name string) bool {
	part := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for at := 0; ; at++ {
		i := strings.Index(text[at:], name)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(name)
		if (at == 0 || !part(text[at-1])) && (end == len(text) || !part(text[end])) {
			return true
		}
	}
}

func (tr tree) has(dir, text string) bool {
	for file, content := range tr.files {
		if (dir == "." || strings.HasPrefix(file, dir+"/")) && strings.Contains(content, text) {
			return true
		}
	}
	return false
}

// exists looks for a path, in which the last element may be a pattern.
func (tr tree) exists(pattern string) bool {
	name := strings.TrimSuffix(pattern, "/")
	if tr.dirs[name] != nil || name == "bin" || name == "build" {
		return true
	}
	return name == pattern && slices.ContainsFunc(tr.dirs[path.Dir(name)], func(file string) bool {
		ok, err := path.Match(name, file)
		return ok && err == nil
	})
}

func TestNamesExist(t *testing.T) {
	tr := sources(t)
	for _, doc := range documents(t) {
		found := span.FindAllStringSubmatch(fence.ReplaceAllString(read(t, doc), ""), -1)
		if len(found) == 0 {
			t.Errorf("%s names nothing", doc)
		}
		for _, m := range found {
			if why := tr.missing(m[1]); why != "" {
				t.Errorf("%s: `%s`: %s", doc, m[1], why)
			}
		}
	}
}

// TestMissingFinds makes sure that the search above can fail.
func TestMissingFinds(t *testing.T) {
	tr := sources(t)
	for code, there := range map[string]bool{
		"make test": true, "make test RUN=x": true, "make nothing": false, "make test nothing": false,
		"test/docs": true, "test/docs/names_test.go": true, "test/nothing": false, "test/docs/*.go": true, "test/docs/*.c": false,
		"cmd/": true, "Makefile/": true, // nothing of ours is looked for in what is no directory
		"README.md": true, "NOTHING.md": false, "app.py": true, "state.db": true,
		"test/docs.TestNamesExist": true, "test/docs.TestNothing": false, "nothing.TestNothing": false,
		"test/docs.aPath": true, "test/docs.another" + "Path": false,
		"TestNamesExist": true, "TestNothing" + "AtAll": false,
		"--state-dir": true, "--no-such-flag": false, "solo_active_services": true, "solo_nothing": false,
		"/usr/bin/sleep": true, "sandbox step execveat: …": true,
	} {
		if why := tr.missing(code); (why == "") != there {
			t.Errorf("`%s`: %q", code, why)
		}
	}
}

// TestEveryMetricIsDocumented: the table has what solo-monitor serves.
func TestEveryMetricIsDocumented(t *testing.T) {
	doc := read(t, "ARCHITECTURE.md")
	n := 0
	for file, text := range sources(t).files {
		if !strings.HasPrefix(file, "system/monitor/") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range metricName.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(doc, "| `"+m[1]+"` |") {
				t.Errorf("%s has the metric %s, which ARCHITECTURE.md lacks", file, m[1])
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d metrics are found", n)
	}
}

// TestCommandsExist asks solo-ctl for the manual page of every command that is named.
func TestCommandsExist(t *testing.T) {
	ctl := testenv.Binary(t, "solo-ctl")
	word := regexp.MustCompile(`^[a-z-]+$`)
	asked := map[string]bool{}
	for _, doc := range documents(t) {
		text := read(t, doc)
		for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			words := strings.Fields(m[1])
			if words[0] != "solo-ctl" {
				continue
			}
			var name []string
			for _, w := range words[1:] {
				if !word.MatchString(w) || strings.HasPrefix(w, "-") {
					break
				}
				name = append(name, w)
			}
			if asked[strings.Join(name, " ")] {
				continue
			}
			asked[strings.Join(name, " ")] = true
			if out, err := exec.Command(ctl, append([]string{"help"}, name...)...).CombinedOutput(); err != nil {
				t.Errorf("%s: `%s`: %s", doc, m[1], out)
			}
		}
	}
	if len(asked) < 3 {
		t.Errorf("only %d commands are named", len(asked))
	}
}

var link = regexp.MustCompile(`\]\(([^)]+)\)`)

// TestLinks: what a document links to in the repository is there.
func TestLinks(t *testing.T) {
	for _, doc := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || to == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(doc), to)); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
	}
}

// TestDocumentsAreShort: what nobody reads is not true for long.
func TestDocumentsAreShort(t *testing.T) {
	for _, doc := range documents(t) {
		if n := strings.Count(read(t, doc), "\n"); n > 400 {
			t.Errorf("%s has %d lines; 400 is the most", doc, n)
		}
	}
}
