package root

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// Options are solod's flags.
type Options struct {
	StateDir   string
	RunDir     string
	Listen     string // TCP address, or empty
	CgroupRoot string // empty for the default
	IDBase     uint64 // 0 for the default
	Config     string // file, or empty
	Version    string
}

// Validate completes the options and says what is wrong with their form; it looks at
// no file.
func (o *Options) Validate() error {
	for _, dir := range []struct {
		flag string
		path *string
	}{{"--state-dir", &o.StateDir}, {"--run-dir", &o.RunDir}} {
		if *dir.path == "" {
			return fmt.Errorf("%s is empty: give a directory", dir.flag)
		}
		abs, err := filepath.Abs(*dir.path)
		if err != nil {
			return fmt.Errorf("%s %q: %w", dir.flag, *dir.path, err)
		}
		*dir.path = abs
	}
	if n := len(o.RunDir + "/metrics.sock"); n > maxSocketPath {
		return fmt.Errorf("--run-dir %s: a socket's path in it has %d bytes, the system's limit is %d: choose a shorter one", o.RunDir, n, maxSocketPath)
	}
	if c := o.CgroupRoot; c != "" && (!path.IsAbs(c) || c == "/" || path.Clean(c) != c) {
		return fmt.Errorf("--cgroup-root %q is not a clean absolute path below /: give one such as /solo-a", c)
	}
	if b := o.IDBase; b%idsPerRange != 0 || b > lastBase {
		return fmt.Errorf("--id-base %d: give a multiple of %d, at most %d", b, idsPerRange, lastBase)
	}
	_, err := parseListen(o.Listen)
	return err
}

// parseListen reads HOST:PORT without asking a name server. The zero value is no
// address.
func parseListen(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + port
	} else if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Addr().Zone() != "" {
		return a, fmt.Errorf("--listen %q: give an IP address and a port, such as 127.0.0.1:50051", s)
	}
	return a, nil
}

// maxConfig bounds the file: it travels to the kernel in one message.
const maxConfig = 32 << 10

// readConfig reads the operator's file; without one everything has its default.
func readConfig(file string) (*controlv1.Config, error) {
	if file == "" {
		return &controlv1.Config{}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read --config: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read --config: %w", err)
	case len(text) > maxConfig:
		return nil, fmt.Errorf("config %s: over %d bytes", file, maxConfig)
	}
	c, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", file, err)
	}
	return c, nil
}

func parseConfig(text []byte) (*controlv1.Config, error) {
	c := &controlv1.Config{}
	if err := prototext.Unmarshal(text, c); err != nil {
		// The library varies its spaces so that nobody compares its texts.
		what := strings.ReplaceAll(err.Error(), "\u00a0", " ")
		return nil, errors.New(strings.TrimPrefix(what, "proto: "))
	}
	for _, dirs := range []struct {
		field string
		paths []string
	}{{"binary_paths", c.GetBinaryPaths()}, {"runtime_paths", c.GetRuntimePaths()}} {
		for _, p := range dirs.paths {
			if !path.IsAbs(p) || path.Clean(p) != p || bytes.ContainsRune([]byte(p), 0) {
				return nil, fmt.Errorf("%s: %q is not a clean absolute path", dirs.field, p)
			}
		}
	}
	for _, n := range []struct {
		field           string
		value, min, max int64
	}{
		{"pool_size", int64(c.GetPoolSize()), -1, 256},
		{"max_upload_bytes", int64(min(c.GetMaxUploadBytes(), 1<<62)), 0, 4 << 30},
		{"log_bytes_per_service", int64(min(c.GetLogBytesPerService(), 1<<62)), 0, 1 << 40},
		{"max_services", int64(c.GetMaxServices()), 0, 100_000},
		{"usage_interval_ms", int64(c.GetUsageIntervalMs()), 0, 3_600_000},
	} {
		if n.value < n.min || n.value > n.max {
			return nil, fmt.Errorf("%s: %d is not between %d and %d", n.field, n.value, n.min, n.max)
		}
	}
	return c, nil
}
