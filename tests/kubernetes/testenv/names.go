// What a pod knows of names: the cluster's DNS server, and a hosts file in which the names of services stand, too, so that what starts
// before that server finds the others.

package main

import (
	"fmt"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
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

// setHosts says which names there are: every service's and every pod's of a headless one, as cluster DNS would answer them, by the name alone
// in the pod's own namespace.
func (s *sandbox) setHosts(services []*core.Service, pods []*sandbox) error {
	text := "127.0.0.1 localhost\n" + s.ip + " " + s.pod.Name + "\n"
	for _, one := range services {
		name := one.Name + "." + one.Namespace
		if one.Spec.ClusterIP == core.ClusterIPNone {
			text += headless(one, name, pods)
			continue
		}
		if one.Spec.ClusterIP == "" {
			continue
		}
		text += fmt.Sprintf("%s %[2]s.svc.cluster.local %[2]s.svc %[2]s", one.Spec.ClusterIP, name)
		if one.Namespace == s.pod.Namespace {
			text += " " + one.Name
		}
		text += "\n"
	}
	return os.WriteFile(filepath.Join(s.etc(), "hosts"), []byte(text), 0o644)
}

// headless is the lines of a service without an address: each pod's by its own name, where it has one there, and by the service's.
func headless(service *core.Service, name string, pods []*sandbox) string {
	selector := labels.SelectorFromSet(service.Spec.Selector)
	text := ""
	for _, one := range pods {
		if one.pod.Namespace != service.Namespace || selector.Empty() || !selector.Matches(labels.Set(one.pod.Labels)) {
			continue
		}
		text += one.ip
		if one.pod.Spec.Hostname != "" && one.pod.Spec.Subdomain == service.Name {
			own := one.pod.Spec.Hostname + "." + name
			text += fmt.Sprintf(" %[1]s.svc.cluster.local %[1]s.svc %[1]s", own)
		}
		text += fmt.Sprintf(" %[1]s.svc.cluster.local %[1]s.svc %[1]s\n", name)
	}
	return text
}
