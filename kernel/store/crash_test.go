package store

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/test/testenv"
)

// crashEnv makes the test binary commit to the file it names until it is killed.
const crashEnv = "SOLO_STORE_CRASH"

// crasher says the number of each change that was answered, after the answer. Change n
// writes its number twice: as the record and as a service.
func crasher(path string) {
	s, err := Open(path, time.Now)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	st, err := s.Load()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	n, _ := strconv.Atoi(st.Services["count"].GetServiceId())
	slots := make(chan struct{}, 40)
	for {
		n++
		number := strconv.Itoa(n)
		slots <- struct{}{}
		s.Commit(Change{
			Audit:      []Entry{{Operation: "count", Object: number}},
			PutService: &ServiceChange{"count", record(number)},
		}, func(_ uint64, err error) {
			fmt.Println(number, err)
			<-slots
		})
	}
}

// TestKilledWhileCommitting: after kill -9 at any moment every change that was answered
// is there, in order and whole, and the chain goes on.
func TestKilledWhileCommitting(t *testing.T) {
	rounds := 8
	if testenv.Long() {
		rounds = 200
	}
	random := testenv.Rand(t)
	path := filepath.Join(t.TempDir(), "state.db")
	answered := 0
	for round := range rounds {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for end := answered + 1 + random.IntN(300); lines.Scan(); {
			number, fault, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.Atoi(number)
			if err != nil || fault != "<nil>" {
				t.Fatalf("round %d: %q", round, lines.Text())
			}
			answered = n
			if n == end {
				check(t, cmd.Process.Kill()) // it goes on until the signal arrives
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it ended by itself")
		}

		s, err := Open(path, clock)
		check(t, err)
		st, err := s.Load()
		check(t, err)
		records := verify(t, s, 0, zero)
		for i, r := range records {
			if r.Object != strconv.Itoa(i+1) {
				t.Fatalf("round %d: record %d is of change %s", round, i+1, r.Object)
			}
		}
		if len(records) < answered {
			t.Fatalf("round %d: %d changes answered, %d stored", round, answered, len(records))
		}
		if got := st.Services["count"].GetServiceId(); got != strconv.Itoa(len(records)) {
			t.Fatalf("round %d: the state is of change %s, the record of %d", round, got, len(records))
		}
		if st.Generation != uint64(2*round+2) {
			t.Errorf("round %d: generation %d", round, st.Generation)
		}
		answered = len(records)
		check(t, s.Close())
	}
}
