package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// encode is protobuf's JSON mapping with the proto's field names, every field
// there. Its white space is put in order, since protojson varies it on purpose.
func encode(m proto.Message, indent bool) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	var out bytes.Buffer
	if indent {
		err = json.Indent(&out, raw, "", "  ")
	} else {
		err = json.Compact(&out, raw)
	}
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func (a *app) write(text []byte) error {
	if _, err := a.Stdout.Write(text); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// tell prints for people; where nobody reads, there is nobody to tell that either.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Stderr, format, args...)
}

// document prints an answer: JSON, or the text that text makes.
func (a *app) document(m proto.Message, text func() string) error {
	if a.json() {
		out, err := encode(m, true)
		if err != nil {
			return err
		}
		return a.write(out)
	}
	return a.write([]byte(text()))
}

// plainDocument prints a value of solo-ctl's own.
func (a *app) plainDocument(v any, text func() string) error {
	if a.json() {
		out, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		return a.write(append(out, '\n'))
	}
	return a.write([]byte(text()))
}

// line prints one JSON document on a line of its own.
func (a *app) line(m proto.Message) error {
	out, err := encode(m, false)
	if err != nil {
		return err
	}
	return a.write(out)
}

// clean escapes what could steer a terminal: control characters, and those that
// change the direction of text.
func clean(s string) string {
	safe := func(r rune) bool {
		return r == '\t' || r != utf8.RuneError && unicode.IsPrint(r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case safe(r):
			b.WriteString(s[i : i+n])
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// fields lays out name and value pairs; pairs without a value are left out.
type fields struct{ b strings.Builder }

func (f *fields) add(name, format string, args ...any) {
	if v := fmt.Sprintf(format, args...); v != "" {
		fmt.Fprintf(&f.b, "%-14s %s\n", name+":", clean(v))
	}
}

func statusText(s *solov1.ServiceStatus) string {
	var f fields
	f.add("name", "%s", s.GetName())
	f.add("state", "%s", s.GetState())
	f.add("reason", "%s", s.GetReason())
	f.add("status", "%s", s.GetStatusText())
	f.add("id", "%s", s.GetServiceId())
	f.add("version", "%d", s.GetVersion())
	f.add("runtime", "%s", s.GetRuntime())
	f.add("tier", "%s", s.GetTier())
	f.add("restart", "%s", s.GetRestart())
	f.add("restarts", "%d", s.GetRestarts())
	f.add("replicas", "%d", s.GetReplicas())
	f.add("memory", "%s of %s", size(s.GetMemoryBytes()), size(s.GetResources().GetMaxMemoryBytes()))
	f.add("cpu", "%s", cpu(s.GetCpuUsec()))
	f.add("startup path", "%s", s.GetStartupPath())
	f.add("code", "%s", s.GetCodeDigest())
	f.add("ports", "%s", strings.Join(s.GetPorts(), ", "))
	if s.GetDeployedAt() != nil {
		f.add("deployed", "%s", s.GetDeployedAt().AsTime().Local().Format(time.RFC3339))
	}
	if len(s.GetInstances()) == 0 {
		return f.b.String()
	}
	rows := [][]string{{"INSTANCE", "STATE", "PID", "STARTED", "STARTUP", "MEMORY", "CPU", "PROCESSES"}}
	for _, i := range s.GetInstances() {
		started := "-"
		if i.GetStartedAt() != nil {
			started = i.GetStartedAt().AsTime().Local().Format(time.DateTime)
		}
		rows = append(rows, []string{i.GetId(), i.GetState(), fmt.Sprint(i.GetPid()), started,
			fmt.Sprintf("%.1f ms", i.GetStartupMs()), size(i.GetMemoryBytes()), cpu(i.GetCpuUsec()), fmt.Sprint(i.GetProcesses())})
	}
	return f.b.String() + "\n" + table(rows)
}

func listText(services []*solov1.ServiceStatus) string {
	rows := [][]string{{"NAME", "STATE", "REASON", "VERSION", "RESTARTS", "INSTANCES", "MEMORY", "CPU", "PORTS"}}
	for _, s := range services {
		rows = append(rows, []string{s.GetName(), s.GetState(), dash(s.GetReason()), fmt.Sprint(s.GetVersion()), fmt.Sprint(s.GetRestarts()),
			fmt.Sprintf("%d/%d", len(s.GetInstances()), s.GetReplicas()), size(s.GetMemoryBytes()), cpu(s.GetCpuUsec()), dash(strings.Join(s.GetPorts(), ","))})
	}
	return table(rows)
}

func planText(p *solov1.Plan) string {
	var f fields
	f.add("name", "%s", p.GetName())
	f.add("runtime", "%s", p.GetRuntime())
	f.add("code", "%s", p.GetCodeDigest())
	f.add("program", "%s", p.GetProgram())
	f.add("argv", "%q", p.GetArgv())
	f.add("env", "%s", strings.Join(p.GetEnv(), " "))
	f.add("mounts", "%s", strings.Join(p.GetMounts(), " "))
	f.add("files", "%s", strings.Join(p.GetFiles(), " "))
	f.add("ports", "%s", strings.Join(p.GetPorts(), " "))
	f.add("memory", "%s", size(p.GetResources().GetMaxMemoryBytes()))
	f.add("processes", "%d", p.GetResources().GetMaxProcesses())
	f.add("restart", "%s", p.GetRestart())
	f.add("ready", "%s", p.GetReady())
	f.add("replicas", "%d", p.GetReplicas())
	f.add("seccomp", "%s", p.GetSeccompProfile())
	f.add("startup path", "%s", p.GetStartupPath())
	return f.b.String()
}

func table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = strings.ReplaceAll(clean(row[i]), "\t", " ")
		}
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a strings.Builder does not fail
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 || v == float64(uint64(v)) {
		return fmt.Sprintf("%d %s", uint64(v), units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func cpu(usec uint64) string {
	return (time.Duration(usec) * time.Microsecond).Round(time.Millisecond).String()
}
