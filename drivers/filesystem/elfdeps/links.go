package elfdeps

import (
	"os"
	"path"
	"slices"
	"strings"
)

// links are the symbolic links of the root directory on the way to the paths, which
// are as the loader opens them.
func (v *view) links(paths []string) []Link {
	var links []Link
	for _, p := range paths {
		first, _, _ := strings.Cut(strings.TrimPrefix(path.Clean(p), "/"), "/")
		l := Link{Path: "/" + first}
		var err error
		if l.Target, err = os.Readlink(path.Join(v.root, first)); err == nil && !slices.Contains(links, l) {
			links = append(links, l)
		}
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Path, b.Path) })
	return links
}
