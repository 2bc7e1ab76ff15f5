package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// load finds the services that have files. What it cannot read it leaves alone.
func (st *store) load() error {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return fmt.Errorf("open log store: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		s, err := loadSeries(st.dir, e.Name())
		if err != nil {
			st.note("open the log in %s: %v", e.Name(), err)
			continue
		}
		st.series[s.name] = s
	}
	return nil
}

// loadSeries lists a directory's segments and reads the service's name from one.
func loadSeries(dir, base string) (*series, error) {
	path := filepath.Join(dir, base)
	entries, err := os.ReadDir(path) // sorted, and so are the numbers in the names
	if err != nil {
		return nil, err
	}
	s := &series{}
	found := map[string][]segment{}
	for _, e := range entries {
		prefix, first, ok := parseSegmentName(e.Name())
		if !ok || first == 0 {
			continue
		}
		if s.name == "" { // the others' headers are looked at when they are read
			file := filepath.Join(path, e.Name())
			name, tier, err := readHeader(file)
			if errors.Is(err, errShort) || errors.Is(err, errCorrupt) {
				// It cannot be told whose it is.
				if err := os.Remove(file); err != nil {
					return nil, err
				}
				continue
			}
			if err != nil {
				return nil, err
			}
			if escape(name) != base {
				return nil, fmt.Errorf("%s is the log of %q", e.Name(), name)
			}
			s.name, s.tier = name, tier
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		found[prefix] = append(found[prefix], segment{first: first, size: info.Size()})
	}
	if s.name == "" {
		_ = os.Remove(path) // if it is empty
		return nil, errors.New("no segment of it can be read")
	}
	s.init(dir)
	for _, t := range s.tracks() {
		t.segments, t.checked = found[t.prefix], false
	}
	return s, nil
}

func readHeader(path string) (service, tier string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, maxHeader)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", "", err
	}
	service, tier, _, err = decodeHeader(b[:n])
	return service, tier, err
}
