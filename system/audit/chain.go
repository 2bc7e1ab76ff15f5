package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// HashSize is the length of a record's hash in bytes.
const HashSize = sha256.Size

// Chain checks audit records one after the other. The zero value stands before the
// first record; one with Count and Head set goes on from there.
//
// A record's hash is SHA-256 over the previous record's hash and the line; the line
// says its number and the previous hash itself ("number", "prev"). Before the first
// record the hash is 32 zero bytes.
type Chain struct {
	// Count is the number of the last record.
	Count uint64
	// Head is its hash.
	Head [HashSize]byte
}

// ChainError says where a chain is broken.
type ChainError struct {
	// Number of the record that should have come.
	Number uint64
	What   string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("audit record %d: %s", e.Number, e.What)
}

// Next checks that line, without its newline, is the record after the ones before,
// and takes it in. On error the chain is unchanged.
func (c *Chain) Next(line []byte) error {
	number, prev, err := parse(line)
	if err != nil {
		return &ChainError{Number: c.Count + 1, What: err.Error()}
	}
	if number != c.Count+1 {
		return &ChainError{Number: c.Count + 1, What: fmt.Sprintf("the line says number %d", number)}
	}
	if prev != c.Head {
		return &ChainError{Number: number, What: "the line names another previous hash"}
	}
	c.Count, c.Head = number, hash(prev, line)
	return nil
}

// Hash is the hash of a record by what its line says; it does not check where the
// line stands.
func Hash(line []byte) ([HashSize]byte, error) {
	_, prev, err := parse(line)
	if err != nil {
		return prev, err
	}
	return hash(prev, line), nil
}

func hash(prev [HashSize]byte, line []byte) (sum [HashSize]byte) {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(line)
	h.Sum(sum[:0])
	return sum
}

// parse reads a line's own account of its place in the chain.
func parse(line []byte) (number uint64, prev [HashSize]byte, err error) {
	switch {
	case len(line) > maxLine:
		return 0, prev, fmt.Errorf("line is longer than %d bytes", maxLine)
	case bytes.IndexByte(line, '\n') >= 0:
		return 0, prev, errors.New("line contains a newline")
	case !utf8.Valid(line):
		return 0, prev, errors.New("line is not UTF-8")
	}
	var place struct {
		Number uint64 `json:"number"`
		Prev   string `json:"prev"`
	}
	if err := json.Unmarshal(line, &place); err != nil {
		return 0, prev, fmt.Errorf("line is not a JSON record: %w", err)
	}
	b, err := hex.DecodeString(place.Prev)
	if err != nil || len(b) != HashSize {
		return 0, prev, fmt.Errorf("previous hash %.80q is not one", place.Prev)
	}
	copy(prev[:], b)
	return place.Number, prev, nil
}
