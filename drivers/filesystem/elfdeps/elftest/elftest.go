// Package elftest makes ELF files and ld.so caches for tests, right ones and lying
// ones. It follows elf(5) and is written apart from the code it tests.
package elftest

import (
	"bytes"
	"encoding/binary"
)

// Types and machines of elf(5).
const (
	Rel, Exec, Dyn, Core = 1, 2, 3, 4

	X86, X8664, AArch64 = 3, 62, 183
)

// Flags of DT_FLAGS_1.
const (
	NoDefLib = 0x800
	PIE      = 0x08000000
)

// Image says what is in an ELF file. The zero value is a static program for x86-64.
type Image struct {
	// Type is Dyn when 0, and Machine X8664.
	Type, Machine uint16
	// Class is 2 (64 bit) and Order 1 (little endian) when 0.
	Class, Order byte
	// NoEntry leaves out the entry point.
	NoEntry bool
	Interp  string
	Needed  []string
	Soname  string
	// Rpath and Runpath are there when not empty.
	Rpath, Runpath string
	Flags1         uint64
	// Padding bytes follow the end.
	Padding int
}

const (
	headerSize, programSize = 64, 56
	base                    = 0x400000
)

// Bytes is the file. One segment loads all of it at an address that is not its offset.
func (i Image) Bytes() []byte {
	le := binary.LittleEndian
	dynamic := len(i.Needed) > 0 || i.Soname != "" || i.Rpath != "" || i.Runpath != "" || i.Flags1 != 0
	count := 1
	if i.Interp != "" {
		count++
	}
	if dynamic {
		count++
	}
	body := uint64(headerSize + count*programSize)
	interp := append([]byte(i.Interp), 0)
	if i.Interp == "" {
		interp = nil
	}
	strings := []byte{0}
	var entries []byte
	entry := func(tag, value uint64) { entries = le.AppendUint64(le.AppendUint64(entries, tag), value) }
	text := func(tag uint64, s string) {
		entry(tag, uint64(len(strings)))
		strings = append(append(strings, s...), 0)
	}
	for _, n := range i.Needed {
		text(1, n)
	}
	for _, t := range []struct {
		tag uint64
		s   string
	}{{14, i.Soname}, {15, i.Rpath}, {29, i.Runpath}} {
		if t.s != "" {
			text(t.tag, t.s)
		}
	}
	if i.Flags1 != 0 {
		entry(0x6ffffffb, i.Flags1)
	}
	dynamicAt := body + uint64(len(interp))
	stringsAt := dynamicAt + uint64(len(entries)) + 3*16
	entry(5, base+stringsAt)
	entry(10, uint64(len(strings)))
	entry(0, 0)
	total := stringsAt + uint64(len(strings))

	out := i.header(count)
	program := func(kind uint32, offset, size uint64) {
		out = le.AppendUint32(out, kind)
		out = le.AppendUint32(out, 5)
		for _, v := range []uint64{offset, base + offset, base + offset, size, size, 8} {
			out = le.AppendUint64(out, v)
		}
	}
	program(1, 0, total)
	if dynamic {
		program(2, dynamicAt, uint64(len(entries)))
	}
	if i.Interp != "" {
		program(3, body, uint64(len(interp)))
	}
	out = append(append(append(out, interp...), entries...), strings...)
	return append(out, make([]byte, i.Padding)...)
}

func (i Image) header(programs int) []byte {
	or := func(v, other uint16) uint16 {
		if v == 0 {
			return other
		}
		return v
	}
	class, data := byte(or(uint16(i.Class), 2)), byte(or(uint16(i.Order), 1))
	var order binary.ByteOrder = binary.LittleEndian
	if data == 2 {
		order = binary.BigEndian
	}
	h := make([]byte, headerSize)
	copy(h, "\x7fELF")
	h[4], h[5], h[6] = class, data, 1
	order.PutUint16(h[16:], or(i.Type, Dyn))
	order.PutUint16(h[18:], or(i.Machine, X8664))
	order.PutUint32(h[20:], 1)
	if !i.NoEntry {
		order.PutUint64(h[24:], base+0x1000)
	}
	order.PutUint64(h[32:], headerSize)
	order.PutUint16(h[52:], headerSize)
	order.PutUint16(h[54:], programSize)
	order.PutUint16(h[56:], uint16(programs))
	return h
}

// CacheEntry is one line of `ldconfig -p`.
type CacheEntry struct {
	Name, Path string
	// Flags is 0x0303 (libc6, x86-64) when 0.
	Flags uint32
	Hwcap uint64
}

// Cache is an ld.so.cache in the new format, behind an empty old one if old is set.
func Cache(old bool, entries ...CacheEntry) []byte {
	le := binary.LittleEndian
	var out bytes.Buffer
	if old {
		// One entry of the old format, and padding to eight bytes.
		head := append([]byte("ld.so-1.7.0\x00"), 1, 0, 0, 0)
		head = append(head, make([]byte, 12)...)
		out.Write(append(head, make([]byte, (8-len(head)%8)%8)...))
	}
	head := make([]byte, 48)
	copy(head, "glibc-ld.so.cache1.1")
	le.PutUint32(head[20:], uint32(len(entries)))
	head[28] = 2
	var table, text []byte
	at := func(s string) uint32 {
		offset := 48 + 24*len(entries) + len(text)
		text = append(append(text, s...), 0)
		return uint32(offset)
	}
	for _, e := range entries {
		flags := e.Flags
		if flags == 0 {
			flags = 0x0303
		}
		table = le.AppendUint32(table, flags)
		table = le.AppendUint32(table, at(e.Name))
		table = le.AppendUint32(table, at(e.Path))
		table = le.AppendUint32(table, 0)
		table = le.AppendUint64(table, e.Hwcap)
	}
	le.PutUint32(head[24:], uint32(len(text)))
	out.Write(head)
	out.Write(table)
	out.Write(text)
	return out.Bytes()
}
