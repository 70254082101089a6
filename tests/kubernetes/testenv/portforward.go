// The one thing that the API server asks of kubelets here: to forward a connection to a port of a pod that runs. Listens inside of the
// nodes' network, at the port that kubelets have, for all nodes of a cluster.

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	kubeletPort = 10250
	// A forwarded connection may be silent for as long as a kubelet lets it.
	forwardIdle = 4 * time.Hour
	// Opening a stream, and reaching a pod on this machine.
	forwardDeadline = 10 * time.Second
)

// kubeletServer is a cluster's.
type kubeletServer struct{ server *http.Server }

// startKubeletServer listens, for the API server of the cluster alone: it shows the certificate that the flags give it.
func startKubeletServer(c *cluster) (*kubeletServer, error) {
	serving, err := tls.LoadX509KeyPair(c.file("serving.crt"), c.file("serving.key"))
	if err != nil {
		return nil, err
	}
	callers := x509.NewCertPool()
	callers.AppendCertsFromPEM(c.keys.authority.certificate)
	listener, err := c.nodesNetwork.listen(kubeletPort)
	if err != nil {
		return nil, fmt.Errorf("the kubelets' port: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(answer http.ResponseWriter, request *http.Request) {
		pod, err := c.runtime.named(request.PathValue("namespace"), request.PathValue("pod"))
		if err != nil {
			http.Error(answer, err.Error(), http.StatusNotFound)
			return
		}
		options, err := portforward.NewV4Options(request)
		if err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(answer, request, forwarder{ip: pod.sandbox.ip}, pod.sandbox.pod.Name, string(pod.sandbox.pod.UID),
			options, forwardIdle, forwardDeadline, portforward.SupportedProtocols)
	})
	made := &kubeletServer{server: &http.Server{Handler: mux, ReadHeaderTimeout: forwardDeadline}}
	// Connections change their protocol, which HTTP/2 ones cannot.
	config := &tls.Config{
		Certificates: []tls.Certificate{serving}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: callers,
	}
	go func() {
		if err := made.server.Serve(tls.NewListener(listener, config)); !errors.Is(err, http.ErrServerClosed) {
			c.fail(fmt.Errorf("the kubelets' port of cluster %s: %w", c.name, err))
		}
	}()
	return made, nil
}

func (k *kubeletServer) close() {
	if k != nil {
		_ = k.server.Close()
	}
}

// forwarder leads to a pod.
type forwarder struct{ ip string }

// PortForward copies both ways until the pod's side has ended.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{Timeout: forwardDeadline}
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
