// What the API server asks of kubelets here: to forward a connection to a port of a pod that runs, to run a command in one of its
// containers, and what a container said. Listens inside of the nodes' network, at the port that kubelets have, for all nodes of a cluster.

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	kubeletPort = 10250
	// A stream may be silent for as long as a kubelet lets it.
	streamIdle = 4 * time.Hour
	// Opening a stream, and reaching a pod on this machine.
	streamDeadline = 10 * time.Second
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
	for path, serve := range map[string]func(*runningPod, http.ResponseWriter, *http.Request){
		"/portForward/{namespace}/{pod}":               servePortForward,
		"/exec/{namespace}/{pod}/{container}":          serveExec,
		"/containerLogs/{namespace}/{pod}/{container}": serveLogs,
	} {
		mux.HandleFunc(path, func(answer http.ResponseWriter, request *http.Request) {
			pod, err := c.runtime.named(request.PathValue("namespace"), request.PathValue("pod"))
			if err != nil {
				http.Error(answer, err.Error(), http.StatusNotFound)
				return
			}
			serve(pod, answer, request)
		})
	}
	made := &kubeletServer{server: &http.Server{Handler: mux, ReadHeaderTimeout: streamDeadline}}
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
