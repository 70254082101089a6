// The store of one cluster: etcd, inside this process, on a socket of its directory. Nothing is synced to disk: a cluster
// lives as long as we do.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Longest path of a socket that the kernel takes, with the zero at its end.
const maxSocketPath = 107

type etcd struct {
	url      string
	embedded *embed.Etcd
	child    *child
}

func startEtcd(ctx context.Context, c *cluster, program []string) (*etcd, error) {
	path := c.file("etcd.sock")
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s is too long for a socket: give a shorter --dir", path)
	}
	clients := url.URL{Scheme: "unix", Path: path}
	// One member has no peers, but wants a place for them; what it advertises is never dialled.
	peers := url.URL{Scheme: "unix", Path: c.file("peer.sock")}
	nowhere := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	started := &etcd{url: clients.String()}
	if program != nil {
		flags := []string{
			"--name=" + c.name, "--data-dir=" + c.file("etcd"), "--log-level=error", "--unsafe-no-fsync",
			"--listen-client-urls=" + clients.String(), "--advertise-client-urls=" + nowhere.String(),
			"--listen-peer-urls=" + peers.String(), "--initial-advertise-peer-urls=" + nowhere.String(),
			"--initial-cluster=" + c.name + "=" + nowhere.String(),
		}
		var err error
		if started.child, err = c.spawn("etcd", program, flags); err != nil {
			return nil, err
		}
		err = c.await(ctx, "etcd's socket", func(ctx context.Context) error {
			connection, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			if err == nil {
				err = connection.Close()
			}
			return err
		})
		if err != nil {
			started.close()
			return nil, err
		}
		return started, nil
	}
	config := embed.NewConfig()
	config.Name, config.Dir = c.name, c.file("etcd")
	config.UnsafeNoFsync = true
	config.LogLevel, config.LogOutputs = "error", []string{c.file("etcd.log")}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{clients}, []url.URL{nowhere}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peers}, []url.URL{nowhere}
	config.InitialCluster = config.InitialClusterFromName(c.name)
	config.EnableGRPCGateway = false
	var err error
	if started.embedded, err = embed.StartEtcd(config); err != nil {
		return nil, err
	}
	select {
	case <-started.embedded.Server.ReadyNotify():
		return started, nil
	case err = <-started.embedded.Err():
	case <-time.After(startDeadline):
		err = errors.New("not ready in time")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	started.close()
	return nil, fmt.Errorf("etcd: %w", err)
}

// process that etcd is, where it is one of its own.
func (e *etcd) process() *child {
	if e == nil {
		return nil
	}
	return e.child
}

func (e *etcd) close() {
	if e == nil {
		return
	}
	e.child.kill()
	if e.embedded != nil {
		// Without the time that clients get to end their calls: the only one is dead.
		e.embedded.Server.HardStop()
		e.embedded.Close()
	}
}
