// A connection from outside to a port of a pod that runs, through the API server.

package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

func servePortForward(pod *runningPod, answer http.ResponseWriter, request *http.Request) {
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(answer, request, forwarder{ip: pod.sandbox.ip}, pod.sandbox.pod.Name, string(pod.sandbox.pod.UID),
		options, streamIdle, streamDeadline, portforward.SupportedProtocols)
}

// forwarder leads to a pod.
type forwarder struct{ ip string }

// PortForward copies both ways until the pod's side has ended.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{Timeout: streamDeadline}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(f.ip, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		// What fails ends the other direction, which says so.
		_, _ = io.Copy(connection, stream)
		if half, ok := connection.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, connection)
	return err
}

// listen opens a port at all addresses of the namespace.
func (n *namespace) listen(port int) (net.Listener, error) {
	type opened struct {
		listener net.Listener
		err      error
	}
	done := make(chan opened, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that nobody else finds itself in the namespace.
		runtime.LockOSThread()
		listener, err := func() (net.Listener, error) {
			file, err := os.Open(n.path())
			if err != nil {
				return nil, err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			return net.Listen("tcp4", net.JoinHostPort("", strconv.Itoa(port)))
		}()
		done <- opened{listener, err}
	}()
	result := <-done
	return result.listener, result.err
}
