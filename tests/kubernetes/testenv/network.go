// The network of clusters whose pods run: namespaces inside of the one that a test made for us, one for a cluster's nodes and one for
// each pod. Nodes are joined by us as their router, whose firewall lets one port through between clusters. Never touches the network of
// the host.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// Set by the test to the name of the network namespace outside of its own, so that nobody's network is taken for one by mistake.
	outsideVariable = "TRADEWIND_TEST_NAMESPACE"
	ownNetwork      = "/proc/self/ns/net"
	// The first hop of every pod: an address that all nodes have and nobody routes.
	firstHop = "169.254.1.1"
	// Setting something up takes a moment; what takes longer hangs.
	setupLimit = 20 * time.Second
	// A namespace is there a few milliseconds after its process was started.
	namespacePoll = 2 * time.Millisecond
	// Programs that users other than root often lack in their path.
	toolPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// checkOwnNetwork refuses to go on where running pods would change the host's network or could not change to other users.
func checkOwnNetwork() error {
	here, err := os.Readlink(ownNetwork)
	if err != nil {
		return err
	}
	outside := os.Getenv(outsideVariable)
	if !strings.HasPrefix(outside, "net:[") || outside == here {
		return fmt.Errorf("pods run only inside of a network namespace that a test made: %s is %q", outsideVariable, outside)
	}
	if os.Geteuid() != 0 {
		return errors.New("pods run only where we are root: they run as users of their own")
	}
	return nil
}

// namespace is a network namespace, held open by a process that does nothing.
type namespace struct{ holder *child }

// newNamespace makes one. It ends with close, and with us.
func newNamespace(ctx context.Context, log string) (*namespace, error) {
	here, err := os.Readlink(ownNetwork)
	if err != nil {
		return nil, err
	}
	holder, err := spawn(log, []string{"unshare", "--net", "--", "sleep", "infinity"}, func(error) {})
	if err != nil {
		return nil, err
	}
	made := &namespace{holder: holder}
	ctx, cancel := context.WithTimeout(ctx, setupLimit)
	defer cancel()
	for {
		name, err := os.Readlink(made.path())
		if err == nil && name != here {
			return made, nil
		}
		select {
		case <-ctx.Done():
			made.close()
			return nil, errors.New("unshare made no network namespace")
		case <-time.After(namespacePoll):
		}
	}
}

func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/ns/net", n.holder.id()) }

func (n *namespace) close() {
	if n != nil {
		n.holder.kill()
	}
}

// shell runs a script in our own network.
func shell(ctx context.Context, script string) error {
	return tool(ctx, []string{"sh", "-ec", script})
}

// shell runs a script in the namespace's network.
func (n *namespace) shell(ctx context.Context, script string) error {
	return tool(ctx, []string{"nsenter", "--net=" + n.path(), "--", "sh", "-ec", script})
}

func tool(ctx context.Context, line []string) error {
	ctx, cancel := context.WithTimeout(ctx, setupLimit)
	defer cancel()
	command := exec.CommandContext(ctx, line[0], line[1:]...)
	command.Env = []string{toolPath}
	var said bytes.Buffer
	command.Stderr = &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", line[len(line)-1], err, strings.TrimSpace(said.String()))
	}
	return nil
}

// place of a cluster's nodes in the network, by the cluster's number.
type place struct{ number int }

func (p place) link() string   { return "nodes" + strconv.Itoa(p.number) }
func (p place) router() string { return fmt.Sprintf("172.31.%d.1", p.number) }
func (p place) nodes() string  { return fmt.Sprintf("172.31.%d.2", p.number) }

// apiAddress is where the cluster's API server listens, outside of its nodes.
func (p place) apiAddress() string { return fmt.Sprintf("10.255.0.%d", p.number+1) }

// addAPIAddress gives us the address.
func (p place) addAPIAddress(ctx context.Context) error {
	return shell(ctx, fmt.Sprintf("ip link set lo up; ip addr replace %s/32 dev lo", p.apiAddress()))
}

// newNodes makes the namespace of a cluster's nodes: they are one as far as packets go, with an address for each of them.
func (p place) newNodes(ctx context.Context, c *cluster) (*namespace, error) {
	made, err := newNamespace(ctx, c.file("nodes.log"))
	if err != nil {
		return nil, err
	}
	outer := fmt.Sprintf("echo 1 > /proc/sys/net/ipv4/ip_forward; ip link add %[1]s type veth peer name uplink netns %[2]d; "+
		"ip addr add %[3]s/30 dev %[1]s; ip link set %[1]s up; ip route add %[4]s via %[5]s; ip route add %[6]s via %[5]s",
		p.link(), made.holder.id(), p.router(), c.podCIDR, p.nodes(), c.serviceCIDR)
	inner := fmt.Sprintf("echo 1 > /proc/sys/net/ipv4/ip_forward; ip link set lo up; ip addr add %s/30 dev uplink; ip link set uplink up; "+
		"ip route add default via %s; ip addr add %s/32 dev lo", p.nodes(), p.router(), firstHop)
	for index := range c.nodes {
		inner += fmt.Sprintf("; ip addr add %s/32 dev lo", firstOf(c.podCIDR, int64(index+1)))
	}
	err = shell(ctx, outer)
	if err == nil {
		err = made.shell(ctx, inner)
	}
	if err != nil {
		made.close()
		return nil, err
	}
	return made, nil
}

// newPod makes a pod's namespace behind the nodes', with the pod's address.
func newPod(ctx context.Context, nodes *namespace, log, link, ip string) (*namespace, error) {
	made, err := newNamespace(ctx, log)
	if err != nil {
		return nil, err
	}
	err = nodes.shell(ctx, fmt.Sprintf("ip link add %[1]s type veth peer name eth0 netns %[2]d; ip link set %[1]s up; "+
		"ip route replace %[3]s/32 dev %[1]s", link, made.holder.id(), ip))
	if err == nil {
		err = made.shell(ctx, fmt.Sprintf("ip link set lo up; ip addr add %s/32 dev eth0; ip link set eth0 up; "+
			"ip route add %[2]s dev eth0 scope link; ip route add default via %[2]s", ip, firstHop))
	}
	if err != nil {
		made.close()
		return nil, err
	}
	return made, nil
}

// onlyBetween lets nothing pass between clusters but connections to this TCP port, and counts the rest as "dropped".
func onlyBetween(ctx context.Context, port int) error {
	return shell(ctx, fmt.Sprintf(`nft -f - <<'END'
table ip between {
  counter dropped { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    tcp dport %d accept
    counter name "dropped"
  }
}
END`, port))
}
