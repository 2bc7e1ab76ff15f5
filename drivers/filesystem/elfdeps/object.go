package elfdeps

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on one file.
const (
	maxHeaders = 512       // program headers
	maxDynamic = 16 << 10  // entries of the dynamic section
	maxStrings = 512       // names and search directories of one object
	maxName    = 4095      // bytes of one of them (PATH_MAX)
	maxPath    = 128 << 10 // bytes of a DT_RPATH or DT_RUNPATH
)

// The numbers of elf(5) that matter here. debug/elf is not used: it allocates by
// section headers, which a loader never looks at.
const (
	typeRel, typeExec, typeDyn, typeCore = 1, 2, 3, 4

	ptLoad, ptDynamic, ptInterp = 1, 2, 3

	dtNull, dtNeeded, dtStrtab, dtStrsz = 0, 1, 5, 10
	dtSoname, dtRpath, dtRunpath        = 14, 15, 29
	dtFlags1                            = 0x6ffffffb

	flag1NoDefLib = 0x800
	flag1PIE      = 0x08000000

	ehSize, phSize, dynSize = 64, 56, 16
)

// object is what the loader reads of one ELF file.
type object struct {
	kind     uint16
	entry    uint64
	interp   string
	dynamic  bool
	needed   []string
	soname   string
	rpath    []string
	runpath  []string
	noDefLib bool
	pie      bool
}

type segment struct {
	kind                    uint32
	offset, address, length uint64
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// parse reads an ELF file for machine. It reads headers, the dynamic section and
// the strings named there, nothing else.
func parse(r io.ReaderAt, machine machine) (*object, error) {
	head := make([]byte, ehSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return nil, ErrScript
	case !bytes.HasPrefix(head, []byte("\x7fELF")):
		return nil, ErrNotELF
	case len(head) < 20:
		return nil, malformed("the file ends in its header")
	}
	if err := machine.accepts(head); err != nil {
		return nil, err
	}
	if len(head) < ehSize {
		return nil, malformed("the file ends in its header")
	}
	le := binary.LittleEndian
	o := &object{kind: le.Uint16(head[16:]), entry: le.Uint64(head[24:])}
	offset, size, count := le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])
	switch {
	case count == 0:
		return o, nil
	case size != phSize:
		return nil, malformed("program headers of %d bytes", size)
	case count > maxHeaders:
		return nil, malformed("%d program headers", count)
	}
	table, err := readAt(r, offset, uint64(count)*phSize, "program headers")
	if err != nil {
		return nil, err
	}
	var loads []segment
	var dynamic, interp *segment
	for ; len(table) >= phSize; table = table[phSize:] {
		s := segment{le.Uint32(table), le.Uint64(table[8:]), le.Uint64(table[16:]), le.Uint64(table[32:])}
		switch s.kind {
		case ptLoad:
			loads = append(loads, s)
		case ptDynamic:
			dynamic = &s
		case ptInterp:
			interp = &s
		}
	}
	if interp != nil {
		if o.interp, err = readInterp(r, *interp); err != nil {
			return nil, err
		}
	}
	if dynamic != nil {
		o.dynamic = true
		if err := o.readDynamic(r, *dynamic, loads); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func readInterp(r io.ReaderAt, s segment) (string, error) {
	if s.length < 2 || s.length > maxName+1 {
		return "", malformed("interpreter name of %d bytes", s.length)
	}
	b, err := readAt(r, s.offset, s.length, "interpreter name")
	if err != nil {
		return "", err
	}
	// The Linux kernel wants the terminator at the end, and stops at the first.
	if b[len(b)-1] != 0 {
		return "", malformed("interpreter name is not terminated")
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	if len(name) == 0 {
		return "", malformed("interpreter without a name")
	}
	return string(name), nil
}

// readDynamic takes the entries up to DT_NULL. The loader finds the string table by
// its address, so the address is translated through the load segments.
func (o *object) readDynamic(r io.ReaderAt, s segment, loads []segment) error {
	if s.length > maxDynamic*dynSize {
		return malformed("dynamic section of %d bytes", s.length)
	}
	b, err := readAt(r, s.offset, s.length, "dynamic section")
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	var strtab, strsz uint64
	var soname, rpath, runpath *uint64
	var needed []uint64
	for ; len(b) >= dynSize; b = b[dynSize:] {
		tag, value := le.Uint64(b), le.Uint64(b[8:])
		if tag == dtNull {
			break
		}
		switch tag {
		case dtNeeded:
			if needed = append(needed, value); len(needed) > maxStrings {
				return malformed("more than %d needed libraries", maxStrings)
			}
		case dtStrtab:
			strtab = value
		case dtStrsz:
			strsz = value
		case dtSoname:
			soname = &value
		case dtRpath:
			rpath = &value
		case dtRunpath:
			runpath = &value
		case dtFlags1:
			o.noDefLib = value&flag1NoDefLib != 0
			o.pie = value&flag1PIE != 0
		}
	}
	text := stringTable{r: r, size: strsz}
	if text.offset, err = fileOffset(strtab, loads); err != nil {
		if len(needed) == 0 && soname == nil && rpath == nil && runpath == nil {
			return nil
		}
		return err
	}
	for _, at := range needed {
		name, err := text.at(at, maxName)
		if err != nil {
			return err
		}
		if name == "" {
			return malformed("a needed library without a name")
		}
		o.needed = append(o.needed, name)
	}
	if soname != nil {
		if o.soname, err = text.at(*soname, maxName); err != nil {
			return err
		}
	}
	if o.rpath, err = text.list(rpath); err != nil {
		return err
	}
	o.runpath, err = text.list(runpath)
	return err
}

func fileOffset(address uint64, loads []segment) (uint64, error) {
	for _, l := range loads {
		if address >= l.address && address-l.address < l.length {
			offset := l.offset + (address - l.address)
			if offset < l.offset {
				break
			}
			return offset, nil
		}
	}
	return 0, malformed("string table at %#x is in no segment", address)
}

// stringTable reads strings where the file has them; it is never read whole.
type stringTable struct {
	r            io.ReaderAt
	offset, size uint64
}

func (t stringTable) at(index uint64, limit uint64) (string, error) {
	if index >= t.size || t.offset+index < t.offset {
		return "", malformed("string %d is outside the string table", index)
	}
	limit = min(limit+1, t.size-index)
	var text []byte
	for have := uint64(0); have < limit; {
		chunk, err := readUpTo(t.r, t.offset+index+have, min(256, limit-have))
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(chunk, 0); end >= 0 {
			return string(append(text, chunk[:end]...)), nil
		}
		if len(chunk) == 0 {
			break
		}
		text = append(text, chunk...)
		have += uint64(len(chunk))
	}
	return "", malformed("string %d is not terminated within %d bytes", index, limit)
}

func (t stringTable) list(index *uint64) ([]string, error) {
	if index == nil {
		return nil, nil
	}
	text, err := t.at(*index, maxPath)
	if err != nil {
		return nil, err
	}
	dirs := strings.Split(text, ":")
	if len(dirs) > maxStrings {
		return nil, malformed("%d search directories", len(dirs))
	}
	return dirs, nil
}

// readAt reads exactly n bytes; n has been bounded by the caller.
func readAt(r io.ReaderAt, offset, n uint64, what string) ([]byte, error) {
	b, err := readUpTo(r, offset, n)
	if err != nil {
		return nil, err
	}
	if uint64(len(b)) < n {
		return nil, malformed("%s outside the file", what)
	}
	return b, nil
}

func readUpTo(r io.ReaderAt, offset, n uint64) ([]byte, error) {
	if offset > 1<<62 {
		return nil, malformed("offset %#x", offset)
	}
	b := make([]byte, n)
	k, err := r.ReadAt(b, int64(offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read: %w", err)
	}
	return b[:k], nil
}
