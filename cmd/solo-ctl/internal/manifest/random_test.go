package manifest

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// draw fills m at random: text that YAML has to quote, numbers at their limits.
func draw(t *rapid.T, m protoreflect.Message, depth int) {
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "12", "true", "null", "~", "0444", "- x", "a: b", "#", "'\"", "\t", "ü\n語", "*a", "&a", "<<"}), rapid.StringN(0, 10, 40))
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if depth > 4 || !rapid.Bool().Draw(t, string(fd.Name())) || fd.ContainingOneof() != nil && m.WhichOneof(fd.ContainingOneof()) != nil {
			continue
		}
		value := func() protoreflect.Value {
			switch fd.Kind() {
			case protoreflect.StringKind:
				return protoreflect.ValueOfString(strings.ToValidUTF8(text.Draw(t, "text"), "?"))
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "bytes"))
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
			case protoreflect.Uint32Kind:
				return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
			case protoreflect.Uint64Kind:
				return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
			default:
				t.Fatalf("the manifest has a field %s of kind %s", fd.FullName(), fd.Kind())
				panic("unreachable")
			}
		}
		switch {
		case fd.IsMap():
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString(strings.ToValidUTF8(text.Draw(t, "key"), "?")).MapKey(),
					protoreflect.ValueOfString(strings.ToValidUTF8(text.Draw(t, "value"), "?")))
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				if fd.Kind() == protoreflect.MessageKind {
					draw(t, list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(value())
				}
			}
		case fd.Kind() == protoreflect.MessageKind:
			draw(t, m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, value())
		}
	}
}

// node writes a message as YAML nodes, independently of Decode.
func node(m protoreflect.Message) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode}
	scalar := func(v protoreflect.Value) *yaml.Node {
		n := &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
		switch x := v.Interface().(type) {
		case string: // always in quotes: the library's choice of style is wrong at times
			n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
		case []byte:
			n.Tag, n.Style, n.Value = "!!binary", yaml.TaggedStyle, base64.StdEncoding.EncodeToString(x)
		}
		return n
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		var value *yaml.Node
		switch {
		case fd.IsMap():
			value = &yaml.Node{Kind: yaml.MappingNode}
			m.Get(fd).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				value.Content = append(value.Content, scalar(k.Value()), scalar(v))
				return true
			})
		case fd.IsList():
			value = &yaml.Node{Kind: yaml.SequenceNode}
			for j := range m.Get(fd).List().Len() {
				item := m.Get(fd).List().Get(j)
				if fd.Kind() == protoreflect.MessageKind {
					value.Content = append(value.Content, node(item.Message()))
				} else {
					value.Content = append(value.Content, scalar(item))
				}
			}
		case fd.Kind() == protoreflect.MessageKind:
			value = node(m.Get(fd).Message())
		default:
			value = scalar(m.Get(fd))
		}
		out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: string(fd.Name())}, value)
	}
	return out
}

// TestRoundTrip: whatever request is written as YAML is read back as it was.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &solov1.DeployRequest{}
		draw(t, want.ProtoReflect(), 0)
		text, err := yaml.Marshal(node(want.ProtoReflect()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("request (-want +got):\n%s\nof\n%s", diff, text)
		}
	})
}

// TestTypo: a manifest with one field name changed is refused, by that name.
func TestTypo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &solov1.DeployRequest{Name: "a"}
		draw(t, want.ProtoReflect(), 0)
		root := node(want.ProtoReflect())
		if len(root.Content) == 0 {
			t.Skip()
		}
		key := root.Content[2*rapid.IntRange(0, len(root.Content)/2-1).Draw(t, "field")]
		key.Value += "x"
		text, err := yaml.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		var bad *Error
		if _, err := Decode(text); !errors.As(err, &bad) || bad.Field != key.Value || bad.Line == 0 {
			t.Fatalf("got %v for %s in\n%s", err, key.Value, text)
		}
	})
}

// FuzzDecode: whatever text comes, Decode answers with a request that can be sent,
// or an error that says what is wrong in a few words.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(everything))
	for _, text := range []string{"", "{}", "name: a", "- a", "&a [*a]", "ready: {exec: [a]}", "files: [{content: !!binary AP8=}]", "a: b: c", "\xff", "%YAML 1.1\n---\nname: a", "? a\n: b", "name: !!str 1", "--- !x\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		req, err := Decode(text)
		if err != nil {
			var bad *Error
			if !errors.As(err, &bad) || bad.What == "" || len(err.Error()) > 2000 {
				t.Fatalf("the error of %q is %.3000v", text, err)
			}
			return
		}
		if _, err := proto.Marshal(req); err != nil {
			t.Fatalf("the request of %q cannot be sent: %v", text, err)
		}
		again, err := Decode([]byte(protojson.MarshalOptions{UseProtoNames: true}.Format(&solov1.DeployRequest{Name: req.GetName()})))
		if err != nil || again.GetName() != req.GetName() {
			t.Fatalf("the name %q is not read back: %v, %v", req.GetName(), again, err)
		}
	})
}
