package network

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// maxAnswer bounds what is read of the answer to an HTTP probe.
	maxAnswer = 64 << 10
	// defaultProbeTimeout and maxProbeTimeout bound a probe's time-out.
	defaultProbeTimeout = time.Second
	maxProbeTimeout     = time.Minute
	maxPath             = 2048
	// maxDetail bounds the reason in the answer to the kernel.
	maxDetail = 500
)

// probe starts a probe; the answer is a NetProbeResult. It takes f over.
func (d *driver) probe(p *controlv1.NetProbe, f *os.File) error {
	if err := d.validProbe(p, f); err != nil {
		_ = f.Close()
		return d.probed(p.GetId(), err)
	}
	select {
	case d.probes <- struct{}{}:
	default:
		_ = f.Close()
		return d.probed(p.GetId(), fmt.Errorf("%d probes are under way", maxProbes))
	}
	d.work.Go(func() {
		defer func() { <-d.probes }()
		// When the connection is gone Serve ends by its own reading.
		_ = d.probed(p.GetId(), probe(d.ctx, p, f))
	})
	return nil
}

func (d *driver) probed(id uint64, err error) error {
	r := &controlv1.NetProbeResult{Id: id, Ready: err == nil}
	if err != nil {
		// It may quote what the service answered.
		r.Detail = strings.ToValidUTF8(err.Error(), "\uFFFD")
		if len(r.Detail) > maxDetail {
			r.Detail = strings.ToValidUTF8(r.Detail[:maxDetail], "") + "…"
		}
	}
	return d.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_NetProbeResult{NetProbeResult: r}})
}

func (d *driver) validProbe(p *controlv1.NetProbe, f *os.File) error {
	if p.GetPort() == 0 || p.GetPort() > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535", p.GetPort())
	}
	path := p.GetHttpPath()
	if len(path) > maxPath || (path != "" && path[0] != '/') {
		return fmt.Errorf("path %.80q does not start with / or is longer than %d bytes", path, maxPath)
	}
	for i := range len(path) {
		if path[i] <= ' ' || path[i] >= 0x7f {
			return fmt.Errorf("path %.80q has a character that must be escaped", path)
		}
	}
	return checkSocket(f, d.host)
}

// probe connects f and, if a path is given, makes one GET. nil means ready.
func probe(ctx context.Context, p *controlv1.NetProbe, f *os.File) error {
	timeout := time.Duration(p.GetTimeoutMs()) * time.Millisecond
	if timeout <= 0 {
		timeout = defaultProbeTimeout
	}
	deadline := time.Now().Add(min(timeout, maxProbeTimeout))
	conn, err := connect(ctx, f, uint16(p.GetPort()), deadline)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if p.GetHttpPath() == "" {
		return nil
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("http probe: %w", err)
	}
	// By hand: net/http's client wants to dial, and would follow redirects.
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: solo-net\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		p.GetHttpPath(), p.GetPort())
	if _, err := io.WriteString(conn, request); err != nil {
		return fmt.Errorf("http probe: %w", err)
	}
	return answer(conn)
}

// answer reads the head of an HTTP response, within maxAnswer bytes, and returns nil
// when its status is 200 to 399. The body is left alone: it may have no end.
func answer(r io.Reader) error {
	head, err := readHead(r)
	if err != nil {
		return fmt.Errorf("http probe: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return fmt.Errorf("http probe: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("http probe: status %d", resp.StatusCode)
	}
	return nil
}

// readHead reads to the first empty line.
func readHead(r io.Reader) ([]byte, error) {
	var head []byte
	lines := bufio.NewReader(io.LimitReader(r, maxAnswer))
	for {
		line, err := lines.ReadBytes('\n')
		head = append(head, line...)
		switch {
		case len(head) == maxAnswer && err != nil:
			return nil, fmt.Errorf("the answer's head is over %d bytes", maxAnswer)
		case errors.Is(err, io.EOF):
			return nil, errors.New("the answer has no whole head")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, os.ErrDeadlineExceeded
		case err != nil:
			return nil, err
		case len(bytes.TrimRight(line, "\r\n")) == 0:
			return head, nil
		}
	}
}
