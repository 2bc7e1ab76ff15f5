package decode

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if h, err := harnessOnce(); err == nil {
		_ = h.in.Close()
		_ = h.process.Wait()
		_ = os.RemoveAll(h.dir)
	}
	os.Exit(code)
}

// harness is the C decoder as a process that lives as long as the tests.
type harness struct {
	dir     string
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	mu      sync.Mutex
}

var harnessOnce = sync.OnceValues(func() (*harness, error) {
	dir, err := os.MkdirTemp("", "solo-decode-test-")
	if err != nil {
		return nil, err
	}
	h := &harness{dir: dir}
	program := filepath.Join(dir, "harness")
	// glibc: musl has no sanitizers. The decoder uses neither's peculiarities.
	build := exec.Command("gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
		"-fno-sanitize-recover=all", "-o", program, "testdata/harness.c", "../order.c", "../pb.c")
	if out, err := build.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	h.process = exec.Command(program)
	h.process.Stderr = os.Stderr
	if h.in, err = h.process.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReaderSize(out, 1<<20)
	return h, h.process.Start()
})

func newHarness(t testing.TB) *harness {
	t.Helper()
	h, err := harnessOnce()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// decode lets the C decoder decode a record.
func (h *harness) decode(record []byte) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.in.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(record))), record...)); err != nil {
		return "", err
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the decoder died: %w", err)
	}
	return line[:len(line)-1], nil
}

// check compares the C decoder with the model and tells whether both accept.
func (h *harness) check(t testing.TB, record []byte) bool {
	t.Helper()
	got, err := h.decode(record)
	if err != nil {
		t.Fatalf("%x: %v", record, err)
	}
	if want := decode(record); got != want {
		t.Fatalf("%x:\nC        %.2000s\nprotobuf %.2000s", record, got, want)
	}
	return got != reject
}

func lease(l *controlv1.Lease) *controlv1.InitOrder {
	return &controlv1.InitOrder{Order: &controlv1.InitOrder_Lease{Lease: l}}
}

func fullLease() *controlv1.Lease {
	return &controlv1.Lease{
		Program: []byte("/app/x"), Argv: [][]byte{[]byte("x"), nil, []byte("two words")}, Env: [][]byte{[]byte("A=\xff")}, Cwd: []byte("/tmp"),
		Mounts:      []*controlv1.LeaseMount{{Target: []byte("/tmp"), Directory: true}, {Target: []byte("/f")}},
		Files:       []*controlv1.LeaseFile{{Path: []byte("/app/x"), Mode: 0o555}},
		Directories: [][]byte{[]byte("/d")},
		Rlimits:     []*controlv1.Rlimit{{Resource: 7, Soft: 1024, Hard: math.MaxUint64}},
		Uid:         1000, Gid: 1000, LandlockFs: 0x7fff, LandlockScoped: 3,
		LandlockRules: []*controlv1.LandlockRule{{Path: []byte("/"), Access: 13}},
		Floor:         []byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, Filter: []byte{32, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 128},
		Descriptors: 2, ListenFds: 1,
	}
}

// orders are one of each kind, all acceptable.
func orders() []*controlv1.InitOrder {
	return []*controlv1.InitOrder{
		lease(fullLease()),
		{Order: &controlv1.InitOrder_Release{Release: &controlv1.Release{}}},
		{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: 15, All: true}}},
		{Order: &controlv1.InitOrder_MakeSockets{MakeSockets: &controlv1.MakeSockets{Id: math.MaxUint64, Family: 2, Type: 1, N: 64}}},
		{Order: &controlv1.InitOrder_Listen{Listen: &controlv1.Listen{Id: 1, Address: 0x7f000001, Port: 80}}},
		{Order: &controlv1.InitOrder_Exec{Exec: &controlv1.ExecOrder{Id: 2, Argv: [][]byte{[]byte("/bin/true"), nil}, TimeoutMs: 1000}}},
		{Order: &controlv1.InitOrder_MainPid{MainPid: &controlv1.MainPid{Pid: math.MaxInt32}}},
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// TestLimits takes each limit of order.h exactly and one more.
func TestLimits(t *testing.T) {
	h := newHarness(t)
	for _, o := range orders() {
		if !h.check(t, marshal(t, o)) {
			t.Errorf("rejected: %v", o)
		}
	}
	for _, c := range []struct {
		name  string
		limit int
		set   func(l *controlv1.Lease, n int)
	}{
		{"argv", maxStrings, func(l *controlv1.Lease, n int) { l.Argv = repeat([]byte("a"), n) }},
		{"env", maxStrings, func(l *controlv1.Lease, n int) { l.Env = repeat([]byte(nil), n) }},
		{"mounts", maxFDs - 6, func(l *controlv1.Lease, n int) { l.Mounts = repeat(&controlv1.LeaseMount{}, n) }},
		{"files", maxFDs - 7, func(l *controlv1.Lease, n int) { l.Files = repeat(&controlv1.LeaseFile{}, n) }},
		{"descriptors", maxFDs - 6, func(l *controlv1.Lease, n int) { l.Descriptors = uint32(n) }},
		{"listen_fds", 2, func(l *controlv1.Lease, n int) { l.ListenFds = uint32(n) }},
		{"directories", maxDirectories, func(l *controlv1.Lease, n int) { l.Directories = repeat([]byte("/d"), n) }},
		{"rlimits", maxRlimits, func(l *controlv1.Lease, n int) { l.Rlimits = repeat(&controlv1.Rlimit{}, n) }},
		{"rlimit", 64, func(l *controlv1.Lease, n int) { l.Rlimits[0].Resource = uint32(n) }},
		{"mode", 0o777, func(l *controlv1.Lease, n int) { l.Files[0].Mode = uint32(n) }},
		{"rules", maxRules, func(l *controlv1.Lease, n int) { l.LandlockRules = repeat(&controlv1.LandlockRule{}, n) }},
		{"filter", 4096, func(l *controlv1.Lease, n int) { l.Filter = make([]byte, 8*n) }},
	} {
		for n, want := range map[int]bool{c.limit: true, c.limit + 1: false} {
			l := fullLease()
			c.set(l, n)
			if h.check(t, marshal(t, lease(l))) != want {
				t.Errorf("%s: %d accepted is %v", c.name, n, !want)
			}
		}
	}
	for name, change := range map[string]func(l *controlv1.Lease){
		"no program":        func(l *controlv1.Lease) { l.Program = nil },
		"no argv":           func(l *controlv1.Lease) { l.Argv = nil },
		"null in program":   func(l *controlv1.Lease) { l.Program = []byte("/a\x00b") },
		"null in argv":      func(l *controlv1.Lease) { l.Argv[0] = []byte{0} },
		"null in a path":    func(l *controlv1.Lease) { l.Mounts[0].Target = []byte{0} },
		"uid 0":             func(l *controlv1.Lease) { l.Uid = 0 },
		"gid 0":             func(l *controlv1.Lease) { l.Gid = 0 },
		"no floor":          func(l *controlv1.Lease) { l.Floor = nil },
		"no filter":         func(l *controlv1.Lease) { l.Filter = nil },
		"half instruction":  func(l *controlv1.Lease) { l.Filter = l.Filter[:12] },
		"many descriptors":  func(l *controlv1.Lease) { l.Descriptors = math.MaxUint32 },
		"an unknown field":  func(l *controlv1.Lease) { l.ProtoReflect().SetUnknown([]byte{0x90, 0x01, 0}) },
		"unknown in a rule": func(l *controlv1.Lease) { l.LandlockRules[0].ProtoReflect().SetUnknown([]byte{0x18, 0}) },
	} {
		l := fullLease()
		change(l)
		if h.check(t, marshal(t, lease(l))) {
			t.Errorf("%s: accepted", name)
		}
	}
}

// mutate changes a record in a few places.
func mutate(r *rand.Rand, record, other []byte) []byte {
	b := append([]byte(nil), record...)
	for range 1 + r.IntN(3) {
		i := r.IntN(len(b) + 1)
		j := i + r.IntN(len(b)-i+1)
		switch r.IntN(7) {
		case 0: // flip a bit
			if i < len(b) {
				b[i] ^= 1 << r.IntN(8)
			}
		case 1: // cut
			b = b[:i]
		case 2: // remove a piece
			b = append(b[:i:i], b[j:]...)
		case 3: // repeat a piece
			b = append(b[:j:j], b[i:]...)
		case 4: // a varint anywhere
			b = append(protowire.AppendVarint(b[:i:i], r.Uint64()>>r.IntN(64)), b[i:]...)
		case 5: // a field anywhere
			field := protowire.AppendTag(nil, protowire.Number(1+r.IntN(18)), protowire.Type(r.IntN(6)))
			b = append(append(b[:i:i], protowire.AppendVarint(field, r.Uint64()>>r.IntN(64))...), b[i:]...)
		case 6: // the rest of another record
			b = append(b[:i:i], other[min(j, len(other)):]...)
		}
	}
	return b
}

// reframe makes the outer length right again, so that a change inside is looked at.
func reframe(b []byte) []byte {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || typ != protowire.BytesType {
		return b
	}
	_, m := protowire.ConsumeVarint(b[n:])
	if m < 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, num, typ), b[n+m:])
}

func TestMutations(t *testing.T) {
	h, r := newHarness(t), testenv.Rand(t)
	rounds := 20_000
	if testenv.Long() {
		rounds *= 50
	}
	var records [][]byte
	for _, o := range orders() {
		records = append(records, marshal(t, o))
	}
	accepted := 0
	for range rounds {
		b := mutate(r, records[r.IntN(len(records))], records[r.IntN(len(records))])
		if r.IntN(2) == 0 {
			b = reframe(b)
		}
		if len(b) <= 64<<10 && h.check(t, b) {
			accepted++
			// Grow from what is still acceptable, but not without end.
			if len(records) < 500 && len(b) < 4<<10 {
				records = append(records, b)
			}
		}
	}
	if accepted < rounds/100 || accepted > rounds*99/100 {
		t.Errorf("%d of %d records accepted: the mutations test one side only", accepted, rounds)
	}
}

func FuzzDecode(f *testing.F) {
	for _, o := range orders() {
		f.Add(marshal(f, o))
	}
	f.Add([]byte(nil))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	h := newHarness(f)
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) <= 64<<10 {
			h.check(t, record)
		}
	})
}
