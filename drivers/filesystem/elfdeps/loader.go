package elfdeps

import (
	"errors"
	"path"
	"strings"
)

const cacheFile = "/etc/ld.so.cache"

// glibc is ld-linux(8)'s way to find a library.
type glibc struct {
	cache    map[string]string
	defaults []string
}

func newGlibc(s *search) (loader, error) {
	g := glibc{defaults: []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"}}
	// Debian's loader has the multiarch directories built in, and not lib64.
	multiarch := "/lib/" + s.machine.triplet
	if _, err := s.view.walk("/", multiarch, new(int)); err == nil {
		g.defaults = []string{multiarch, "/usr" + multiarch, "/lib", "/usr/lib"}
	}
	content, err := s.view.content(cacheFile, maxCacheBytes)
	if errors.Is(err, errAbsent) {
		return g, nil
	}
	if err != nil {
		return nil, err
	}
	// The loader ignores a cache that it does not understand, and so do we.
	if cache, err := parseCache(content, s.machine); err == nil {
		g.cache = cache
	}
	return g, nil
}

func (glibc) provides(string) bool { return false }

func (g glibc) find(s *search, name string, by *node) (string, error) {
	if by.runpath == nil {
		for holder := by; holder != nil; holder = holder.parent {
			if holder.runpath != nil {
				continue
			}
			opened, err := s.inDirs(name, holder.rpath, holder)
			if !errors.Is(err, errAbsent) {
				return opened, err
			}
		}
	}
	opened, err := s.inDirs(name, by.runpath, by)
	if !errors.Is(err, errAbsent) {
		return opened, err
	}
	if by.noDefLib {
		return "", errAbsent
	}
	if cached := g.cache[name]; cached != "" {
		ok, err := s.candidate(cached)
		if err != nil {
			return "", err
		}
		if ok {
			return cached, g.needCache(s, cached)
		}
	}
	return s.inDirs(name, g.defaults, by)
}

// needCache makes the cache part of the result if the loader would not find the
// library in a default directory.
func (g glibc) needCache(s *search, opened string) error {
	dir := s.view.inside(path.Dir(opened))
	for _, d := range g.defaults {
		if s.view.inside(d) == dir {
			return nil
		}
	}
	real, err := s.view.file(cacheFile)
	if err != nil {
		return err
	}
	return s.add(cacheFile, real)
}

// musl is the way of ldso/dynlink.c.
type musl struct {
	pathFile string
	// fromFile says that dirs come from the path file.
	fromFile bool
	dirs     []string
}

func newMusl(s *search, interpreter string) (loader, error) {
	m := &musl{dirs: []string{"/lib", "/usr/local/lib", "/usr/lib"}}
	// The loader looks two levels above itself: /lib/ld-musl-x86_64.so.1 has its
	// file in /etc.
	prefix := path.Dir(path.Dir(interpreter))
	m.pathFile = path.Join(prefix, "etc", "ld-musl-"+s.machine.musl+".path")
	content, err := s.view.content(m.pathFile, maxPath)
	if errors.Is(err, errAbsent) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	m.fromFile = true
	m.dirs = strings.FieldsFunc(string(content), func(r rune) bool { return r == ':' || r == '\n' })
	if len(m.dirs) > maxStrings {
		m.dirs = m.dirs[:maxStrings]
	}
	return m, nil
}

// provides: musl has all of these in itself and never looks for them.
func (*musl) provides(name string) bool {
	rest, ok := strings.CutPrefix(name, "lib")
	if !ok {
		return false
	}
	for _, own := range []string{"c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."} {
		if strings.HasPrefix(rest, own) {
			return true
		}
	}
	return false
}

func (m *musl) find(s *search, name string, by *node) (string, error) {
	for holder := by; holder != nil; holder = holder.parent {
		dirs := holder.runpath
		if dirs == nil {
			dirs = holder.rpath
		}
		opened, err := s.inDirs(name, dirs, holder)
		if !errors.Is(err, errAbsent) {
			return opened, err
		}
	}
	opened, err := s.inDirs(name, m.dirs, by)
	if err != nil || !m.fromFile {
		return opened, err
	}
	real, err := s.view.file(m.pathFile)
	if err != nil {
		return "", err
	}
	return opened, s.add(m.pathFile, real)
}
