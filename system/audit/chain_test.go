package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func line(number any, prev string) []byte {
	return fmt.Appendf(nil, `{"number":%v,"op":"deploy","prev":%q}`, number, prev)
}

var zeros = strings.Repeat("00", HashSize)

func TestChainTakesTheKernelsRecords(t *testing.T) {
	records := kernelRecords(t, some(50)...)
	var c Chain
	prev := make([]byte, HashSize)
	for i, r := range records {
		check(t, c.Next(r.GetLine()))
		// By the definition in the protocol, not by this package.
		want := sha256.Sum256(append(prev, r.GetLine()...))
		if c.Count != uint64(i)+1 || c.Head != want || !bytes.Equal(r.GetHash(), want[:]) {
			t.Fatalf("record %d: chain %d %x, the kernel's hash %x, want %x", i+1, c.Count, c.Head, r.GetHash(), want)
		}
		sum, err := Hash(r.GetLine())
		check(t, err)
		if sum != want {
			t.Fatalf("record %d alone: %x, want %x", i+1, sum, want)
		}
		prev = want[:]
	}
}

func TestChainRefuses(t *testing.T) {
	head := sha256.Sum256(nil)
	at := Chain{Count: 4, Head: head}
	good := line(5, hex.EncodeToString(head[:]))
	long := bytes.Replace(good, []byte("deploy"), bytes.Repeat([]byte("x"), maxLine-len(good)+6), 1)
	for _, c := range []struct {
		name string
		line []byte
		want string
	}{
		{"the next record", good, ""},
		{"the longest line", long, ""},
		{"one byte longer", append([]byte(" "), long...), "line is longer than"},
		{"number before", line(4, hex.EncodeToString(head[:])), "the line says number 4"},
		{"number after", line(6, hex.EncodeToString(head[:])), "the line says number 6"},
		{"another hash", line(5, zeros), "the line names another previous hash"},
		{"short hash", line(5, zeros[2:]), "is not one"},
		{"long hash", line(5, zeros+"00"), "is not one"},
		{"not hex", line(5, "x"+zeros[1:]), "is not one"},
		{"negative", line(-5, zeros), "not a JSON record"},
		{"fraction", line("5.0", zeros), "not a JSON record"},
		{"over 64 bits", line("18446744073709551616", zeros), "not a JSON record"},
		{"number as text", line(`"5"`, zeros), "not a JSON record"},
		{"no number", []byte(`{"prev":"` + hex.EncodeToString(head[:]) + `"}`), "the line says number 0"},
		{"no hash", []byte(`{"number":5}`), "is not one"},
		{"place inside a detail", []byte(`{"detail":` + string(good) + `}`), "is not one"},
		{"empty", nil, "not a JSON record"},
		{"array", []byte("[]"), "not a JSON record"},
		{"cut", good[:len(good)-1], "not a JSON record"},
		{"two records", append(bytes.Clone(good), good...), "not a JSON record"},
		{"newline", append(bytes.Clone(good), '\n'), "newline"},
		{"not text", bytes.Replace(good, []byte("deploy"), []byte("\xff"), 1), "not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain := at
			err := chain.Next(c.line)
			if c.want == "" {
				check(t, err)
				if want := sha256.Sum256(append(head[:], c.line...)); chain.Count != 5 || chain.Head != want {
					t.Errorf("chain is %d %x, want 5 %x", chain.Count, chain.Head, want)
				}
				return
			}
			wantChainError(t, err, 5, c.want)
			if chain != at {
				t.Error("the chain moved")
			}
		})
	}
}

// TestEveryByteCounts changes each byte of a record: the chain breaks there, or at the
// latest at the record after it.
func TestEveryByteCounts(t *testing.T) {
	records := kernelRecords(t, some(3)...)
	middle := records[1].GetLine()
	for i := range middle {
		changed := bytes.Clone(middle)
		changed[i] ^= 1
		var c Chain
		check(t, c.Next(records[0].GetLine()))
		if c.Next(changed) == nil && c.Next(records[2].GetLine()) == nil {
			t.Errorf("byte %d: %q changed unseen", i, changed)
		}
	}
}

// FuzzChain: what the parser takes fits exactly one place of one chain.
func FuzzChain(f *testing.F) {
	for _, r := range kernelRecords(f, some(8)...) {
		f.Add(r.GetLine())
		f.Add(r.GetLine()[1:])
	}
	f.Add(line(1, zeros))
	f.Add(line("1e0", zeros))
	f.Add([]byte(`{"NUMBER":1,"Prev":"` + strings.ToUpper(zeros) + `"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		number, prev, err := parse(data)
		if err != nil {
			var c Chain
			if c.Next(data) == nil {
				t.Fatal("the chain takes what the parser refuses")
			}
			return
		}
		before := Chain{Count: number - 1, Head: prev}
		c := before
		if err := c.Next(data); err != nil {
			t.Fatalf("at its own place: %v", err)
		}
		if want := sha256.Sum256(append(prev[:], data...)); c.Head != want || c.Count != number {
			t.Fatalf("chain is %d %x, want %d %x", c.Count, c.Head, number, want)
		}
		other := before
		other.Head[7] ^= 1
		if other.Next(data) == nil {
			t.Fatal("fits after another hash")
		}
		other = before
		other.Count++
		if other.Next(data) == nil {
			t.Fatal("fits after another number")
		}
	})
}
