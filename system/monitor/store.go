package monitor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// defaultLimit is what is kept of one service's logs and events, in bytes.
	defaultLimit = 16 << 20
	// minLimit holds the segments that must exist.
	minLimit = 128 << 10
	// maxName bounds a service's name, as the design does.
	maxName = 255
	// maxDeleted bounds the deletions that are remembered.
	maxDeleted = 1024
)

// store keeps the logs and events of all services and gives every record its number.
//
// Lock order: series.mu, then store.mu. A disk that is slow for one service holds up
// that service's writers and readers only: files are written under series.mu.
// Whoever reads the last number S under store.mu and then takes series.mu finds every
// record of that series up to S in its files.
type store struct {
	dir  string
	note note

	mu       sync.Mutex
	limit    int64
	numbers  numbers
	series   map[string]*series
	recent   ring
	watchers map[*watcher]struct{}
	// deleted are the last "deleted" events, which no service's files hold.
	deleted []record
}

// series are the records of one service, from its first to its deletion.
type series struct {
	name, tier string

	mu     sync.Mutex
	gone   bool
	logs   track
	events track
	// lost counts bytes of text that could not be stored since the last remark.
	lost int
	why  error
}

// openStore opens the store in dir, an existing directory; the caller closes it. It
// blocks while another process has it open, for at most wait.
func openStore(dir string, wait time.Duration, note note) (*store, error) {
	st := &store{dir: dir, note: note, numbers: numbers{note: note}, limit: defaultLimit, series: make(map[string]*series), watchers: make(map[*watcher]struct{})}
	known, err := st.numbers.open(dir, wait)
	if err != nil {
		return nil, err
	}
	if err := st.load(); err != nil {
		_ = st.numbers.close()
		return nil, err
	}
	if !known {
		// The numbers in use are found in the files.
		for _, s := range st.series {
			for _, t := range s.tracks() {
				if err := t.check(^uint64(0)); err != nil {
					st.note("check the log of %s: %v", s.name, err)
				}
				st.numbers.last = max(st.numbers.last, t.last)
			}
		}
	}
	st.recent.reset(st.numbers.last)
	return st, nil
}

// init sets up the tracks of a series that has no files.
func (s *series) init(dir string) {
	path, header := filepath.Join(dir, escape(s.name)), encodeHeader(s.name, s.tier)
	s.logs = track{dir: path, prefix: logPrefix, header: header, checked: true}
	s.events = track{dir: path, prefix: eventPrefix, header: header, checked: true}
}

func (s *series) tracks() []*track { return []*track{&s.logs, &s.events} }

// escape makes a file name of a service's name: "/" becomes "+", anything unusual
// "%" and two hex digits.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		case c == '/':
			b.WriteByte('+')
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > 255 { // NAME_MAX
		sum := sha256.Sum256([]byte(name))
		return "~" + hex.EncodeToString(sum[:])
	}
	return b.String()
}

// open returns the series of a service, a new one if there is none. It is nil for a
// name that no service can have.
func (st *store) open(name, tier string) *series {
	if name == "" || len(name) > maxName {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.series[name]
	if s == nil {
		if !slices.Contains(tiers, tier) {
			tier = tiers[0]
		}
		s = &series{name: name, tier: tier}
		s.init(st.dir)
		st.series[name] = s
	}
	return s
}

// remove forgets a service and removes its files. Sources that still write to it
// write to nothing.
func (st *store) remove(name string) {
	st.mu.Lock()
	s := st.series[name]
	delete(st.series, name)
	st.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if err := os.RemoveAll(s.logs.dir); err != nil {
		st.note("remove the log of %s: %v", name, err)
	}
}

// setLimit changes what is kept of each service from the next segment on.
func (st *store) setLimit(n uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.limit = defaultLimit
	if n > 0 {
		st.limit = int64(min(max(n, minLimit), 1<<40))
	}
}

// event stores an event. A service's deletion is kept in memory: it outlives the
// service's files.
func (st *store) event(e *controlv1.ServiceEvent) {
	r := record{
		time: int64(e.GetTimeUnixNano()), kind: kindEvent, instance: clip(e.GetInstance(), maxInstance), text: eventText(e.GetEvent()),
		last: e.GetEvent().GetType() == "deleted",
	}
	if r.time <= 0 {
		r.time = time.Now().UnixNano()
	}
	if !r.last {
		if s := st.open(e.GetService(), e.GetTier()); s != nil {
			st.append(s, []record{r})
		}
		return
	}
	s := &series{name: clip(e.GetService(), maxName), tier: e.GetTier()}
	one := []record{r}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.number(s, one)
	st.deleted = append(st.deleted, one...)
	if n := len(st.deleted) - maxDeleted; n > 0 {
		st.deleted = slices.Delete(st.deleted, 0, n)
	}
}

// append numbers and stores records of one kind of track, and shows them to the
// watchers. It takes the records and their texts over.
func (st *store) append(s *series, records []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || len(records) == 0 {
		return
	}
	st.mu.Lock()
	limit := st.limit
	st.number(s, records)
	most := st.numbers.last
	st.mu.Unlock()
	if err := s.store(records, limit, most); err != nil {
		st.note("%s: %v", s.name, err)
		return
	}
	if s.lost == 0 {
		return
	}
	remark := []record{{
		time: time.Now().UnixNano(), kind: kindSolo,
		text: fmt.Appendf(nil, "%d bytes could not be stored: %v", s.lost, s.why),
	}}
	st.mu.Lock()
	st.number(s, remark)
	most = st.numbers.last
	st.mu.Unlock()
	if s.store(remark, limit, most) == nil {
		s.lost = 0
	}
}

// store writes records to their track and counts what it could not write.
func (s *series) store(records []record, limit int64, most uint64) error {
	// Events have a sixteenth of the space, so that no flood of lines drives them out.
	t, share := &s.logs, limit-eventShare(limit)
	if records[0].kind == kindEvent {
		t, share = &s.events, eventShare(limit)
	}
	err := t.check(most)
	if err != nil {
		s.lose(records, err)
		return err
	}
	n, err := t.append(records, share)
	if err != nil {
		s.lose(records[n:], err)
	}
	return err
}

func (s *series) lose(records []record, err error) {
	for i := range records {
		s.lost += len(records[i].text)
	}
	s.why = err
	var path *fs.PathError
	if errors.As(err, &path) {
		s.why = path.Err // without the file's name
	}
}

func eventShare(limit int64) int64 { return max(limit/16, minSegment+minSegment/2) }

// number gives records their numbers and wakes the watchers. The caller holds st.mu.
func (st *store) number(s *series, records []record) {
	first := st.numbers.take(uint64(len(records)))
	keep := len(st.watchers) > 0
	if !keep {
		st.recent.reset(st.numbers.last)
	}
	for i := range records {
		records[i].series, records[i].sequence = s, first+uint64(i)
		if keep {
			st.recent.push(&records[i])
		}
	}
	for w := range st.watchers {
		if w.filter.match(s.name, s.tier) {
			w.poke()
		}
	}
}

// all are the present series.
func (st *store) all() []*series {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Collect(maps.Values(st.series))
}

// after appends to dst the records that follow number pos, at most a batch; ok is
// false when they are to be read from the files.
func (st *store) after(dst []*record, pos uint64) (_ []*record, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.recent.after(dst, pos, watchBatch)
}

// join makes w a watcher and returns the last number given out before.
func (st *store) join(w *watcher) uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.watchers[w] = struct{}{}
	return st.numbers.last
}

func (st *store) leave(w *watcher) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.watchers, w)
}

// close makes the store ready for the next process.
func (st *store) close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.numbers.close()
}
