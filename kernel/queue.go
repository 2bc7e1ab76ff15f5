package kernel

import "sync"

// queue holds the owner's events in order. It has no bound of its own: whoever could
// be flooded by a peer uses Kernel.do, which waits.
type queue struct {
	wake chan struct{}

	mu     sync.Mutex
	events []func()
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) put(event func()) {
	q.mu.Lock()
	q.events = append(q.events, event)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	events := q.events
	q.events = nil
	return events
}
