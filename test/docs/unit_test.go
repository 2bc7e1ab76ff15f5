package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/test/testenv"
)

// TestUnit reads docs/solo.service: what solod relies on is there, solod knows its
// flags, and systemd, where there is one, knows every key.
func TestUnit(t *testing.T) {
	text := read(t, "docs/solo.service")
	settings, section := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		case !ok:
			t.Errorf("line %q is no setting", line)
		default:
			settings[section+key] = value
		}
	}
	// The group is solod's; READY comes from it; SIGTERM goes to it alone, and its own
	// stop takes up to 30 seconds for services, 15 for the kernel and 5 for the launcher.
	want := map[string]string{
		"[Service]Type": "notify", "[Service]Delegate": "yes", "[Service]KillMode": "mixed", "[Service]TimeoutStopSec": "90",
		"[Service]StateDirectory": "solo", "[Service]StateDirectoryMode": "0700", "[Service]RuntimeDirectory": "solo",
		"[Install]WantedBy": "multi-user.target",
	}
	got := map[string]string{}
	for key := range want {
		got[key] = settings[key]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the unit (-want +got):\n%s", diff)
	}

	solod := testenv.Binary(t, "solod")
	command := strings.Fields(settings["[Service]ExecStart"])
	if len(command) == 0 || command[0] != "/usr/local/bin/solod" {
		t.Fatalf("it starts %q, and make install puts solod into /usr/local/bin", command)
	}
	if out, err := exec.Command(solod, append(command[1:], "--version")...).CombinedOutput(); err != nil {
		t.Errorf("solod does not take %q: %s", command[1:], out)
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // the rest needs one
	}
	file := filepath.Join(t.TempDir(), "solo.service")
	if err := os.WriteFile(file, []byte(strings.Replace(text, command[0], solod, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	// It answers 0 to a key that it does not know, and says so.
	out, err := exec.Command(analyze, "verify", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), file) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
