package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-os/solo/ipc"
)

// plain are n files in the place of sockets: the stock only counts and closes them.
func plain(t interface{ Fatal(...any) }, n int) ipc.Files {
	files := make(ipc.Files, n)
	for i := range files {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	return files
}

func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// now is a context that does not wait.
func now() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestStockAccounts compares a stock with a model of it: every socket is given out
// once or closed, instances take turns, and requests stay within their bounds. In the
// bubble no time passes in which a request would be repeated.
func TestStockAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// rapid asks a *testing.T for its deadline, which a bubble does not have.
		rapid.Check(struct{ testing.TB }{t}, stockAccounts)
	})
}

func stockAccounts(rt *rapid.T) {
	size := rapid.IntRange(1, 80).Draw(rt, "size")
	asked := map[string]int{}
	s := newStock(size, func(name string, n int) {
		if n < 1 || n > maxAsk {
			rt.Fatalf("asked for %d at once", n)
		}
		asked[name] += n
	})
	var all, out ipc.Files
	have := map[string]int{}
	var order []string // as they joined
	next := 0
	defer func() {
		out.Close()
		all.Close()
	}()
	names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	check := func() {
		total := 0
		for _, name := range order {
			total += have[name]
			if n := len(s.find(name).sockets); n != have[name] {
				rt.Fatalf("%s has %d sockets, want %d", name, n, have[name])
			}
			// Nobody waits: never more under way than the stock can hold.
			if n := have[name] + asked[name]; asked[name] > 0 && n > max(size, have[name]) {
				rt.Fatalf("%s has %d and %d are asked for; the stock's size is %d", name, have[name], asked[name], size)
			}
			if have[name]+asked[name] < size/2 {
				rt.Fatalf("%s has %d, only %d are asked for; the stock's size is %d", name, have[name], asked[name], size)
			}
		}
		open := 0
		for _, f := range all {
			if !isClosed(f) {
				open++
			}
		}
		if open != total+len(out) {
			rt.Fatalf("%d files are open, want %d in stock and %d given out", open, total, len(out))
		}
	}
	rt.Repeat(map[string]func(*rapid.T){
		"add": func(rt *rapid.T) {
			name := names.Draw(rt, "instance")
			n := rapid.IntRange(0, 70).Draw(rt, "n")
			if asked[name] > 0 && rapid.Bool().Draw(rt, "as asked") {
				n = min(n, asked[name])
			}
			files := plain(rt, n)
			all = append(all, files...)
			if s.find(name) == nil {
				order = append(order, name)
			}
			asked[name] = max(0, asked[name]-n)
			have[name] = min(maxStock, have[name]+n)
			s.add(name, files)
		},
		"take": func(rt *rapid.T) {
			tried := map[string]bool{}
			for _, name := range order {
				if rapid.IntRange(0, 3).Draw(rt, "tried "+name) == 0 {
					tried[name] = true
				}
			}
			f, name := s.take(now(), tried)
			want := ""
			for i := range order {
				if c := order[(next+i)%len(order)]; !tried[c] && have[c] > 0 {
					want, next = c, (next+i+1)%len(order)
					break
				}
			}
			if name != want || (f == nil) != (want == "") {
				rt.Fatalf("took from %q, want %q", name, want)
			}
			if f != nil {
				have[name]--
				out = append(out, f)
			}
		},
		"remove": func(rt *rapid.T) {
			name := names.Draw(rt, "instance")
			s.remove(name)
			for i, c := range order {
				if c == name {
					order = append(order[:i], order[i+1:]...)
					delete(have, name)
					delete(asked, name)
					break
				}
			}
		},
		"": func(*rapid.T) { check() },
	})
	s.close()
	s.close()
	order = nil
	check()
	late := plain(rt, 2)
	all = append(all, late...)
	s.add("a", late)
	if f, _ := s.take(context.Background(), nil); f != nil {
		rt.Fatal("took a socket of a closed stock")
	}
	check()
}

// TestStockWaiters has more takers than stock: each gets a socket when requests are
// answered, whatever the answers' sizes, and not much more is asked for.
func TestStockWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { rapid.Check(struct{ testing.TB }{t}, stockWaiters) })
}

func stockWaiters(rt *rapid.T) {
	takers := rapid.IntRange(1, 150).Draw(rt, "takers")
	size := rapid.IntRange(1, 64).Draw(rt, "size")
	generous := rapid.Bool().Draw(rt, "answers are whole")
	requests := make(chan int, 10000)
	s := newStock(size, func(_ string, n int) { requests <- n })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := make(chan *os.File, takers)
	for range takers {
		go func() {
			f, _ := s.take(ctx, nil)
			got <- f
		}()
	}
	s.add("a", nil)
	start, delivered := time.Now(), 0
	for n := 0; n < takers; {
		select {
		case k := <-requests:
			delivered += k
			if !generous {
				// Part now, the rest later: two messages for one request.
				s.add("a", plain(rt, k/2))
				k -= k / 2
			}
			s.add("a", plain(rt, k))
		case f := <-got:
			if f == nil {
				rt.Fatalf("taker %d of %d got none, %d were delivered", n, takers, delivered)
			}
			_ = f.Close()
			n++
		}
	}
	if time.Since(start) != 0 {
		rt.Fatal("a request was made only when it was time to repeat it")
	}
	if delivered > 2*takers+size {
		rt.Fatalf("%d sockets were asked for by %d takers and a stock of %d", delivered, takers, size)
	}
	s.close()
}

// TestStockAsksAgain loses a request: it is repeated after a while, not at once. The
// clock is the bubble's.
func TestStockAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asks []string
		s := newStock(4, func(name string, n int) { asks = append(asks, fmt.Sprint(name, n)) })
		s.add("a", nil)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*askAgain)
		defer cancel()
		if f, _ := s.take(ctx, nil); f != nil {
			t.Error("took a socket that never came")
		}
		if time.Since(start) != 3*askAgain {
			t.Errorf("waited %v, want %v", time.Since(start), 3*askAgain)
		}
		if len(asks) != 3 {
			t.Errorf("asked %v in %v, want three times", asks, 3*askAgain)
		}
		// Nobody waits: nothing is asked for any more.
		time.Sleep(10 * askAgain)
		if len(asks) != 3 {
			t.Errorf("asked %v", asks)
		}
		s.close()
	})
}

// TestStockWakes has a taker that waits while things change under it.
func TestStockWakes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *stock)
		want   string
	}{
		{"sockets come", func(s *stock) { s.add("b", plain(t, 1)) }, "b"},
		{"a new instance comes", func(s *stock) { s.add("c", plain(t, 1)) }, "c"},
		{"the last untried instance goes", func(s *stock) { s.remove("b") }, ""},
		{"the stock is closed", func(s *stock) { s.close() }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStock(4, func(string, int) {})
				s.add("a", plain(t, 1))
				s.add("b", nil)
				start := time.Now()
				done := make(chan string)
				go func() {
					f, name := s.take(t.Context(), map[string]bool{"a": true})
					if f != nil {
						_ = f.Close()
					}
					done <- name
				}()
				synctest.Wait()
				c.change(s)
				if got := <-done; got != c.want || time.Since(start) != 0 {
					t.Errorf("got %q after %v, want %q at once", got, time.Since(start), c.want)
				}
				s.close()
			})
		})
	}
}
