package monitor

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// maxLine is the longest text of one record; longer lines are split.
const maxLine = 16 << 10

// kind says what a record holds. Its value is part of the file format.
type kind uint8

const (
	kindStdout kind = 1 + iota
	kindStderr
	kindSolo
	kindEvent
)

// streams are the names of the log kinds in the API.
var streams = map[kind]string{kindStdout: "stdout", kindStderr: "stderr", kindSolo: "solo"}

// record is one log line, or one event, of a series. It does not change once it has
// a sequence number.
type record struct {
	series   *series
	sequence uint64
	time     int64 // Unix nanoseconds
	kind     kind
	partial  bool
	// last says that the service was deleted: not stored.
	last     bool
	instance string
	// text is the line, or a solov1.Event in protobuf.
	text []byte
}

// A record on disk, little endian:
//
//	u32  size of what follows the checksum
//	u32  CRC-32C of that
//	u8   kind, 0x80 added when the line is partial
//	u64  sequence
//	i64  time
//	u8   length of the instance's name, the name
//	…    text
const (
	frameBytes   = 8
	fixedBytes   = 1 + 8 + 8 + 1
	maxInstance  = 255
	maxPayload   = fixedBytes + maxInstance + maxLine
	maxRecord    = frameBytes + maxPayload
	partialFlag  = 0x80
	maxEventText = 8 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// errShort says that the data ends within a record.
	errShort = errors.New("record is torn")
	// errCorrupt says that the data is no record.
	errCorrupt = errors.New("record is damaged")
)

func (r *record) encodedSize() int { return frameBytes + fixedBytes + len(r.instance) + len(r.text) }

// encode appends the record to b. Instance and text are within their limits.
func (r *record) encode(b []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(fixedBytes+len(r.instance)+len(r.text)))
	b = append(b, 0, 0, 0, 0)
	k := byte(r.kind)
	if r.partial {
		k |= partialFlag
	}
	b = append(b, k)
	b = binary.LittleEndian.AppendUint64(b, r.sequence)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.time))
	b = append(b, byte(len(r.instance)))
	b = append(b, r.instance...)
	b = append(b, r.text...)
	sum := crc32.Checksum(b[start+frameBytes:], castagnoli)
	binary.LittleEndian.PutUint32(b[start+4:], sum)
	return b
}

// decode reads the record at the beginning of b and says how long it is. Its text
// is part of b.
func decode(b []byte) (r record, n int, err error) {
	if len(b) < frameBytes {
		return r, 0, errShort
	}
	size := binary.LittleEndian.Uint32(b)
	if size < fixedBytes || size > maxPayload {
		return r, 0, errCorrupt
	}
	n = frameBytes + int(size)
	if len(b) < n {
		return r, 0, errShort
	}
	p := b[frameBytes:n]
	if crc32.Checksum(p, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return r, 0, errCorrupt
	}
	r.kind, r.partial = kind(p[0]&^partialFlag), p[0]&partialFlag != 0
	r.sequence = binary.LittleEndian.Uint64(p[1:])
	r.time = int64(binary.LittleEndian.Uint64(p[9:]))
	rest := p[fixedBytes:]
	length := int(p[fixedBytes-1])
	if r.kind < kindStdout || r.kind > kindEvent || length > len(rest) || len(rest)-length > maxLine {
		return r, 0, errCorrupt
	}
	r.instance, r.text = string(rest[:length]), rest[length:]
	if !utf8.ValidString(r.instance) {
		return r, 0, errCorrupt
	}
	return r, n, nil
}

// message is the record as a watcher gets it. It shares the text.
func (r *record) message() *solov1.WatchResponse {
	m := &solov1.WatchResponse{
		Sequence: r.sequence, Time: timestamppb.New(time.Unix(0, r.time)), Service: r.series.name, Instance: r.instance,
	}
	if r.kind != kindEvent {
		m.Item = &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: streams[r.kind], Text: r.text, Partial: r.partial}}
		return m
	}
	e := &solov1.Event{}
	if proto.Unmarshal(r.text, e) != nil {
		e = &solov1.Event{Type: "unknown", Detail: "the stored event cannot be read"}
	}
	m.Item = &solov1.WatchResponse_Event{Event: e}
	return m
}

// eventText encodes an event, its words shortened if they are beyond all measure.
func eventText(e *solov1.Event) []byte {
	b, err := proto.Marshal(e)
	if err == nil && len(b) <= maxEventText {
		return b
	}
	const most = maxEventText / 8
	b, _ = proto.Marshal(&solov1.Event{
		Type: clip(e.GetType(), most), State: clip(e.GetState(), most), Reason: clip(e.GetReason(), most),
		Detail: clip(e.GetDetail(), 4*most), Version: e.GetVersion(),
	})
	return b
}

// clip shortens s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
