// What a pod knows of names: its own, and whom it asks for all others.

package main

import (
	"fmt"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
)

// The cluster's domain.
const clusterDomain = "cluster.local"

// dnsAddress is the DNS server's, at the place in the range of services where kubeadm has it.
func (c *cluster) dnsAddress() string { return firstOf(c.serviceCIDR, 10).String() }

// setResolver says whom the pod asks for names, as a kubelet does. A pod that asks whom its node asks finds nobody: nothing outside of
// the clusters is named.
func (s *sandbox) setResolver() error {
	text := ""
	if policy := s.pod.Spec.DNSPolicy; policy == core.DNSClusterFirst || policy == "" {
		text = fmt.Sprintf("nameserver %[1]s\nsearch %[2]s.svc.%[3]s svc.%[3]s %[3]s\noptions ndots:5\n",
			s.cluster.dnsAddress(), s.pod.Namespace, clusterDomain)
	}
	return os.WriteFile(filepath.Join(s.etc(), "resolv.conf"), []byte(text), 0o644)
}

// setHosts writes the pod's hosts file, as a kubelet does: what it is called itself, with its whole name where it has one.
func (s *sandbox) setHosts() error {
	hostname := s.pod.Spec.Hostname
	if hostname == "" {
		hostname = s.pod.Name
	}
	if subdomain := s.pod.Spec.Subdomain; subdomain != "" {
		hostname = fmt.Sprintf("%[1]s.%s.%s.svc.%s %[1]s", hostname, subdomain, s.pod.Namespace, clusterDomain)
	}
	text := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", s.ip, hostname)
	return os.WriteFile(filepath.Join(s.etc(), "hosts"), []byte(text), 0o644)
}
