package network

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/solo-os/solo/ipc"
)

const (
	// maxAsk is the most sockets asked for at once.
	maxAsk = 64
	// askAgain is when a request that brought nothing is repeated.
	askAgain = time.Second
	// maxStock is the most sockets kept for one instance whatever is sent.
	maxStock = 1024
)

// stock holds the unconnected sockets of the instances behind one port.
type stock struct {
	size int
	// ask requests n sockets of an instance. It may block and is called unlocked.
	ask func(instance string, n int)

	mu        sync.Mutex
	instances []*instance
	turn      int
	waiting   int
	closed    bool
	changed   chan struct{} // closed and replaced when sockets arrive or instances go
}

// instance is one instance of the service.
type instance struct {
	name    string
	sockets ipc.Files
	asked   int
	askedAt time.Time
}

func newStock(size int, ask func(string, int)) *stock {
	return &stock{size: size, ask: ask, changed: make(chan struct{})}
}

// add takes sockets of an instance over; the first ones announce the instance.
func (s *stock) add(name string, sockets ipc.Files) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		sockets.Close()
		return
	}
	in := s.find(name)
	if in == nil {
		in = &instance{name: name}
		s.instances = append(s.instances, in)
	}
	in.asked = max(0, in.asked-len(sockets))
	if room := max(0, maxStock-len(in.sockets)); len(sockets) > room {
		sockets[room:].Close()
		sockets = sockets[:room]
	}
	in.sockets = append(in.sockets, sockets...)
	s.wake()
	n := s.missing(in)
	s.mu.Unlock()
	if n > 0 {
		s.ask(name, n)
	}
}

// remove forgets an instance and closes its sockets.
func (s *stock) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, in := range s.instances {
		if in.name == name {
			s.instances = append(s.instances[:i], s.instances[i+1:]...)
			in.sockets.Close()
			s.wake()
			return
		}
	}
}

// wake lets those who wait look again.
func (s *stock) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stock) find(name string) *instance {
	for _, in := range s.instances {
		if in.name == name {
			return in
		}
	}
	return nil
}

// missing says how many sockets to ask for now, and notes that they were. It aims at a
// full stock beside what those who wait will take, and asks when half of that is gone.
func (s *stock) missing(in *instance) int {
	if in.asked > 0 && time.Since(in.askedAt) > askAgain {
		in.asked = 0
	}
	have := len(in.sockets) + in.asked
	if have >= s.size/2+s.waiting {
		return 0
	}
	n := min(maxAsk, s.size+s.waiting-have)
	in.asked += n
	in.askedAt = time.Now()
	return n
}

// take returns a socket of the next instance in turn that is not in tried, and the
// instance's name. It waits for one until ctx ends; then, and when every instance
// has been tried, or the stock is closed, it returns nil. The caller owns the socket.
func (s *stock) take(ctx context.Context, tried map[string]bool) (*os.File, string) {
	waiting := false
	for {
		s.mu.Lock()
		if waiting {
			s.waiting--
			waiting = false
		}
		if s.closed || (len(tried) > 0 && !s.untried(tried)) {
			s.mu.Unlock()
			return nil, ""
		}
		f, name := s.next(tried)
		if f == nil && ctx.Err() == nil {
			waiting = true
			s.waiting++
		}
		asks := s.asks(tried)
		changed := s.changed
		s.mu.Unlock()
		for _, a := range asks {
			s.ask(a.name, a.n)
		}
		if !waiting {
			return f, name
		}
		again := time.NewTimer(askAgain + askAgain/10)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

type ask struct {
	name string
	n    int
}

func (s *stock) untried(tried map[string]bool) bool {
	for _, in := range s.instances {
		if !tried[in.name] {
			return true
		}
	}
	return false
}

// next takes a socket of the next instance in turn that has one.
func (s *stock) next(tried map[string]bool) (*os.File, string) {
	for i := range s.instances {
		in := s.instances[(s.turn+i)%len(s.instances)]
		n := len(in.sockets)
		if tried[in.name] || n == 0 {
			continue
		}
		f := in.sockets[n-1]
		in.sockets[n-1] = nil
		in.sockets = in.sockets[:n-1]
		s.turn = (s.turn + i + 1) % len(s.instances)
		return f, in.name
	}
	return nil, ""
}

// asks says what to ask for now.
func (s *stock) asks(tried map[string]bool) []ask {
	var list []ask
	for _, in := range s.instances {
		if tried[in.name] {
			continue
		}
		if n := s.missing(in); n > 0 {
			list = append(list, ask{in.name, n})
		}
	}
	return list
}

// close closes all sockets; waiters return.
func (s *stock) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, in := range s.instances {
		in.sockets.Close()
	}
	s.instances = nil
	s.wake()
}
