package monitor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// usageFiles is the number of descriptors of a UsageSource.
const usageFiles = 3

// sample is what an instance used at one moment.
type sample struct {
	memory    uint64
	cpuUsec   uint64
	processes uint64
}

// instance is a source of usage. Only the sampler reads the files.
type instance struct {
	service, name, tier string
	v2                  bool
	files               ipc.Files

	// The following are guarded by usage.mu.
	at    time.Time
	last  sample
	round uint64 // of the last sample; 0 before the first
}

type instanceKey struct{ service, instance string }

// usage samples what instances use, and keeps the last sample of each.
type usage struct {
	note note
	// ended is told what an instance that is gone has used. It is called under mu.
	ended func(service string, cpuUsec uint64)

	sampling sync.Mutex // held while files are read; before mu

	mu        sync.Mutex
	instances map[instanceKey]*instance
	round     uint64 // of the last samples
	watchers  map[*watcher]struct{}
	buf       []byte // guarded by sampling
}

func newUsage(note note, ended func(string, uint64)) *usage {
	return &usage{
		note: note, ended: ended, instances: make(map[instanceKey]*instance), watchers: make(map[*watcher]struct{}),
		buf: make([]byte, 4096),
	}
}

// add takes a source over; it replaces one of the same instance.
func (u *usage) add(m *controlv1.UsageSource, files ipc.Files) {
	i := &instance{service: m.GetService(), name: clip(m.GetInstance(), maxInstance), tier: m.GetTier(), v2: m.GetV2(), files: files}
	u.gone(i.service, i.name)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.instances[instanceKey{i.service, i.name}] = i
}

// gone ends a source.
func (u *usage) gone(service, name string) {
	u.end(func(k instanceKey) bool { return k == instanceKey{service, clip(name, maxInstance)} })
}

// serviceGone ends all sources of a service.
func (u *usage) serviceGone(service string) {
	u.end(func(k instanceKey) bool { return k.service == service })
}

func (u *usage) end(which func(instanceKey) bool) {
	u.sampling.Lock() // the files are not being read
	defer u.sampling.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	for k, i := range u.instances {
		if which(k) {
			i.files.Close()
			delete(u.instances, k)
			u.ended(i.service, i.last.cpuUsec)
		}
	}
}

// close ends all sources.
func (u *usage) close() { u.end(func(instanceKey) bool { return true }) }

// sampleAll reads all sources once and wakes the watchers.
func (u *usage) sampleAll(now time.Time) {
	u.sampling.Lock()
	defer u.sampling.Unlock()
	u.mu.Lock()
	list := make([]*instance, 0, len(u.instances))
	for _, i := range u.instances {
		list = append(list, i)
	}
	u.mu.Unlock()
	read := make(map[*instance]sample, len(list))
	for _, i := range list {
		s, err := readSample(i.files, i.v2, u.buf)
		if err == nil {
			read[i] = s
		} else if errors.Is(err, errUsage) {
			u.note("usage of %s: %v", i.service, err)
		} // else the group is gone, and InstanceGone on its way
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.round++
	for i, s := range read {
		s.cpuUsec = max(s.cpuUsec, i.last.cpuUsec)
		i.last, i.at, i.round = s, now, u.round
	}
	for w := range u.watchers {
		w.poke()
	}
}

// errUsage says that a usage file does not read as one.
var errUsage = errors.New("usage file is not understood")

func readSample(files ipc.Files, v2 bool, buf []byte) (s sample, err error) {
	if len(files) != usageFiles {
		return s, fmt.Errorf("%w: %d files", errUsage, len(files))
	}
	key := ""
	if v2 {
		key = "usage_usec"
	}
	if s.memory, err = readNumber(files[0], "", buf); err != nil {
		return s, err
	}
	if s.cpuUsec, err = readNumber(files[1], key, buf); err != nil {
		return s, err
	}
	if !v2 {
		s.cpuUsec /= 1000
	}
	s.processes, err = readNumber(files[2], "", buf)
	return s, err
}

// readNumber reads a file that holds one number or, with a key, lines of a key and a
// number.
func readNumber(f *os.File, key string, buf []byte) (uint64, error) {
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return parseNumber(buf[:n], key)
}

func parseNumber(b []byte, key string) (uint64, error) {
	if key != "" {
		found := false
		for line := range bytes.Lines(b) {
			if k, v, ok := bytes.Cut(line, []byte{' '}); ok && string(k) == key {
				b, found = v, true
				break
			}
		}
		if !found {
			return 0, fmt.Errorf("%w: no %s", errUsage, key)
		}
	}
	n, err := strconv.ParseUint(string(bytes.TrimSuffix(b, []byte{'\n'})), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %.40q is no number", errUsage, b)
	}
	return n, nil
}

func (u *usage) join(w *watcher) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.watchers[w] = struct{}{}
}

func (u *usage) leave(w *watcher) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.watchers, w)
}

// samples are the last samples of the rounds after seen, and the present round.
func (u *usage) samples(f filter, seen uint64) ([]*solov1.WatchResponse, uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if seen == u.round {
		return nil, seen
	}
	var list []*solov1.WatchResponse
	for _, i := range u.instances {
		if i.round <= seen || !f.match(i.service, i.tier) {
			continue
		}
		list = append(list, &solov1.WatchResponse{
			Time: timestamppb.New(i.at), Service: i.service, Instance: i.name,
			Item: &solov1.WatchResponse_Metric{Metric: &solov1.Metric{
				MemoryBytes: i.last.memory, CpuUsec: i.last.cpuUsec, Processes: uint32(min(i.last.processes, 1<<31)),
			}},
		})
	}
	slices.SortFunc(list, func(a, b *solov1.WatchResponse) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return list, u.round
}

// total is what the instances of a service use together.
type total struct {
	sample
	instances int
}

// totals are those of all services with an instance that was sampled.
func (u *usage) totals() map[string]total {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := make(map[string]total)
	for _, i := range u.instances {
		if i.round == 0 {
			continue
		}
		t := all[i.service]
		t.memory += i.last.memory
		t.cpuUsec += i.last.cpuUsec
		t.processes += i.last.processes
		t.instances++
		all[i.service] = t
	}
	return all
}
