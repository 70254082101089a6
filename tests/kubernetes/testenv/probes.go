// Probes of containers that run, and what they find.

package main

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// Of a probe that does not say.
	probePeriod, probeTimeout = 10 * time.Second, time.Second
	// Between two tries of a startup probe. Kubelets keep to whole seconds; here nobody gains by waiting.
	startupPeriod = 200 * time.Millisecond
)

// probe says when a container has started, and whether it is ready, as its probes find.
func (p *runningPod) probe(ctx context.Context, container core.Container) {
	for startup := container.StartupProbe; startup != nil && !p.asks(ctx, container, startup); {
		if !wait(ctx, startupPeriod) {
			return
		}
	}
	p.set(func() {
		state := p.of(container.Name)
		state.started, state.failure = true, ""
		state.ready = container.ReadinessProbe == nil
	})
	readiness := container.ReadinessProbe
	if readiness == nil {
		return
	}
	period := seconds(readiness.PeriodSeconds, probePeriod)
	failures, threshold := 0, max(int(readiness.FailureThreshold), 1)
	for {
		good := p.asks(ctx, container, readiness)
		if ctx.Err() != nil || p.isDead() {
			return
		}
		failures++
		if good {
			failures = 0
		}
		if good || failures >= threshold {
			p.set(func() { p.of(container.Name).ready = good })
		}
		next := period
		if !good {
			next = min(period, time.Second)
		}
		if !wait(ctx, next) {
			return
		}
	}
}

// asks once.
func (p *runningPod) asks(ctx context.Context, container core.Container, probe *core.Probe) bool {
	ctx, cancel := context.WithTimeout(ctx, seconds(probe.TimeoutSeconds, probeTimeout))
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		address := net.JoinHostPort(p.sandbox.ip, portOf(container, probe.HTTPGet.Port))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+probe.HTTPGet.Path, nil)
		if err != nil {
			return false
		}
		// A connection for each, as kubelets have it.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode >= 200 && response.StatusCode < 400
	case probe.TCPSocket != nil:
		var dialer net.Dialer
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(p.sandbox.ip, portOf(container, probe.TCPSocket.Port)))
		if err != nil {
			return false
		}
		return connection.Close() == nil
	}
	// Others are not asked here.
	return true
}

func portOf(container core.Container, port intstr.IntOrString) string {
	for _, one := range container.Ports {
		if port.Type == intstr.String && one.Name == port.StrVal {
			return strconv.Itoa(int(one.ContainerPort))
		}
	}
	return port.String()
}

func (p *runningPod) isStarted(ctx context.Context, name string) bool {
	for {
		p.mutex.Lock()
		started := p.of(name).started
		p.mutex.Unlock()
		if started {
			return true
		}
		if !wait(ctx, startupPeriod) {
			return false
		}
	}
}

func seconds(given int32, otherwise time.Duration) time.Duration {
	if given <= 0 {
		return otherwise
	}
	return time.Duration(given) * time.Second
}
