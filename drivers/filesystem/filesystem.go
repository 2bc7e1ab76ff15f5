// Package filesystem is solo-fs: it finds out what the host must show of itself so
// that the code of a service can run. It reads ELF programs and the libraries they
// need, recognises sources, and knows the runtimes.
//
// The kernel asks (ResolveCode) with the code of a manifest, and with the artifact as
// a read-only descriptor if that is what the code is. The answer (CodeResolved) is a
// proposal: program, arguments and the host's paths to mount. The kernel checks each
// and opens the paths itself when a service starts.
//
// The host's root file system lies at /host, with those that hold programs and
// libraries: read-only, without what is mounted elsewhere, and seen with the ids of
// this sandbox, which own nothing there. So nothing that others on the host may not
// read can be read, or be found out about. File systems that are mounted later are
// seen when the driver is started again.
//
// Trust: runs unprivileged, without a network. Programs and uploads are hostile: they
// are read within bounds and never executed or mapped. The configuration and the
// runtime descriptors are the operator's and are trusted.
package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
)

// Root is where the kernel mounts the host's file systems.
const Root = "/host"

const (
	// maxRuntimes bounds the runtime descriptors.
	maxRuntimes = 256
	// maxText bounds a report's text.
	maxText = 4096
)

// Serve answers the kernel, with root standing for the host's "/", until the kernel
// asks for a stop or ctx ends (nil). It returns when every answer has been given.
func Serve(ctx context.Context, c *control.Conn, root string) error {
	d := &driver{conn: c, root: root}
	defer d.work.Wait()
	if err := c.Ready(); err != nil {
		return err
	}
	return c.Serve(ctx, d)
}

// driver is the state of Serve; only its goroutine touches runtimes and host.
type driver struct {
	conn     *control.Conn
	root     string
	runtimes []*controlv1.RuntimeFile
	host     *host
	work     sync.WaitGroup
}

// Handle implements control.Handler.
func (d *driver) Handle(m *controlv1.FromKernel, files ipc.Files) error {
	if r := m.GetResolveCode(); r != nil {
		return d.resolve(r, files)
	}
	if err := control.Count(files, 0); err != nil {
		return err
	}
	switch item := m.GetItem().(type) {
	case *controlv1.FromKernel_RuntimeFile:
		if d.host != nil || len(d.runtimes) == maxRuntimes {
			return control.Unexpected(m)
		}
		d.runtimes = append(d.runtimes, item.RuntimeFile)
		return nil
	case *controlv1.FromKernel_FilesystemConfig:
		if d.host != nil {
			return control.Unexpected(m)
		}
		return d.configure(item.FilesystemConfig)
	default:
		return control.Unexpected(m)
	}
}

func (d *driver) configure(cfg *controlv1.FilesystemConfig) error {
	h, err := newHost(d.root, cfg, d.runtimes)
	d.runtimes = nil
	ready := &controlv1.FilesystemReady{}
	if err != nil {
		ready.Error = text(err.Error())
	} else {
		d.host = h
	}
	return d.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_FilesystemReady{FilesystemReady: ready}})
}

// resolve answers beside the others: one large program does not hold up the rest. How
// many the kernel asks at once is bounded by the kernel.
func (d *driver) resolve(r *controlv1.ResolveCode, files ipc.Files) error {
	if d.host == nil || len(files) > 1 {
		files.Close()
		return &ipc.ProtocolError{What: fmt.Sprintf("question with %d descriptors, or before the configuration", len(files))}
	}
	var artifact *os.File
	if len(files) == 1 {
		artifact = files[0]
	}
	h := d.host
	d.work.Go(func() {
		defer files.Close()
		answer := &controlv1.CodeResolved{Id: r.GetId()}
		code, err := h.Resolve(r.GetManifest(), artifact)
		if err == nil {
			answer.Result = &controlv1.CodeResolved_Code{Code: code.proto()}
			if err = d.answer(answer); err == nil || errors.Is(err, control.ErrKernelGone) {
				return
			}
			// Too large for a message, or with paths that are no UTF-8.
			err = step("answer", err)
		}
		answer.Result = &controlv1.CodeResolved_Error{Error: asError(err).proto()}
		if err := d.answer(answer); err != nil && !errors.Is(err, control.ErrKernelGone) {
			fmt.Fprintln(os.Stderr, "solo-fs:", text(err.Error()))
		}
	})
	return nil
}

func (d *driver) answer(a *controlv1.CodeResolved) error {
	return d.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_CodeResolved{CodeResolved: a}})
}

// text makes hostile text fit for a message.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}
