// Serve: brings all clusters up at once, says so in one line, and obeys commands until told to end or left alone.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How often the parent is looked for. Only a parent that left stdin to another process is found this way.
const parentPoll = time.Second

// Longest command line, bytes.
const maxCommand = 64 << 10

// What the ready line says.
type readyLine struct {
	Clusters   []readyCluster `json:"clusters"`
	Kubeconfig string         `json:"kubeconfig"`
}

type readyCluster struct {
	Name        string `json:"name"`
	Server      string `json:"server"`
	Kubeconfig  string `json:"kubeconfig"`
	ServiceCIDR string `json:"serviceCIDR"`
	PodCIDR     string `json:"podCIDR"`
	Processes   []int  `json:"processes"`
}

type command struct {
	Command string `json:"command"`
	Cluster string `json:"cluster,omitempty"`
	Pod     string `json:"pod,omitempty"`
}

type answer struct {
	command
	OK        bool   `json:"ok"`
	Error     string `json:"error,omitempty"`
	Processes []int  `json:"processes,omitempty"`
}

// perCluster collects flags of the form NAME=VALUE.
type perCluster map[string]string

func (p perCluster) String() string { return "" }

func (p perCluster) Set(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found || name == "" || value == "" {
		return fmt.Errorf("%q is not CLUSTER=VALUE", text)
	}
	p[name] = value
	return nil
}

// settings of one run, as flags give them.
type settings struct {
	clusters []*cluster
	dir      string
	// Programs that stand for images; without any, no pod runs.
	images map[string]string
	// The one TCP port that is open between clusters; 0 is all of them.
	betweenPort int
}

func parse(arguments []string) (*settings, error) {
	flags := flag.NewFlagSet("testenv serve", flag.ContinueOnError)
	names := flags.String("clusters", "", "the clusters' names, with commas between")
	dir := flags.String("dir", "", "directory for everything that is written; its path must be short, for sockets lie in it")
	nodes := flags.Int("nodes", 2, "nodes of each cluster, each in a zone of its own")
	regions, services, pods, addresses := perCluster{}, perCluster{}, perCluster{}, perCluster{}
	flags.Var(regions, "region", "CLUSTER=REGION of its nodes; the cluster's name unless given")
	flags.Var(services, "service-cidr", "CLUSTER=CIDR of its services; 10.96.0.0/20, 10.96.16.0/20 and so on unless given")
	flags.Var(pods, "pod-cidr", "CLUSTER=CIDR, at least a /24, of its nodes and pods; 10.64.0.0/16, 10.65.0.0/16 and so on unless given")
	flags.Var(addresses, "address", "CLUSTER=IP at which its API server listens; 127.0.0.1 unless given")
	images := perCluster{}
	flags.Var(images, "program", "IMAGE=PATH of the program that stands for an image, without its tag: pods whose images all have one run, in network namespaces")
	between := flags.Int("between-port", 0, "where pods run, the one TCP port that is open between clusters; all are unless given")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if *names == "" || *dir == "" || flags.NArg() > 0 || *nodes < 1 || *nodes > maxNodes {
		return nil, fmt.Errorf("wrong flags\n%s", usage)
	}
	absolute, err := filepath.Abs(*dir)
	if err != nil {
		return nil, err
	}
	found := &settings{dir: absolute, images: images, betweenPort: *between}
	known := map[string]bool{}
	for index, name := range strings.Split(*names, ",") {
		if name == "" || known[name] || index >= maxClusters {
			return nil, fmt.Errorf("--clusters %s: empty name, name given twice, or over %d names", *names, maxClusters)
		}
		known[name] = true
		at := "127.0.0.1"
		if len(images) > 0 {
			at = place{index}.apiAddress()
		}
		one := &cluster{
			place:       place{index},
			name:        name,
			dir:         filepath.Join(absolute, name),
			region:      or(regions[name], name),
			nodes:       *nodes,
			serviceCIDR: or(services[name], fmt.Sprintf("10.96.%d.0/20", index*16)),
			podCIDR:     or(pods[name], fmt.Sprintf("10.%d.0.0/16", 64+index)),
			address:     or(addresses[name], at),
		}
		for _, cidr := range []string{one.serviceCIDR, one.podCIDR} {
			if _, _, err := net.ParseCIDR(cidr); err != nil {
				return nil, err
			}
		}
		if net.ParseIP(one.address) == nil {
			return nil, fmt.Errorf("--address %s=%s: no IP address", name, one.address)
		}
		found.clusters = append(found.clusters, one)
	}
	for _, given := range []perCluster{regions, services, pods, addresses} {
		for name := range given {
			if !known[name] {
				return nil, fmt.Errorf("a flag names cluster %s, which --clusters does not", name)
			}
		}
	}
	return found, nil
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func serve(arguments []string) error {
	parent := os.Getppid()
	found, err := parse(arguments)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, fail := context.WithCancelCause(ctx)
	go watchParent(parent, fail)
	lines := make(chan string)
	go readLines(os.Stdin, lines)

	programs, err := findPrograms()
	if err != nil {
		return err
	}
	programs.images = found.images
	if len(found.images) > 0 {
		programs.images[dnsImage] = programs.self
		err = checkOwnNetwork()
		if err == nil && found.betweenPort != 0 {
			err = onlyBetween(ctx, found.betweenPort)
		}
		if err != nil {
			return err
		}
	}
	defer func() {
		for _, one := range found.clusters {
			one.close()
		}
	}()
	// Stdin closes when nobody waits for us any more, also while we start.
	started := make(chan error, 1)
	go func() { started <- startAll(ctx, found.clusters, programs, fail) }()
	for starting := true; starting; {
		select {
		case err := <-started:
			if err != nil {
				return err
			}
			starting = false
		case _, open := <-lines:
			if !open {
				fail(errors.New("stdin closed during the start"))
				return <-started
			}
			// Nobody has reason to speak before the ready line.
			fail(errors.New("a command came before the ready line"))
			return <-started
		}
	}
	ready, err := describe(found)
	if err != nil {
		return err
	}
	if err := say(ready); err != nil {
		return err
	}
	return obey(ctx, found.clusters, lines)
}

func startAll(ctx context.Context, clusters []*cluster, programs *programs, fail context.CancelCauseFunc) error {
	var wait sync.WaitGroup
	failures := make([]error, len(clusters))
	for index, one := range clusters {
		wait.Go(func() {
			if err := one.start(ctx, programs, fail); err != nil {
				failures[index] = fmt.Errorf("cluster %s: %w", one.name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(failures...)
}

func describe(found *settings) (*readyLine, error) {
	all := filepath.Join(found.dir, "kubeconfig")
	if err := writeKubeconfig(all, found.clusters...); err != nil {
		return nil, err
	}
	ready := &readyLine{Kubeconfig: all}
	for _, one := range found.clusters {
		ready.Clusters = append(ready.Clusters, readyCluster{
			Name:        one.name,
			Server:      one.server(),
			Kubeconfig:  one.kubeconfig(),
			ServiceCIDR: one.serviceCIDR,
			PodCIDR:     one.podCIDR,
			Processes:   one.processes(),
		})
	}
	return ready, nil
}

// obey answers commands until told to exit, stdin closes, or something broke.
func obey(ctx context.Context, clusters []*cluster, lines <-chan string) error {
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case line, open := <-lines:
			if !open {
				return nil
			}
			var told command
			err := json.Unmarshal([]byte(line), &told)
			if err == nil && told.Command == "exit" {
				return say(answer{command: told, OK: true})
			}
			said := answer{command: told}
			if err == nil {
				said.Processes, err = carryOut(ctx, clusters, told)
			}
			said.OK = err == nil
			if err != nil {
				said.Error = err.Error()
			}
			if err := say(said); err != nil {
				return err
			}
		}
	}
}

func carryOut(ctx context.Context, clusters []*cluster, told command) ([]int, error) {
	for _, one := range clusters {
		if one.name != told.Cluster {
			continue
		}
		switch told.Command {
		case "stop-api":
			return nil, one.stopAPI()
		case "start-api":
			err := one.startAPI(ctx)
			return one.processes(), err
		case "pod", "kill-pod":
			namespace, name, _ := strings.Cut(told.Pod, "/")
			pod, err := one.runtime.named(namespace, name)
			if err != nil {
				return nil, err
			}
			if told.Command == "kill-pod" {
				pod.kill()
				return nil, nil
			}
			holder, err := pod.sandbox.holder()
			return []int{holder}, err
		}
		return nil, fmt.Errorf("no command %q: stop-api, start-api, pod, kill-pod or exit", told.Command)
	}
	return nil, fmt.Errorf("no cluster %q", told.Cluster)
}

func say(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}

func readLines(from io.Reader, lines chan<- string) {
	defer close(lines)
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, maxCommand)
	for scanner.Scan() {
		if text := strings.TrimSpace(scanner.Text()); text != "" {
			lines <- text
		}
	}
}

func watchParent(parent int, fail context.CancelCauseFunc) {
	for os.Getppid() == parent {
		time.Sleep(parentPoll)
	}
	fail(errors.New("the parent is gone"))
}
