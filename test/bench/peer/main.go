// Command peer is what the benchmarks compare with, and the HTTP server that they
// deploy.
//
//	peer http ADDRESS    answers "hello" on / and 64 MiB on /big
//	peer grpc SOCKET     an empty call and nothing else, with grpc-go's defaults
//
// It prints a line once it listens. With a third argument it ends with its standard
// input, so that it does not outlive the benchmark that started it.
//
// Trust: none; it serves the benchmark on loopback.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// bigBytes is the length of /big.
const bigBytes = 64 << 20

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%d arguments, want http or grpc and where to listen", len(args))
	}
	network, serve := "tcp", serveHTTP
	switch args[0] {
	case "http":
	case "grpc":
		network, serve = "unix", serveGRPC
	default:
		return fmt.Errorf("%q is neither http nor grpc", args[0])
	}
	l, err := net.Listen(network, args[1])
	if err != nil {
		return err
	}
	if len(args) > 2 {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			_ = l.Close() // removes a socket
		}()
	}
	fmt.Println("ready")
	if err := serve(l); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func serveHTTP(l net.Listener) error {
	chunk := make([]byte, 1<<20)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(bigBytes))
		for range bigBytes / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return // the client has gone
			}
		}
	})
	return http.Serve(l, mux)
}

// serveGRPC answers the health service, whose Check of the empty name is as near to an
// empty call as a generated service comes. One processor, as solo-gateway has: the
// better choice for calls one after the other.
func serveGRPC(l net.Listener) error {
	runtime.GOMAXPROCS(1)
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	return s.Serve(l)
}
