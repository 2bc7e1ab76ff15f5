package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A track is the stored records of one kind of one service: segment files that are
// only appended to, the oldest removed when they exceed their limit.
//
//	<dir>/log-<first sequence, 16 hex digits>.seg
//
// A segment begins with a header that names its service:
//
//	"SOLOLOG1"  u8 tier  u8 length, service  u32 CRC-32C of all that
//
// No file stays open: between two batches of a quiet service lie seconds, and there
// may be thousands of services.
type track struct {
	dir, prefix string
	header      []byte
	segments    []segment
	// last is the sequence of the last record, known once checked.
	last    uint64
	checked bool
	// removed is a number at or before which records were removed to make room.
	removed uint64
}

// segment is one file.
type segment struct {
	first uint64
	size  int64
}

const (
	magic         = "SOLOLOG1"
	suffix        = ".seg"
	logPrefix     = "log-"
	eventPrefix   = "event-"
	maxHeader     = len(magic) + 2 + 255 + 4
	minSegment    = 20 << 10 // holds the largest record
	maxSegment    = 2 << 20
	flushBytes    = 64 << 10
	filePerm      = 0o640
	directoryPerm = 0o750
)

var tiers = []string{"user", "system", "driver"}

func encodeHeader(service, tier string) []byte {
	b := append([]byte(magic), 0, byte(len(service)))
	for i, t := range tiers {
		if t == tier {
			b[len(magic)] = byte(i)
		}
	}
	b = append(b, service...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader reads a segment's header and says how long it is.
func decodeHeader(b []byte) (service, tier string, n int, err error) {
	if len(b) < len(magic)+2 {
		return "", "", 0, errShort
	}
	t, length := int(b[len(magic)]), int(b[len(magic)+1])
	n = len(magic) + 2 + length + 4
	if string(b[:len(magic)]) != magic || t >= len(tiers) {
		return "", "", 0, errCorrupt
	}
	if len(b) < n {
		return "", "", 0, errShort
	}
	if crc32.Checksum(b[:n-4], castagnoli) != binary.LittleEndian.Uint32(b[n-4:]) {
		return "", "", 0, errCorrupt
	}
	service = string(b[len(magic)+2 : n-4])
	if service == "" || !utf8.ValidString(service) {
		return "", "", 0, errCorrupt
	}
	return service, tiers[t], n, nil
}

func segmentName(prefix string, first uint64) string {
	return fmt.Sprintf("%s%016x%s", prefix, first, suffix)
}

// parseSegmentName is the reverse of segmentName.
func parseSegmentName(name string) (prefix string, first uint64, ok bool) {
	for _, prefix := range []string{logPrefix, eventPrefix} {
		digits, found := strings.CutPrefix(name, prefix)
		if !found {
			continue
		}
		if digits, found = strings.CutSuffix(digits, suffix); !found || len(digits) != 16 {
			continue
		}
		first, err := strconv.ParseUint(digits, 16, 64)
		if err == nil && segmentName(prefix, first) == name {
			return prefix, first, true
		}
	}
	return "", 0, false
}

func (t *track) path(s segment) string { return filepath.Join(t.dir, segmentName(t.prefix, s.first)) }

// check reads the last segment, cuts what is torn off its end, and learns the last
// sequence number. A number over most cannot be ours.
func (t *track) check(most uint64) error {
	if t.checked {
		return nil
	}
	for len(t.segments) > 0 {
		end := &t.segments[len(t.segments)-1]
		sc := &scanner{path: t.path(*end), end: end.size, after: end.first - 1}
		last, good, err := sc.all(most)
		if err != nil && !errors.Is(err, errShort) && !errors.Is(err, errCorrupt) {
			return err
		}
		if last == 0 {
			// Not one whole record: it was torn as it was begun.
			if err := os.Remove(sc.path); err != nil {
				return fmt.Errorf("remove a torn log file: %w", err)
			}
			t.segments = t.segments[:len(t.segments)-1]
			continue
		}
		if good < end.size {
			if err := cut(sc.path, good); err != nil {
				return err
			}
			end.size = good
		}
		t.last = last
		break
	}
	t.checked = true
	return nil
}

func cut(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cut a torn log file: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("cut a torn log file: %w", err)
	}
	return nil
}

// append stores records, which have their numbers, within limit bytes in all, and
// says how many. When it fails the track stays good.
func (t *track) append(records []record, limit int64) (stored int, err error) {
	room := min(max(limit/8, minSegment), maxSegment)
	var buf []byte
	begin := 0 // records[begin:i] are in buf
	flush := func(i int) error {
		if begin == i {
			return nil
		}
		first, last := records[begin].sequence, records[i-1].sequence
		err := t.write(buf, first, last, room, limit)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			// What is new is worth more than what is old.
			if len(t.segments) > 1 && t.drop() == nil {
				err = t.write(buf, first, last, room, limit)
			}
		}
		if err == nil {
			begin, buf = i, buf[:0]
		}
		return err
	}
	for i := range records {
		n := len(buf) + records[i].encodedSize()
		if n > flushBytes || n+len(t.header) > int(room) {
			if err := flush(i); err != nil {
				return begin, err
			}
		}
		buf = records[i].encode(buf)
	}
	return begin, flush(len(records))
}

// write appends encoded records to the last segment, or to a new one if they do not
// fit.
func (t *track) write(data []byte, first, last uint64, room, limit int64) error {
	s, keep, fresh := segment{first: first}, 0, true
	if n := len(t.segments); n > 0 && t.segments[n-1].size+int64(len(data)) <= room {
		s, keep, fresh = t.segments[n-1], 1, false
	} else {
		data = append(append(make([]byte, 0, len(t.header)+len(data)), t.header...), data...)
	}
	for len(t.segments) > keep && t.size()+int64(len(data)) > limit {
		if err := t.drop(); err != nil {
			return err
		}
	}
	if err := t.put(s, data, fresh); err != nil {
		return err
	}
	s.size += int64(len(data))
	if fresh {
		t.segments = append(t.segments, s)
	} else {
		t.segments[len(t.segments)-1] = s
	}
	t.last = last
	return nil
}

// put writes data at the end of a segment's file and leaves the file as it was if it
// cannot.
func (t *track) put(s segment, data []byte, fresh bool) error {
	path, flags := t.path(s), os.O_WRONLY|unix.O_CLOEXEC
	if fresh {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, filePerm)
	if fresh && errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(t.dir, directoryPerm); err != nil {
			return fmt.Errorf("store log: %w", err)
		}
		f, err = os.OpenFile(path, flags, filePerm)
	}
	if err != nil {
		return fmt.Errorf("store log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(data, s.size); err != nil {
		if fresh {
			_ = os.Remove(path)
		} else {
			_ = f.Truncate(s.size) // else the next write, or check, does away with it
		}
		return fmt.Errorf("store log: %w", err)
	}
	return nil
}

// wanted is the kind a watcher asks for to see this track.
func (t *track) wanted() wants {
	if t.prefix == eventPrefix {
		return wantEvents
	}
	return wantLogs
}

// size is what the track takes on disk.
func (t *track) size() (n int64) {
	for _, s := range t.segments {
		n += s.size
	}
	return n
}

// drop removes the oldest segment.
func (t *track) drop() error {
	if err := os.Remove(t.path(t.segments[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old log: %w", err)
	}
	t.removed = t.last
	if len(t.segments) > 1 {
		t.removed = t.segments[1].first - 1
	}
	t.segments = slices.Delete(t.segments, 0, 1)
	return nil
}

// scanner reads the records of one segment in order. Between two reads it holds no
// descriptor.
type scanner struct {
	path string
	// off is where the next record begins, end where the file counts as ended.
	off, end int64
	// after is the sequence number of the last record; the next one is greater.
	after uint64
	// buf[at:] is what was read ahead from off on.
	buf []byte
	at  int
}

const scanBytes = 32 << 10 // at least header and record

// next returns the next record, whose text is valid until the call after: io.EOF at
// the end, errShort or errCorrupt if there is none where one should be.
func (s *scanner) next() (record, error) {
	if s.off == 0 && s.end > 0 {
		if err := s.fill(maxHeader); err != nil {
			return record{}, err
		}
		_, _, n, err := decodeHeader(s.buf[s.at:])
		if err != nil {
			return record{}, err
		}
		s.skip(n)
	}
	if s.off >= s.end {
		return record{}, io.EOF
	}
	r, n, err := decode(s.buf[s.at:])
	if errors.Is(err, errShort) {
		if err := s.fill(maxRecord); err != nil {
			return record{}, err
		}
		r, n, err = decode(s.buf[s.at:])
	}
	if err != nil {
		return record{}, err
	}
	if r.sequence <= s.after {
		return record{}, errCorrupt
	}
	s.after = r.sequence
	s.skip(n)
	return r, nil
}

func (s *scanner) skip(n int) {
	s.at += n
	s.off += int64(n)
}

// fill reads on from off.
func (s *scanner) fill(need int) error {
	if int64(len(s.buf)-s.at) >= min(int64(need), s.end-s.off) {
		return nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if cap(s.buf) < scanBytes {
		s.buf = make([]byte, scanBytes)
	}
	buf := s.buf[:min(scanBytes, s.end-s.off)]
	n, err := f.ReadAt(buf, s.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read log: %w", err)
	}
	s.buf, s.at = buf[:n], 0
	return nil
}

// release gives the buffer back; the next read fills a new one.
func (s *scanner) release() { s.buf, s.at = nil, 0 }

// all reads to the end and returns the last sequence number up to most and where
// that record ends.
func (s *scanner) all(most uint64) (last uint64, good int64, err error) {
	for {
		r, err := s.next()
		if errors.Is(err, io.EOF) {
			return last, good, nil
		}
		if err != nil {
			return last, good, err
		}
		if r.sequence > most {
			return last, good, errCorrupt
		}
		last, good = r.sequence, s.off
	}
}
