package elfdeps

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Bounds on ld.so.cache.
const (
	maxCacheBytes   = 32 << 20
	maxCacheEntries = 1 << 18
)

var errCache = errors.New("ld.so.cache is malformed")

// The layout of glibc's dl-cache.h. Offsets of strings count from the start of the
// header of the new format, which in older caches follows an old one.
const (
	oldMagic       = "ld.so-1.7.0\x00"
	newMagic       = "glibc-ld.so.cache1.1"
	oldHeaderSize  = 16
	oldEntrySize   = 12
	newHeaderSize  = 48
	newEntrySize   = 24
	littleEndian   = 2
	endianMask     = 3
	endianPosition = 28
)

// parseCache maps the names in an ld.so.cache to paths, for one machine and without
// the variants for newer processors. The first entry of a name counts.
func parseCache(content []byte, m machine) (map[string]string, error) {
	le := binary.LittleEndian
	if bytes.HasPrefix(content, []byte(oldMagic)) {
		if len(content) < oldHeaderSize {
			return nil, errCache
		}
		skip := oldHeaderSize + oldEntrySize*uint64(le.Uint32(content[12:]))
		skip = (skip + 7) &^ 7
		if skip > uint64(len(content)) {
			return nil, errCache
		}
		content = content[skip:]
	}
	if len(content) < newHeaderSize || !bytes.HasPrefix(content, []byte(newMagic)) {
		return nil, errCache
	}
	// Zero is a cache of a glibc that did not say.
	if order := content[endianPosition] & endianMask; order != 0 && order != littleEndian {
		return nil, errCache
	}
	n := uint64(le.Uint32(content[20:]))
	if n > maxCacheEntries || newHeaderSize+n*newEntrySize > uint64(len(content)) {
		return nil, errCache
	}
	libraries := map[string]string{}
	for i := range n {
		entry := content[newHeaderSize+i*newEntrySize:]
		hwcap := le.Uint64(entry[16:])
		if int32(le.Uint32(entry)) != m.cacheFlags || hwcap != 0 {
			continue
		}
		name, ok := cacheString(content, le.Uint32(entry[4:]))
		path, ok2 := cacheString(content, le.Uint32(entry[8:]))
		if !ok || !ok2 {
			return nil, errCache
		}
		if _, known := libraries[name]; !known {
			libraries[name] = path
		}
	}
	return libraries, nil
}

func cacheString(content []byte, offset uint32) (string, bool) {
	if uint64(offset) >= uint64(len(content)) {
		return "", false
	}
	text := content[offset:]
	end := bytes.IndexByte(text[:min(len(text), maxName+1)], 0)
	if end < 0 {
		return "", false
	}
	return string(text[:end]), true
}
