// Testenv serves whole Kubernetes control planes on this machine for tests: etcd, kube-apiserver and
// kube-controller-manager as they are released, one set for each cluster. Nothing in it speaks for them; only kubelets are
// stood in for, because none can run here (see kubelet.go). Where it is told which programs stand for which images, pods of these
// run as processes in network namespaces (see runtime.go); kube-proxy leads to services and CoreDNS answers their names, as they are released.
// It also renders charts as Helm does (see helm.go).
//
// This file only picks what one process of it does: it runs itself again for each server, since those keep global state.
package main

import (
	"fmt"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"

	"k8s.io/kubectl/pkg/cmd"
)

const usage = `usage: testenv serve --clusters NAME,... --dir DIR [flags]
       testenv kubectl ...
       testenv helm-template --name RELEASE --namespace NAME [--values FILE] [--set KEY=VALUE] [flags] CHARTDIR
       testenv read-manifests   YAML on stdin as kubectl reads it: a line of JSON for each document

serve prints one line of JSON when all clusters answer, then obeys lines of JSON on stdin:
  {"command": "stop-api", "cluster": NAME}   kill the cluster's API server and controllers; etcd keeps its objects
  {"command": "start-api", "cluster": NAME}  start them again at the same address
  {"command": "pod", "cluster": NAME, "pod": NAMESPACE/NAME}       who holds the network of a pod that runs
  {"command": "kill-pod", "cluster": NAME, "pod": NAMESPACE/NAME}  end it as the death of its machine would: nobody is told
  {"command": "exit"}
Each is answered by one line. It ends when stdin closes or its parent is gone.
`

// What the binary is told to be by its first argument.
const (
	roleServe         = "serve"
	roleAPIServer     = "apiserver"
	roleControllers   = "controller-manager"
	roleKubectl       = "kubectl"
	roleProxy         = "kube-proxy"
	roleCoreDNS       = "coredns"
	roleHelmTemplate  = "helm-template"
	roleReadManifests = "read-manifests"
)

func main() {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
	}
	switch role {
	case roleServe:
		endBy(serve(os.Args[1:]))
	case roleHelmTemplate:
		endBy(templateChart(os.Args[1:], os.Stdout))
	case roleReadManifests:
		endBy(readManifests(os.Stdin, os.Stdout))
	case roleAPIServer:
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case roleControllers:
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case roleProxy:
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case roleCoreDNS:
		runCoreDNS()
	case roleKubectl:
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}

func endBy(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
