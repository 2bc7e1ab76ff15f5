package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"
)

// Entry is what the kernel says for the audit log about one decision. It never holds
// a secret.
type Entry struct {
	// Operation as in the control switch: deploy, kill, denied ...
	Operation string
	// Actor is the id of the capability that asked, or "kernel".
	Actor string
	// Object is what was acted on, usually a service's name.
	Object string
	// Result is "ok" or the reason of a refusal or an end.
	Result string
	// Detail are further facts, in order, as name and value.
	Detail [][2]string
}

// maxLine bounds a record's line: it travels in one message of 64 KiB.
const maxLine = 32 << 10

// line is the JSON object of a record: one line, fields in a fixed order. The kernel
// links no JSON package; this is all it writes. Values are cut shorter, and details
// left out, where the line would be too long.
func (e Entry) line(number uint64, at time.Time, prev []byte) []byte {
	b := e.encode(number, at, prev, maxValue)
	if len(b) > maxLine {
		b = e.encode(number, at, prev, maxValue/16)
	}
	for ; len(b) > maxLine; b = e.encode(number, at, prev, maxValue/16) {
		e.Detail = e.Detail[:len(e.Detail)/2]
	}
	return b
}

func (e Entry) encode(number uint64, at time.Time, prev []byte, limit int) []byte {
	b := make([]byte, 0, 256)
	b = append(b, `{"number":`...)
	b = strconv.AppendUint(b, number, 10)
	b = append(b, `,"time":`...)
	b = quote(b, at.UTC().Format(time.RFC3339Nano), limit)
	for _, kv := range [][2]string{{"op", e.Operation}, {"actor", e.Actor}, {"object", e.Object}, {"result", e.Result}} {
		b = append(b, ',')
		b = quote(b, kv[0], limit)
		b = append(b, ':')
		b = quote(b, kv[1], limit)
	}
	if len(e.Detail) > 0 {
		b = append(b, `,"detail":{`...)
		for i, kv := range e.Detail {
			if i > 0 {
				b = append(b, ',')
			}
			b = quote(b, kv[0], limit)
			b = append(b, ':')
			b = quote(b, kv[1], limit)
		}
		b = append(b, '}')
	}
	b = append(b, `,"prev":"`...)
	b = append(b, hex.EncodeToString(prev)...)
	return append(b, `"}`...)
}

// chain is the hash of a record: SHA-256 over the hash before and the line.
func chain(prev, line []byte) []byte {
	h := sha256.New()
	h.Write(prev)
	h.Write(line)
	return h.Sum(nil)
}

// maxValue bounds one value of a record, in bytes: much of them comes from clients.
const maxValue = 4096

// quote appends s as a JSON string (RFC 8259); invalid UTF-8 becomes U+FFFD, and
// what is over limit bytes is cut before the character that crosses it.
func quote(b []byte, s string, limit int) []byte {
	if len(s) > limit {
		n := limit
		for n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	b = append(b, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			const digits = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
		s = s[n:]
	}
	return append(b, '"')
}
