package root

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

func TestValidate(t *testing.T) {
	ok := Options{StateDir: "/s", RunDir: "/r"}
	for _, c := range []struct {
		name   string
		change func(*Options)
		// want is part of the error, or empty.
		want string
	}{
		{"minimal", func(*Options) {}, ""},
		{"no state", func(o *Options) { o.StateDir = "" }, "--state-dir"},
		{"no run", func(o *Options) { o.RunDir = "" }, "--run-dir"},
		{"longest run", func(o *Options) { o.RunDir = "/" + strings.Repeat("r", 93) }, ""},
		{"long run", func(o *Options) { o.RunDir = "/" + strings.Repeat("r", 94) }, "at most 94 bytes"},
		{"cgroup", func(o *Options) { o.CgroupRoot = "/solo-a/b" }, ""},
		{"relative cgroup", func(o *Options) { o.CgroupRoot = "solo" }, "--cgroup-root"},
		{"root cgroup", func(o *Options) { o.CgroupRoot = "/" }, "--cgroup-root"},
		{"unclean cgroup", func(o *Options) { o.CgroupRoot = "/solo/../x" }, "--cgroup-root"},
		{"ids", func(o *Options) { o.IDBase = 65536 }, ""},
		{"odd ids", func(o *Options) { o.IDBase = 65537 }, "--id-base 65537: give a multiple of 65536"},
		{"last ids", func(o *Options) { o.IDBase = 1<<32 - 2<<16 }, ""},
		{"the invalid id", func(o *Options) { o.IDBase = 1<<32 - 1<<16 }, "at most 4294836224"},
		{"ids beyond", func(o *Options) { o.IDBase = 1 << 32 }, "--id-base"},
		{"listen", func(o *Options) { o.Listen = "127.0.0.1:50051" }, ""},
		{"listen v6", func(o *Options) { o.Listen = "[::1]:50051" }, ""},
		{"listen localhost", func(o *Options) { o.Listen = "localhost:1" }, ""},
		{"listen name", func(o *Options) { o.Listen = "example.org:1" }, "--listen"},
		{"listen without port", func(o *Options) { o.Listen = "127.0.0.1" }, "--listen"},
		{"listen without host", func(o *Options) { o.Listen = ":1" }, "--listen"},
		{"listen zone", func(o *Options) { o.Listen = "[fe80::1%lo]:1" }, "--listen"},
		{"listen port", func(o *Options) { o.Listen = "127.0.0.1:65536" }, "--listen"},
	} {
		o := ok
		c.change(&o)
		err := o.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestValidateMakesAbsolute(t *testing.T) {
	t.Chdir("/")
	o := Options{StateDir: "s/../state", RunDir: "run/"}
	if err := o.Validate(); err != nil || o.StateDir != "/state" || o.RunDir != "/run" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestReadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	for _, c := range []struct {
		name, text string
		want       *controlv1.Config
		refused    string
	}{
		{"empty", "", &controlv1.Config{}, ""},
		{"all", `binary_paths: "/opt" binary_paths: "/srv/bin" runtime_paths: "/etc/r" pool_size: -1
			max_upload_bytes: 1 log_bytes_per_service: 2 max_services: 3 usage_interval_ms: 4 # done`,
			&controlv1.Config{BinaryPaths: []string{"/opt", "/srv/bin"}, RuntimePaths: []string{"/etc/r"}, PoolSize: -1,
				MaxUploadBytes: 1, LogBytesPerService: 2, MaxServices: 3, UsageIntervalMs: 4}, ""},
		{"unknown field", "pool: 3", nil, "(line 1:1): unknown field: pool"},
		{"wrong type", "\n pool_size: \"x\"", nil, `(line 2:13): invalid value for int32 type: "x" in " pool_size: \"x\""`},
		{"negative", "max_services: -1", nil, `-1 in "max_services: -1"`},
		{"twice", "pool_size: 1 pool_size: 2", nil, "pool_size"},
		{"no protobuf", "{", nil, "line 1"},
		{"pool small", "pool_size: -2", nil, "pool_size: -2 is not between -1 and 256"},
		{"pool large", "pool_size: 257", nil, "pool_size: 257 is not between -1 and 256"},
		{"relative path", `binary_paths: "opt"`, nil, `binary_paths: "opt" is not a clean absolute path`},
		{"unclean path", `runtime_paths: "/a/../b"`, nil, `runtime_paths: "/a/../b" is not a clean absolute path`},
		{"too long", "#" + strings.Repeat("x", 32<<10), nil, "file too large"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := &root{Options: Options{Config: file}, boot: &controlv1.Boot{}}
		err := r.readConfig()
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: %v, want %q and the file's name", c.name, err, c.refused)
			}
			continue
		}
		if diff := cmp.Diff(c.want, r.boot.GetConfig(), protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
	}
}

// FuzzReadConfig: whatever the file holds, the answer is a config within its bounds or
// an error of one line that names the file.
func FuzzReadConfig(f *testing.F) {
	for _, seed := range []string{"", "pool_size: 3", "pool_size: -2", "binary_paths: '/x'\nx", "{\n\n", "\n\n\"", "#\r\n<>", "\xff"} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "config")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &root{Options: Options{Config: file}, boot: &controlv1.Boot{}}
		err := r.readConfig()
		if n := r.boot.GetConfig().GetPoolSize(); err == nil && (n < -1 || n > 256) {
			t.Errorf("pool_size %d is accepted", n)
		}
		if err != nil && (!strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("error %q", err)
		}
	})
}
