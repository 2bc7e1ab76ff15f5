// Package manifest reads YAML manifests into requests of the API.
//
// Trust: the text is untrusted. Decoding is strict: the fields are those of
// solo.v1.DeployRequest with the proto's names, every other name, a value of
// another type, a duplicate, an alias or an anchor is an error that names field and
// line. Package manifest is pure; what a manifest refers to is read by its caller.
package manifest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// MaxBytes is the largest manifest, in bytes.
const MaxBytes = 1 << 20

// Error is what is wrong with a manifest, and where.
type Error struct {
	// Line counts from 1; 0 when it is not known.
	Line int
	// Field is a path such as "uses[0].port.to"; empty for the whole manifest.
	Field string
	What  string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, "%s: ", e.Field)
	}
	return b.String() + e.What
}

// Decode reads one manifest.
func Decode(text []byte) (*solov1.DeployRequest, error) {
	if len(text) > MaxBytes {
		return nil, &Error{What: fmt.Sprintf("%d bytes are over the limit of %d", len(text), MaxBytes)}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{What: "the manifest is empty"}
		}
		return nil, syntax(err)
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &Error{Line: more.Line, What: "a manifest is one YAML document"}
	case !errors.Is(err, io.EOF):
		return nil, syntax(err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, &Error{What: "the manifest is empty"}
	}
	req := &solov1.DeployRequest{}
	if err := message(doc.Content[0], "", req.ProtoReflect()); err != nil {
		return nil, err
	}
	return req, nil
}

// syntax takes the line out of an error of the YAML parser, which has it in its text.
func syntax(err error) error {
	what := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{What: what}
	if rest, ok := strings.CutPrefix(what, "line "); ok {
		number, rest, ok := strings.Cut(rest, ": ")
		if line, err := strconv.Atoi(number); ok && err == nil {
			e.Line, e.What = line, rest
		}
	}
	return e
}

func wrong(n *yaml.Node, field, format string, args ...any) error {
	return &Error{Line: n.Line, Field: field, What: fmt.Sprintf(format, args...)}
}

// plain refuses what would let one node stand for many.
func plain(n *yaml.Node, field string) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return wrong(n, field, "anchors and aliases are not supported")
	}
	return nil
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

// message fills m from a mapping.
func message(n *yaml.Node, field string, m protoreflect.Message) error {
	if err := plain(n, field); err != nil {
		return err
	}
	desc := m.Descriptor()
	if n.Kind == yaml.SequenceNode && desc.FullName() == "solo.v1.ExecProbe" {
		// In YAML a command is a plain list.
		return list(n, field, m, desc.Fields().ByName("command"))
	}
	if n.Kind != yaml.MappingNode {
		return wrong(n, field, "is %s, not a mapping with %s", kind(n), names(desc))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if err := plain(key, field); err != nil {
			return err
		}
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			return wrong(key, field, "has a key that is %s, not a field name", kind(key))
		}
		path := join(field, clip(key.Value))
		fd := desc.Fields().ByName(protoreflect.Name(key.Value))
		if fd == nil {
			return wrong(key, path, "there is no such field; here are: %s", names(desc))
		}
		if seen[key.Value] {
			return wrong(key, path, "is there twice")
		}
		seen[key.Value] = true
		if one := fd.ContainingOneof(); one != nil {
			if other := m.WhichOneof(one); other != nil {
				return wrong(key, path, "excludes %s: only one of them may be given", other.Name())
			}
		}
		if err := set(value, path, m, fd); err != nil {
			return err
		}
	}
	return nil
}

func set(n *yaml.Node, field string, m protoreflect.Message, fd protoreflect.FieldDescriptor) error {
	if err := plain(n, field); err != nil {
		return err
	}
	switch {
	case fd.IsMap():
		return mapping(n, field, m, fd)
	case fd.IsList():
		return list(n, field, m, fd)
	case fd.Kind() == protoreflect.MessageKind:
		return message(n, field, m.Mutable(fd).Message())
	}
	v, err := scalar(n, field, fd)
	if err != nil {
		return err
	}
	m.Set(fd, v)
	return nil
}

func list(n *yaml.Node, field string, m protoreflect.Message, fd protoreflect.FieldDescriptor) error {
	if n.Kind != yaml.SequenceNode {
		return wrong(n, field, "is %s, not a list", kind(n))
	}
	l := m.Mutable(fd).List()
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", field, i)
		if err := plain(item, path); err != nil {
			return err
		}
		if fd.Kind() == protoreflect.MessageKind {
			if err := message(item, path, l.AppendMutable().Message()); err != nil {
				return err
			}
			continue
		}
		v, err := scalar(item, path, fd)
		if err != nil {
			return err
		}
		l.Append(v)
	}
	return nil
}

func mapping(n *yaml.Node, field string, m protoreflect.Message, fd protoreflect.FieldDescriptor) error {
	if n.Kind != yaml.MappingNode {
		return wrong(n, field, "is %s, not a mapping", kind(n))
	}
	out := m.Mutable(fd).Map()
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if err := plain(key, field); err != nil {
			return err
		}
		k, err := scalar(key, field+" key", fd.MapKey())
		if err != nil {
			return err
		}
		path := join(field, clip(key.Value))
		if out.Has(k.MapKey()) {
			return wrong(key, path, "is there twice")
		}
		if err := plain(value, path); err != nil {
			return err
		}
		v, err := scalar(value, path, fd.MapValue())
		if err != nil {
			return err
		}
		out.Set(k.MapKey(), v)
	}
	return nil
}

// scalar takes a value only in its own YAML type: a number is no string, since
// 0444 and 1.10 would silently become something else.
func scalar(n *yaml.Node, field string, fd protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	none := protoreflect.Value{}
	tag := ""
	if n.Kind == yaml.ScalarNode {
		tag = n.ShortTag()
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if tag != "!!str" {
			return none, wrong(n, field, "is %s, not a string%s", kind(n), quote(n))
		}
		if !utf8.ValidString(n.Value) {
			return none, wrong(n, field, "is not UTF-8")
		}
		return protoreflect.ValueOfString(n.Value), nil
	case protoreflect.BytesKind:
		switch tag {
		case "!!str":
			return protoreflect.ValueOfBytes([]byte(n.Value)), nil
		case "!!binary":
			b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
			if err != nil {
				return none, wrong(n, field, "is not base64")
			}
			return protoreflect.ValueOfBytes(b), nil
		}
		return none, wrong(n, field, "is %s, not a string%s", kind(n), quote(n))
	case protoreflect.BoolKind:
		// The tag may be the author's: "!!bool maybe".
		yes, no := strings.EqualFold(n.Value, "true"), strings.EqualFold(n.Value, "false")
		if tag != "!!bool" || !yes && !no {
			return none, wrong(n, field, "is %s, not true or false", kind(n))
		}
		return protoreflect.ValueOfBool(yes), nil
	case protoreflect.Uint32Kind:
		v, err := number(n, field, tag, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(v)), err
	case protoreflect.Uint64Kind:
		v, err := number(n, field, tag, math.MaxUint64)
		return protoreflect.ValueOfUint64(v), err
	default:
		return none, wrong(n, field, "cannot be given in a manifest")
	}
}

func number(n *yaml.Node, field, tag string, limit uint64) (uint64, error) {
	if tag != "!!int" {
		return 0, wrong(n, field, "is %s, not a whole number", kind(n))
	}
	v, err := strconv.ParseUint(n.Value, 0, 64)
	if err != nil || v > limit {
		return 0, wrong(n, field, "%s is not a whole number from 0 to %d", clip(n.Value), limit)
	}
	return v, nil
}

func quote(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		return fmt.Sprintf(`; write it in quotes: "%s"`, clip(n.Value))
	}
	return ""
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str":
			return "a string"
		case "!!int", "!!float":
			return "a number"
		case "!!bool":
			return "true or false"
		case "!!null":
			return "empty"
		}
		return "of type " + clip(n.ShortTag())
	default:
		return "of another type"
	}
}

func names(desc protoreflect.MessageDescriptor) string {
	var out []string
	for i := range desc.Fields().Len() {
		out = append(out, string(desc.Fields().Get(i).Name()))
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func clip(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
