// Command hello-go is a small HTTP service. It takes its socket from LISTEN_FDS, as
// under systemd, or listens on port 8080, and says READY=1 when it serves.
//
// Trust: none; it is an example of what runs inside Solo's sandbox.
package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	if err := serve(); err != nil {
		log.Fatal("hello-go: ", err)
	}
}

func serve() error {
	l, err := listener()
	if err != nil {
		return err
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s, %s! This is process %d of user %d.\n", os.Getenv("GREETING"), r.URL.Query().Get("name"), os.Getpid(), os.Getuid())
	})
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		_ = server.Close()
	}()
	if err := ready(); err != nil {
		return err
	}
	log.Print("serving on ", l.Addr())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listener is the first socket that was handed over, or one of our own.
func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") == "" {
		return net.Listen("tcp", "127.0.0.1:8080")
	}
	const first = 3 // sd_listen_fds(3)
	f := os.NewFile(first, "LISTEN_FDS")
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}

// ready is sd_notify(3).
func ready() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("READY=1\nSTATUS=serving"))
	return err
}
