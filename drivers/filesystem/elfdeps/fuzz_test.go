package elfdeps

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/drivers/filesystem/elfdeps/elftest"
)

func amd64(t testing.TB) machine {
	m, err := machineFor("amd64")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// FuzzParse holds the bounds on one file.
func FuzzParse(f *testing.F) {
	for _, i := range []elftest.Image{
		{}, {Type: elftest.Exec}, {Machine: elftest.AArch64}, {Class: 1, Machine: elftest.X86}, {Order: 2},
		{Interp: "/lib64/ld-linux-x86-64.so.2", Needed: []string{"libc.so.6", "libm.so.6"}, Runpath: "$ORIGIN/../lib:/x"},
		{Soname: "liba.so", Rpath: "/a:/b", Flags1: elftest.NoDefLib},
	} {
		f.Add(i.Bytes())
	}
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := amd64(t)
		o, err := parse(bytes.NewReader(b), m)
		if err != nil {
			var other *ArchitectureError
			if o != nil || !errors.Is(err, ErrScript) && !errors.Is(err, ErrNotELF) && !errors.Is(err, ErrMalformed) && !errors.As(err, &other) {
				t.Fatalf("%v beside %T %v", o, err, err)
			}
			return
		}
		if len(o.needed) > maxStrings || len(o.rpath) > maxStrings || len(o.runpath) > maxStrings {
			t.Fatalf("%d needed, %d rpath, %d runpath", len(o.needed), len(o.rpath), len(o.runpath))
		}
		for _, name := range append([]string{o.interp, o.soname}, o.needed...) {
			if len(name) > maxName || strings.ContainsRune(name, 0) {
				t.Fatalf("name %q", name)
			}
		}
		again, err := parse(bytes.NewReader(b), m)
		if diff := cmp.Diff(o, again, cmp.AllowUnexported(object{})); err != nil || diff != "" {
			t.Fatalf("the same bytes give something else: %v\n%s", err, diff)
		}
	})
}

// FuzzCache: names and paths come from inside the file, and are whole.
func FuzzCache(f *testing.F) {
	one := elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}
	f.Add(elftest.Cache(false))
	f.Add(elftest.Cache(false, one, one))
	f.Add(elftest.Cache(true, one, elftest.CacheEntry{Name: "libb.so", Path: "/o/libb.so", Hwcap: 1}))
	f.Add([]byte(oldMagic + "\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		libraries, err := parseCache(b, amd64(t))
		if err != nil && (len(libraries) > 0 || !errors.Is(err, errCache)) {
			t.Fatalf("%v beside %v", libraries, err)
		}
		for name, path := range libraries {
			for _, s := range []string{name, path} {
				if len(s) > maxName || strings.ContainsRune(s, 0) || !bytes.Contains(b, append([]byte(s), 0)) {
					t.Fatalf("%q is not in the cache", s)
				}
			}
		}
	})
}

func TestParseCache(t *testing.T) {
	a := elftest.CacheEntry{Name: "liba.so", Path: "/o/liba.so"}
	good := elftest.Cache(false, a)
	change := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want map[string]string
		err  error
	}{
		{"one", good, map[string]string{"liba.so": "/o/liba.so"}, nil},
		{"none", elftest.Cache(false), map[string]string{}, nil},
		{"first wins", elftest.Cache(false, a, elftest.CacheEntry{Name: "liba.so", Path: "/z"}), map[string]string{"liba.so": "/o/liba.so"}, nil},
		{"behind the old format", elftest.Cache(true, a), map[string]string{"liba.so": "/o/liba.so"}, nil},
		{"other machine", elftest.Cache(false, elftest.CacheEntry{Name: "x", Path: "/x", Flags: 0x0a03}), map[string]string{}, nil},
		{"newer processor", elftest.Cache(false, elftest.CacheEntry{Name: "x", Path: "/x", Hwcap: 1 << 62}), map[string]string{}, nil},
		{"byte order not said", change(endianPosition, 0), map[string]string{"liba.so": "/o/liba.so"}, nil},
		{"big-endian", change(endianPosition, 3), nil, errCache},
		{"empty", nil, nil, errCache},
		{"no magic", change(0, 'x'), nil, errCache},
		{"other version", change(19, '2'), nil, errCache},
		{"header cut", good[:47], nil, errCache},
		{"table cut", good[:60], nil, errCache},
		{"too many entries", change(22, 0xff), nil, errCache},
		{"name outside", change(newHeaderSize+4+3, 0xff), nil, errCache},
		{"path outside", change(newHeaderSize+8+3, 0xff), nil, errCache},
		{"path not terminated", good[:len(good)-1], nil, errCache},
		{"old header cut", []byte(oldMagic), nil, errCache},
		{"old table cut", append([]byte(oldMagic), 0xff, 0xff, 0xff, 0xff), nil, errCache},
	} {
		got, err := parseCache(tt.in, amd64(t))
		if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, diff)
		}
	}
}

// TestBounds is exact at the edges of one file's bounds.
func TestBounds(t *testing.T) {
	many := make([]string, maxStrings+1)
	for i := range many {
		many[i] = "l"
	}
	long := strings.Repeat("n", maxName+1)
	for _, tt := range []struct {
		name    string
		in, out elftest.Image
	}{
		{"libraries", elftest.Image{Needed: many[1:]}, elftest.Image{Needed: many}},
		{"a library's name", elftest.Image{Needed: []string{long[1:]}}, elftest.Image{Needed: []string{long}}},
		{"soname", elftest.Image{Soname: long[1:]}, elftest.Image{Soname: long}},
		{"interpreter", elftest.Image{Interp: "/" + long[2:]}, elftest.Image{Interp: "/" + long[1:]}},
		{"search directories", elftest.Image{Rpath: strings.Repeat(":", maxStrings-1)}, elftest.Image{Rpath: strings.Repeat(":", maxStrings)}},
		{"bytes of search directories", elftest.Image{Runpath: strings.Repeat("r", maxPath)}, elftest.Image{Runpath: strings.Repeat("r", maxPath+1)}},
		{"a nameless library", elftest.Image{Needed: []string{"l"}}, elftest.Image{Needed: []string{""}}},
	} {
		if _, err := parse(bytes.NewReader(tt.in.Bytes()), amd64(t)); err != nil {
			t.Errorf("%s at the bound: %v", tt.name, err)
		}
		if o, err := parse(bytes.NewReader(tt.out.Bytes()), amd64(t)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s over the bound: %v, %v", tt.name, o, err)
		}
	}
}
