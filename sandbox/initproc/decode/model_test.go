package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// The limits of order.h.
const (
	maxFDs         = 253
	maxStrings     = 2048
	maxDirectories = 256
	maxRules       = 512
	maxRlimits     = 16
	maxFilter      = 4096 * 8
)

const reject = "reject"

// decode is what the harness must print for a record.
func decode(record []byte) string {
	kind, typ, n := protowire.ConsumeTag(record)
	if n < 0 || typ != protowire.BytesType {
		return reject
	}
	// One order, not several that protobuf would merge.
	body, m := protowire.ConsumeBytes(record[n:])
	order := &controlv1.InitOrder{}
	if m < 0 || n+m != len(record) || proto.Unmarshal(record, order) != nil {
		return reject
	}
	field := order.ProtoReflect().Descriptor().Fields().ByNumber(kind)
	if field == nil || !wellFormed(field.Message(), body) {
		return reject
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d", kind)
	if lease := order.GetLease(); lease != nil {
		if !leaseAllowed(lease) {
			return reject
		}
		printLease(&b, lease)
		return b.String()
	}
	s, mk, li, ex, mp := order.GetSignal(), order.GetMakeSockets(), order.GetListen(), order.GetExec(), order.GetMainPid()
	if s != nil && (s.Signal < 1 || s.Signal > 64) || mp != nil && mp.Pid <= 1 ||
		ex != nil && (len(ex.Argv) == 0 || len(ex.Argv) > maxStrings) {
		return reject
	}
	all := 0
	if s.GetAll() {
		all = 1
	}
	fmt.Fprintf(&b, " id %d signal %d %d socket %d %d %d listen %d %d exec %d pid %d", mk.GetId()+li.GetId()+ex.GetId(), s.GetSignal(), all,
		mk.GetFamily(), mk.GetType(), mk.GetN(), li.GetAddress(), li.GetPort(), ex.GetTimeoutMs(), mp.GetPid())
	if ex != nil {
		printList(&b, ex.Argv)
	}
	return b.String()
}

// wellFormed checks what Go's protobuf lets pass: unknown fields, numbers that do not
// fit, and what C's strings cannot hold.
func wellFormed(md protoreflect.MessageDescriptor, b []byte) bool {
	last := map[protowire.Number]uint64{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		fd := md.Fields().ByNumber(num)
		if n < 0 || fd == nil {
			return false
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 || !numberAllowed(fd, v) {
				return false
			}
			last[num] = v
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 || !bytesAllowed(fd, v) {
				return false
			}
			b = b[n:]
		default:
			return false
		}
	}
	// Of a field given twice the last counts.
	switch md.Name() {
	case "LeaseMount":
		return last[2] <= 1
	case "LeaseFile":
		return last[2] <= 0o777
	case "Rlimit":
		return last[1] <= 64
	}
	return true
}

func numberAllowed(fd protoreflect.FieldDescriptor, v uint64) bool {
	switch fd.Kind() {
	case protoreflect.Uint32Kind:
		switch fd.Parent().Name() {
		case "LeaseFile", "Rlimit": // see wellFormed
			return true
		}
		return v <= math.MaxUint32
	case protoreflect.Int32Kind:
		return int64(v) >= math.MinInt32 && int64(v) <= math.MaxInt32
	case protoreflect.Uint64Kind, protoreflect.BoolKind:
		return true
	default:
		return false
	}
}

func bytesAllowed(fd protoreflect.FieldDescriptor, v []byte) bool {
	switch {
	case fd.Kind() == protoreflect.MessageKind:
		return wellFormed(fd.Message(), v)
	case fd.Kind() != protoreflect.BytesKind:
		return false
	case fd.Name() == "floor" || fd.Name() == "filter":
		return len(v)%8 == 0 && len(v) <= maxFilter
	}
	return !bytes.Contains(v, []byte{0})
}

func leaseAllowed(l *controlv1.Lease) bool {
	return len(l.Program) > 0 && len(l.Argv) > 0 && len(l.Argv) <= maxStrings && len(l.Env) <= maxStrings &&
		len(l.Mounts) <= maxFDs && len(l.Files) <= maxFDs && len(l.Directories) <= maxDirectories &&
		len(l.Rlimits) <= maxRlimits && len(l.LandlockRules) <= maxRules && l.Uid != 0 && l.Gid != 0 &&
		len(l.Floor) > 0 && len(l.Filter) > 0 && l.ListenFds <= l.Descriptors &&
		3+uint64(len(l.Mounts))+uint64(len(l.Files))+uint64(l.Descriptors) <= maxFDs
}

func printList(b *strings.Builder, list [][]byte) {
	fmt.Fprintf(b, " %d", len(list))
	for _, s := range list {
		fmt.Fprintf(b, " '%x", s)
	}
}

func printLease(b *strings.Builder, l *controlv1.Lease) {
	fmt.Fprintf(b, " '%x", l.Program)
	printList(b, l.Argv)
	printList(b, l.Env)
	fmt.Fprintf(b, " '%x mounts", l.Cwd)
	for _, m := range l.Mounts {
		directory := 0
		if m.Directory {
			directory = 1
		}
		fmt.Fprintf(b, " '%x %d", m.Target, directory)
	}
	b.WriteString(" files")
	for _, f := range l.Files {
		fmt.Fprintf(b, " '%x %d", f.Path, f.Mode)
	}
	b.WriteString(" directories")
	for _, d := range l.Directories {
		fmt.Fprintf(b, " '%x", d)
	}
	b.WriteString(" rlimits")
	for _, r := range l.Rlimits {
		fmt.Fprintf(b, " %d %d %d", r.Resource, r.Soft, r.Hard)
	}
	fmt.Fprintf(b, " %d %d %d %d rules", l.Uid, l.Gid, l.LandlockFs, l.LandlockScoped)
	for _, r := range l.LandlockRules {
		fmt.Fprintf(b, " '%x %d", r.Path, r.Access)
	}
	for _, f := range [][]byte{l.Floor, l.Filter} {
		b.WriteByte(' ')
		for ; len(f) > 0; f = f[8:] {
			fmt.Fprintf(b, "[%d %d %d %d]", binary.NativeEndian.Uint16(f), f[2], f[3], binary.NativeEndian.Uint32(f[4:]))
		}
	}
	fmt.Fprintf(b, " %d %d", l.Descriptors, l.ListenFds)
}
