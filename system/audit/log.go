package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// DefaultFileBytes is the size at which a file of the log is followed by the next.
const DefaultFileBytes = 64 << 20

// maxLine bounds a line. A record comes in one message and leaves in another, each
// with a few bytes around the line.
const maxLine = ipc.MaxMessage - 32

// Log is the stored audit log: files audit-000001.jsonl, audit-000002.jsonl … in one
// directory, one record a line, only ever appended to.
type Log struct {
	dir   string
	limit int64

	mu    sync.Mutex
	files []segment
	last  *os.File
	chain Chain
	err   error
	grown chan struct{} // closed and replaced after each append
}

// segment is one file: its path, the number of its first record (0 while it has
// none), and its size.
type segment struct {
	path  string
	first uint64
	size  int64
}

// OpenLog opens the log in dir, makes the first file if there is none, cuts a torn
// last line, and checks the chain of the last file. fileBytes 0 means
// DefaultFileBytes. The caller closes it.
func OpenLog(dir string, fileBytes int64) (*Log, error) {
	if fileBytes <= 0 {
		fileBytes = DefaultFileBytes
	}
	l := &Log{dir: dir, limit: fileBytes, grown: make(chan struct{})}
	// A file that is missing before others would be found only when the kernel sends
	// a record that does not fit, or never.
	n, err := countFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	for i := range n {
		s := segment{path: filepath.Join(dir, fileName(i+1))}
		st, err := os.Stat(s.path)
		if err != nil {
			return nil, fmt.Errorf("open audit log: file %d of %d: %w", i+1, n, err)
		}
		s.size = st.Size()
		l.files = append(l.files, s)
	}
	if err := l.recover(); err != nil {
		if l.last != nil {
			_ = l.last.Close()
		}
		return nil, err
	}
	return l, nil
}

func fileName(i int) string { return fmt.Sprintf("audit-%06d.jsonl", i) }

// countFiles counts the files in dir that are named like the log's.
func countFiles(dir string) (n int, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if ok, _ := filepath.Match("audit-[0-9]*.jsonl", e.Name()); ok {
			n++
		}
	}
	return n, err
}

// recover learns the first record of each file and the state of the chain.
func (l *Log) recover() error {
	for i := range l.files {
		line, err := firstLine(l.files[i].path)
		if err != nil {
			return err
		}
		if line == nil {
			// Only the last file may be without a record: a stop right after rotation.
			if i != len(l.files)-1 {
				return fmt.Errorf("open audit log: %s has no record but is not the last", l.files[i].path)
			}
			continue
		}
		number, prev, err := parse(line)
		if err != nil {
			return fmt.Errorf("open audit log: %s: %w", l.files[i].path, err)
		}
		if number == 0 {
			return fmt.Errorf("open audit log: %s: record 0", l.files[i].path)
		}
		l.files[i].first = number
		l.chain = Chain{Count: number - 1, Head: prev}
	}
	if len(l.files) == 0 {
		return l.rotate()
	}
	// The last file that has records tells count and head.
	for i := len(l.files) - 1; i >= 0; i-- {
		if l.files[i].first == 0 && i > 0 {
			continue
		}
		good, err := l.check(i)
		if err != nil {
			return err
		}
		if good < l.files[i].size {
			if i != len(l.files)-1 {
				return fmt.Errorf("open audit log: %s ends in a torn line but is not the last", l.files[i].path)
			}
			if err := cut(l.files[i].path, good); err != nil {
				return err
			}
			l.files[i].size = good
		}
		break
	}
	end := &l.files[len(l.files)-1]
	if end.first == 0 && end.size > 0 {
		if err := cut(end.path, 0); err != nil {
			return err
		}
		end.size = 0
	}
	var err error
	l.last, err = os.OpenFile(end.path, os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	return nil
}

// check walks the chain of file i and returns where its last whole line ends.
func (l *Log) check(i int) (good int64, err error) {
	f, err := os.Open(l.files[i].path)
	if err != nil {
		return 0, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	r := newLines(f)
	for {
		line, err := r.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return r.offset, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", l.files[i].path, err)
		}
		if err := l.chain.Next(line); err != nil {
			return 0, fmt.Errorf("%s: %w", l.files[i].path, err)
		}
	}
}

func firstLine(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	line, err := newLines(f).next()
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return bytes.Clone(line), nil
}

func cut(path string, size int64) error {
	if err := os.Truncate(path, size); err != nil {
		return fmt.Errorf("cut torn line: %w", err)
	}
	return nil
}

// State returns the number and the hash of the last record on disk.
func (l *Log) State() Chain {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain
}

// Append stores the records that are not stored yet and returns when they are on
// disk. A record that does not continue the chain, or that is stored differently, is
// a *ChainError and nothing of the batch is stored. After any other error the log
// takes no more: what is on disk is known again only by opening it anew.
func (l *Log) Append(records []*controlv1.AuditRecord) (Chain, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.chain, l.err
	}
	next := l.chain
	var data []byte
	var stored cursor
	defer stored.close()
	for _, r := range records {
		switch {
		case r.GetNumber() == 0:
			return l.chain, &ChainError{Number: 0, What: "there is no such record"}
		case r.GetNumber() <= l.chain.Count:
			if err := l.same(&stored, r); err != nil {
				return l.chain, err
			}
			continue
		case r.GetNumber() <= next.Count:
			return l.chain, &ChainError{Number: r.GetNumber(), What: "is twice in the batch"}
		}
		if r.GetNumber() != next.Count+1 {
			return l.chain, &ChainError{Number: next.Count + 1, What: fmt.Sprintf("is missing before record %d", r.GetNumber())}
		}
		if err := next.Next(r.GetLine()); err != nil {
			return l.chain, err
		}
		if !bytes.Equal(next.Head[:], r.GetHash()) {
			return l.chain, &ChainError{Number: next.Count, What: "came with a wrong hash"}
		}
		data = append(append(data, r.GetLine()...), '\n')
	}
	if len(data) == 0 {
		return l.chain, nil
	}
	if err := l.write(data, l.chain.Count+1); err != nil {
		l.err = err
		return l.chain, err
	}
	l.chain = next
	close(l.grown)
	l.grown = make(chan struct{})
	return l.chain, nil
}

// write appends whole lines, of which the first has the given number.
func (l *Log) write(data []byte, first uint64) error {
	end := &l.files[len(l.files)-1]
	if end.size > 0 && end.size+int64(len(data)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
		end = &l.files[len(l.files)-1]
	}
	n, err := l.last.Write(data)
	if err == nil {
		err = unix.Fdatasync(int(l.last.Fd()))
	}
	if err != nil {
		// Leave no half line behind; if that fails too, the next start cuts it.
		if n > 0 {
			_ = l.last.Truncate(end.size)
		}
		return fmt.Errorf("append to %s: %w", end.path, err)
	}
	if end.first == 0 {
		end.first = first
	}
	end.size += int64(n)
	return nil
}

// rotate makes the next file durable and the one to write to.
func (l *Log) rotate() error {
	path := filepath.Join(l.dir, fileName(len(l.files)+1))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return fmt.Errorf("start audit file: %w", err)
	}
	dir, err := os.Open(l.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("start audit file: %w", err)
	}
	if l.last != nil {
		_ = l.last.Close()
	}
	l.last = f
	l.files = append(l.files, segment{path: path})
	return nil
}

// same checks that a record sent again is the one that is stored. Records that follow
// each other are read with one cursor: a file is walked once.
func (l *Log) same(c *cursor, r *controlv1.AuditRecord) error {
	if c.after != r.GetNumber()-1 {
		c.close()
		c.after = r.GetNumber() - 1
	}
	stored, err := c.next(l.files, l.chain.Count)
	if err != nil {
		return err
	}
	sum, err := Hash(stored)
	if err != nil {
		return &ChainError{Number: r.GetNumber(), What: err.Error()}
	}
	if !bytes.Equal(stored, r.GetLine()) || !bytes.Equal(sum[:], r.GetHash()) {
		return &ChainError{Number: r.GetNumber(), What: "is stored with other content"}
	}
	return nil
}

// view is what a reader needs: the files, the last number, and a channel that is
// closed when there is more.
func (l *Log) view() ([]segment, uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.files), l.chain.Count, l.grown
}

// Close closes the log. What was acknowledged is on disk already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return nil
	}
	err := l.last.Close()
	l.last, l.err = nil, os.ErrClosed
	return err
}

// errTorn says that a file ends within a line.
var errTorn = errors.New("torn line")

// lines reads whole lines. offset is where the last one returned ends.
type lines struct {
	r      *bufio.Reader
	offset int64
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, maxLine+1)} }

// next returns a line without its newline, valid until the next call; io.EOF at the
// end, errTorn when the end is within a line.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		l.offset += int64(len(line))
		return line[:len(line)-1], nil
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, errTorn
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("a line is longer than %d bytes", maxLine)
	default:
		return nil, err
	}
}
