package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// maxWatchers bounds how many there are at once; one more is told and closed.
	maxWatchers = 256
	// watchBatch is how many recent records a watcher takes at once.
	watchBatch = 64
)

// wants are kinds of records, as a set.
type wants uint8

const (
	wantLogs wants = 1 << iota
	wantMetrics
	wantEvents
)

var wantNames = map[string]wants{"log": wantLogs, "metric": wantMetrics, "event": wantEvents}

// filter says what a watcher sees: one service by name, whatever its tier, or those
// of users; nothing outside the scope.
type filter struct {
	service, scope string
	kinds          wants
}

func (f filter) match(service, tier string) bool {
	if !strings.HasPrefix(service, f.scope) {
		return false
	}
	if f.service != "" {
		return service == f.service
	}
	return isUser(tier)
}

// isUser says whether a service of that tier was deployed by a user.
func isUser(tier string) bool { return tier == "user" || tier == "" }

// wants reports whether the watcher gets a record.
func (f filter) wants(r *record) bool {
	k := wantLogs
	if r.kind == kindEvent {
		k = wantEvents
	}
	return f.kinds&k != 0 && f.match(r.series.name, r.series.tier)
}

// watcher sends what is stored and what comes to one connection. It keeps no queue:
// it remembers the number it has come to, takes new records from the store's ring
// while it keeps pace, and reads the files while it does not. What is removed from
// them before it comes there is remarked.
type watcher struct {
	filter filter
	follow bool
	since  string

	store *store
	usage *usage
	conn  *ipc.Conn
	wake  chan struct{} // holds one
	// joined is the last number when it joined.
	joined uint64
	// seen is the round of samples sent last.
	seen uint64
}

// newWatcher checks a request. The watcher does not own the connection.
func newWatcher(st *store, u *usage, conn *ipc.Conn, m *controlv1.Watcher) (*watcher, error) {
	r := m.GetRequest()
	w := &watcher{
		store: st, usage: u, conn: conn, wake: make(chan struct{}, 1),
		filter: filter{service: r.GetService(), scope: m.GetScope()}, since: r.GetSince(), follow: !r.GetNoFollow(),
	}
	for _, k := range r.GetKinds() {
		if wantNames[k] == 0 {
			return nil, fmt.Errorf("kinds: %.40q is none of log, metric, event", k)
		}
		w.filter.kinds |= wantNames[k]
	}
	if len(r.GetKinds()) == 0 {
		w.filter.kinds = wantLogs | wantMetrics | wantEvents
	}
	if _, _, err := w.start(0); err != nil {
		return nil, err
	}
	return w, nil
}

// start is the number after which the watcher begins, last being the newest, and
// whether it has seen everything before.
func (w *watcher) start(last uint64) (pos uint64, complete bool, err error) {
	switch w.since {
	case "", "now":
		return last, true, nil
	case "start":
		return 0, false, nil
	}
	pos, err = strconv.ParseUint(w.since, 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("since: %.40q is neither now, start nor a sequence number", w.since)
	}
	return min(pos, last), true, nil
}

// poke wakes the watcher; it never blocks.
func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// join makes now the watcher's now: it misses nothing that comes later.
func (w *watcher) join() {
	w.joined = w.store.join(w)
	if w.filter.kinds&wantMetrics != 0 {
		w.usage.join(w)
	}
}

func (w *watcher) leave() {
	w.usage.leave(w)
	w.store.leave(w)
}

// run sends until the other side closes, ctx ends, or everything was sent that was
// asked for. The watcher has joined.
func (w *watcher) run(ctx context.Context) error {
	pos, complete, err := w.start(w.joined)
	if err != nil {
		return err
	}
	for {
		if pos, err = w.replay(pos, complete); err != nil {
			return err
		}
		complete = true
		done, err := w.live(ctx, &pos)
		if done || err != nil {
			return err
		}
	}
}

// replay sends what is stored after pos and returns how far that was.
func (w *watcher) replay(pos uint64, complete bool) (uint64, error) {
	rd := w.store.read(w.filter, pos, complete)
	for {
		r, err := rd.next()
		if errors.Is(err, io.EOF) {
			return rd.until, nil
		}
		if err == nil {
			err = w.conn.Send(r.message())
		}
		if err != nil {
			return 0, err
		}
	}
}

// live sends what comes after pos, until that is to be read from the files (false) or
// there will be no more (true).
func (w *watcher) live(ctx context.Context, pos *uint64) (done bool, err error) {
	var batch []*record
	for {
		if err := w.sendSamples(*pos); err != nil || !w.follow {
			return true, err
		}
		clear(batch)
		var ok bool
		if batch, ok = w.store.after(batch[:0], *pos); !ok {
			return false, nil
		}
		for _, r := range batch {
			*pos = r.sequence
			if w.filter.wants(r) {
				if err := w.conn.Send(r.message()); err != nil {
					return true, err
				}
			}
			if r.last && r.series.name == w.filter.service && w.filter.match(r.series.name, r.series.tier) {
				return true, nil // the service was deleted
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return true, nil
		}
	}
}

// sendSamples sends the newest sample of each instance, if it was not sent yet. A
// sample bears the number of the record before it, so that a client may go on from
// any number it got.
func (w *watcher) sendSamples(pos uint64) error {
	if w.filter.kinds&wantMetrics == 0 {
		return nil
	}
	var list []*solov1.WatchResponse
	list, w.seen = w.usage.samples(w.filter, w.seen)
	for _, m := range list {
		m.Sequence = pos
		if err := w.conn.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// refuse tells the other side why it gets nothing.
func refuse(conn *ipc.Conn, why error) {
	_ = conn.TrySend(&solov1.WatchResponse{
		Time: timestamppb.New(time.Now()),
		Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "solo", Text: []byte("watch: " + why.Error())}},
	})
}

// watch serves one watcher until it ends. It takes the descriptor over.
func (m *monitor) watch(req *controlv1.Watcher, f *os.File) {
	conn, err := ipc.FileConn(f)
	if err != nil {
		m.note("watcher: %v", err)
		return
	}
	w, err := newWatcher(m.store, m.usage, conn, req)
	if err == nil {
		select {
		case m.slots <- struct{}{}:
		default:
			err = fmt.Errorf("there are %d watchers already", maxWatchers)
		}
	}
	if err != nil {
		refuse(conn, err)
		_ = conn.Close()
		return
	}
	w.join()
	m.work.Go(func() {
		defer func() { w.leave(); <-m.slots }()
		ctx, cancel := context.WithCancel(m.ctx)
		m.work.Go(func() {
			defer cancel()
			// The other side has nothing to say: whatever comes ends the watcher.
			files, _, _ := conn.Receive(&solov1.WatchRequest{})
			files.Close()
		})
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err := w.run(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			m.note("watcher: %v", err)
		}
		stop()
		cancel()
		_ = conn.Close()
	})
}
