// One cluster: what it is made of, in which order it comes up, and how its API server is taken away and given back.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// Clusters of one run; each takes three quarters of a gigabyte and a tenth octet range of its own.
	maxClusters = 16
	// Nodes of one cluster, for each takes an address at the start of the pods' range.
	maxNodes = 99
	// Longest wait for a server to answer. Several start at once, on few and busy cores.
	startDeadline = 3 * time.Minute
	// How often a server that starts is asked.
	startPoll = 100 * time.Millisecond
)

// The controllers that make objects of a kind out of others, as far as a mesh and its tests look at them. Those that
// need a cloud, disks, metrics or kubelets are off, node-lifecycle among them: it would call nodes without kubelet dead.
var enabledControllers = []string{
	"clusterrole-aggregation-controller",
	"daemonset-controller",
	"deployment-controller",
	"endpoints-controller",
	"endpointslice-controller",
	"endpointslice-mirroring-controller",
	"garbage-collector-controller",
	"job-controller",
	"namespace-controller",
	"replicaset-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
	"statefulset-controller",
}

type cluster struct {
	name, dir, region, serviceCIDR, podCIDR, address string
	nodes                                            int
	place                                            place

	programs *programs
	// Where pods run, the network of the nodes, the pods, what leads to services, and what leads to pods; else none of them.
	nodesNetwork  *namespace
	runtime       *podRuntime
	kubeProxy     *child
	kubeletServer *kubeletServer
	fail          context.CancelCauseFunc
	port          *heldPort
	keys          *keys
	etcd          *etcd
	client        *kubernetes.Clientset

	// Guards what follows, which a stop and a start exchange.
	mutex        sync.Mutex
	apiserver    *child
	controllers  *child
	stopKubelets func()
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) kubeconfig() string { return c.file("kubeconfig") }

func (c *cluster) server() string {
	return "https://" + net.JoinHostPort(c.address, strconv.Itoa(c.port.number))
}

// start brings everything up and returns when workloads may be applied.
func (c *cluster) start(ctx context.Context, programs *programs, fail context.CancelCauseFunc) error {
	c.programs, c.fail = programs, fail
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	var err error
	if len(programs.images) > 0 {
		if err := c.startNetwork(ctx); err != nil {
			return err
		}
	}
	if c.port, err = holdPort(c.address); err != nil {
		return err
	}
	if c.keys, err = c.makeKeys(); err != nil {
		return err
	}
	if err := writeKubeconfig(c.kubeconfig(), c); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(&rest.Config{
		Host: c.server(),
		TLSClientConfig: rest.TLSClientConfig{
			CAData: c.keys.authority.certificate, CertData: c.keys.admin.certificate, KeyData: c.keys.admin.key,
		},
		// Kubelets of several nodes speak through it.
		QPS: 500, Burst: 1000,
	}); err != nil {
		return err
	}
	if c.etcd, err = startEtcd(ctx, c, programs.etcd); err != nil {
		return err
	}
	if err := c.startAPI(ctx); err != nil {
		return err
	}
	if c.runtime == nil {
		return nil
	}
	// It outlives the API server's absence, as it would on a node.
	line := append([]string{"nsenter", "--net=" + c.nodesNetwork.path(), "--"}, c.programs.proxy...)
	if c.kubeProxy, err = c.spawn("kube-proxy", line, c.kubeProxyFlags()); err != nil {
		return err
	}
	if c.kubeletServer, err = startKubeletServer(c); err != nil {
		return err
	}
	return c.applyDNS(ctx)
}

// startNetwork makes the network of the nodes, before anything listens in it.
func (c *cluster) startNetwork(ctx context.Context) error {
	if err := c.place.addAPIAddress(ctx); err != nil {
		return err
	}
	var err error
	if c.nodesNetwork, err = c.place.newNodes(ctx, c); err != nil {
		return err
	}
	c.runtime = newRuntime(c)
	return nil
}

func (c *cluster) kubeProxyFlags() []string {
	return []string{
		"--kubeconfig=" + c.kubeconfig(),
		"--proxy-mode=nftables",
		"--cluster-cidr=" + c.podCIDR,
		// The nodes are one as far as packets go.
		"--hostname-override=" + c.name + "-node-1",
		// A limit of the machine's, which is not ours to set.
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0",
		"--conntrack-tcp-timeout-close-wait=0",
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
	}
}

// startAPI starts the API server on its port, and what lives by it.
func (c *cluster) startAPI(ctx context.Context) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.apiserver != nil {
		return errors.New("its API server runs already")
	}
	var err error
	if c.apiserver, err = c.spawn("kube-apiserver", c.programs.apiserver, c.apiserverFlags()); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server to be ready", c.isReady); err != nil {
		return err
	}
	if c.controllers, err = c.spawn("kube-controller-manager", c.programs.controllers, c.controllerFlags()); err != nil {
		return err
	}
	kubelets, stop := context.WithCancel(ctx)
	done, err := runKubelets(kubelets, c)
	if err != nil {
		stop()
		return err
	}
	c.stopKubelets = func() {
		stop()
		<-done
	}
	// The first that controllers must have done before a pod is let in.
	return c.await(ctx, "the default service account", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(meta.NamespaceDefault).Get(ctx, "default", meta.GetOptions{})
		return err
	})
}

// stopAPI kills the API server, as a lost machine would. The controllers and kubelets stop too and start afresh with it:
// else each would wait for half a minute after an outage before it asks again.
func (c *cluster) stopAPI() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.apiserver == nil {
		return errors.New("its API server is stopped already")
	}
	c.apiserver.kill()
	c.apiserver = nil
	c.controllers.kill()
	c.controllers = nil
	if c.stopKubelets != nil {
		c.stopKubelets()
		c.stopKubelets = nil
	}
	return nil
}

// close ends everything, whatever of it came up.
func (c *cluster) close() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.controllers.kill()
	c.apiserver.kill()
	if c.stopKubelets != nil {
		c.stopKubelets()
	}
	c.kubeletServer.close()
	c.runtime.close()
	c.kubeProxy.kill()
	c.nodesNetwork.close()
	c.etcd.close()
	c.port.close()
}

// processes that serve this cluster.
func (c *cluster) processes() []int {
	var ids []int
	for _, one := range []*child{c.etcd.process(), c.apiserver, c.controllers} {
		if one != nil {
			ids = append(ids, one.id())
		}
	}
	return ids
}

func (c *cluster) spawn(name string, program, flags []string) (*child, error) {
	return spawn(c.file(name+".log"), append(program[:len(program):len(program)], flags...), func(err error) {
		c.fail(fmt.Errorf("%s of cluster %s: %w", name, c.name, err))
	})
}

func (c *cluster) apiserverFlags() []string {
	return []string{
		"--etcd-servers=" + c.etcd.url,
		"--bind-address=" + c.address,
		"--advertise-address=" + c.address,
		"--secure-port=" + strconv.Itoa(c.port.number),
		// So that nobody else takes the port while the server is stopped: see holdPort.
		"--permit-port-sharing=true",
		"--tls-cert-file=" + c.file("serving.crt"),
		"--tls-private-key-file=" + c.file("serving.key"),
		"--client-ca-file=" + c.file("ca.crt"),
		// How it proves itself to kubelets, whose names nobody resolves.
		"--kubelet-client-certificate=" + c.file("admin.crt"),
		"--kubelet-client-key=" + c.file("admin.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.file("serviceaccounts.pub"),
		"--service-account-signing-key-file=" + c.file("serviceaccounts.key"),
		"--service-cluster-ip-range=" + c.serviceCIDR,
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		// Endpoints of the service `kubernetes` may not be loopback addresses: it stays without any.
		"--endpoint-reconciler-type=none",
		"--profiling=false",
	}
}

func (c *cluster) controllerFlags() []string {
	return []string{
		"--kubeconfig=" + c.kubeconfig(),
		"--controllers=" + strings.Join(enabledControllers, ","),
		"--service-account-private-key-file=" + c.file("serviceaccounts.key"),
		"--root-ca-file=" + c.file("ca.crt"),
		"--leader-elect=false",
		// It serves nothing that a test asks for.
		"--secure-port=0",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		"--profiling=false",
	}
}

func (c *cluster) isReady(ctx context.Context) error {
	return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// await asks until there is no error any more, within a deadline.
func (c *cluster) await(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if kerrors.IsNotFound(err) {
				err = errors.New("there is none")
			}
			return fmt.Errorf("waited for %s: %w (%w)", what, err, context.Cause(ctx))
		case <-time.After(startPoll):
		}
	}
}
