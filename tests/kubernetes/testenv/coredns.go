// The DNS server of a cluster whose pods run: CoreDNS as it is released, as a pod behind the Service that kubeadm gives it. It has the
// plugins that a cluster's own Corefile and a block that forwards a zone name, and no others.

package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"strings"

	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// Stands for this program, without its tag.
const dnsImage = "registry.k8s.io/coredns/coredns"

//go:embed coredns.yaml
var dnsObjects string

// runCoreDNS does not return.
func runCoreDNS() { coremain.Run() }

// applyDNS has the cluster run its DNS server. Nobody waits for it here.
func (c *cluster) applyDNS(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	kubectl := exec.CommandContext(ctx, c.programs.self, roleKubectl, "--kubeconfig", c.kubeconfig(),
		"--cache-dir", c.file("kubectl-cache"), "apply", "-f", "-")
	kubectl.Env = []string{toolPath, "HOME=" + c.dir, "KUBECTL_KUBERC=false"}
	kubectl.Stdin = strings.NewReader(strings.ReplaceAll(dnsObjects, "DNS_ADDRESS", c.dnsAddress()))
	var said bytes.Buffer
	kubectl.Stderr = &said
	if err := kubectl.Run(); err != nil {
		return fmt.Errorf("CoreDNS's objects: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
