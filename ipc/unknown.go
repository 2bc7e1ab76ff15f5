package ipc

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// UnknownField returns where in m the first field is that its type does not know, as
// in "resources.17", and false if there is none. It looks into every part of m.
func UnknownField(m proto.Message) (string, bool) {
	return unknown(m.ProtoReflect(), func(protoreflect.Message) bool { return true })
}

// foreign is UnknownField within the parts of m's own protobuf package.
func foreign(m protoreflect.Message) (string, bool) {
	pkg := m.Descriptor().ParentFile().Package()
	return unknown(m, func(part protoreflect.Message) bool {
		return part.Descriptor().ParentFile().Package() == pkg
	})
}

// unknown walks m and those of its parts that enter accepts. How deep a message nests
// is bounded by its type: none of ours contains itself.
func unknown(m protoreflect.Message, enter func(protoreflect.Message) bool) (where string, found bool) {
	if b := m.GetUnknown(); len(b) > 0 {
		number, _, n := protowire.ConsumeTag(b)
		if n < 0 {
			return "?", true
		}
		return fmt.Sprint(number), true
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() == nil {
			return true
		}
		look := func(part protoreflect.Message, step func() string) bool {
			if enter(part) {
				if where, found = unknown(part, enter); found {
					where = step() + "." + where
				}
			}
			return !found
		}
		name := string(fd.Name())
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
					return look(v.Message(), func() string { return fmt.Sprintf("%s[%q]", name, k.String()) })
				})
			}
		case fd.IsList():
			list := v.List()
			for i := 0; i < list.Len() && !found; i++ {
				look(list.Get(i).Message(), func() string { return fmt.Sprintf("%s[%d]", name, i) })
			}
		default:
			look(v.Message(), func() string { return name })
		}
		return !found
	})
	return where, found
}
