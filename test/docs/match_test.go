package docs

import (
	"regexp"
	"strings"
	"testing"
)

// command is one command of a tour and what the document says that it prints.
type command struct {
	line, want string
}

// fenced are the contents of a document's blocks of a kind, between the heading and the
// next of its level.
func fenced(document, heading, kind string) []string {
	_, text, found := strings.Cut(document, "\n## "+heading+"\n")
	if !found {
		return nil
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// commands reads blocks in which "$ " begins a command and what follows is what it
// prints.
func commands(blocks []string) []command {
	var list []command
	for _, b := range blocks {
		for line := range strings.Lines(b) {
			if c, ok := strings.CutPrefix(line, "$ "); ok {
				list = append(list, command{line: strings.TrimSpace(c)})
			} else if len(list) > 0 {
				list[len(list)-1].want += line
			}
		}
	}
	return list
}

var blanks = regexp.MustCompile(`[ \t]+`)

// matches compares an output with a documented one, in which "…" stands for any text
// of a line, and on a line of its own for any lines. Runs of blanks are one blank.
func matches(want, got string) bool {
	normal := func(s string) []string {
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.TrimSpace(blanks.ReplaceAllString(line, " ")))
		}
		return lines
	}
	var pattern strings.Builder
	for _, line := range normal(want) {
		if line == "…" {
			pattern.WriteString(`(?:[^\n]*\n)*`)
			continue
		}
		parts := strings.Split(line, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern.WriteString(strings.Join(parts, `[^\n]*`) + `\n`)
	}
	text := ""
	for _, line := range normal(got) {
		text += line + "\n"
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`).MatchString(text)
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		match     bool
	}{
		{"", "", true},
		{"", "a\n", false},
		{"a\n", "", false},
		{"a\n", "a", true},
		{"a   b\n", "a b  \n", true},
		{"a b\n", "ab\n", false},
		{"a …, b\n", "a 1.5 ms, b\n", true},
		{"a …\n", "a 1\nb\n", false},
		{"…\n", "", true},
		{"…\n", "a\nb\n", true},
		{"a\n…\nz\n", "a\nz\n", true},
		{"a\n…\nz\n", "a\nb\nc\nz\n", true},
		{"a\n…\nz\n", "a\nb\nc\n", false},
		{"a.b\n", "axb\n", false},
	} {
		if matches(c.want, c.got) != c.match {
			t.Errorf("%q and %q: match is %v", c.want, c.got, !c.match)
		}
	}
}

func TestCommands(t *testing.T) {
	const document = "# A\n\n## Tour\ntext\n\n```sh\n$ one\n1\n2\n$ two\n```\n```text\n$ no\n```\n## Next\n```sh\n$ later\n```\n"
	got := commands(fenced(document, "Tour", "sh"))
	if len(got) != 2 || got[0] != (command{"one", "1\n2\n"}) || got[1] != (command{"two", ""}) {
		t.Errorf("found %q", got)
	}
}
