// Pods that run: their containers in the order in which a kubelet starts and stops them, looked at by their probes. Owns the processes.
// What becomes of it in the API server is kubelet.go's affair; the runtime goes on while the API server is away.

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// How soon a container that ended is started again. A kubelet waits longer each time; tests are short.
	restartWait = time.Second
	// A pod that cannot be begun with is tried again.
	retryWait = time.Second
	// What a pod gets, as from a kubelet, that was deleted with no grace at all.
	leastGrace = 2 * time.Second
)

// containerState is what a kubelet would say of a container.
type containerState struct {
	started, ready, done bool
	restarts             int32
	// Why it ended, if it failed.
	failure string
	since   time.Time
}

// runningPod is one that runs here.
type runningPod struct {
	sandbox *sandbox
	cancel  context.CancelFunc
	// Closes when nothing of it runs any more.
	gone    chan struct{}
	changed func()

	mutex      sync.Mutex
	containers map[string]*containerState
	processes  map[string]*child
	// Why it does not come up, as far as is known.
	trouble string
	// SIGKILLed by a test: nothing is started again and nobody is told, as after the death of a machine.
	dead bool
	// How long its containers have to end.
	grace time.Duration
}

// podRuntime is a cluster's.
type podRuntime struct {
	cluster *cluster

	mutex sync.Mutex
	pods  map[types.UID]*runningPod
	// Those that the API server knows no more; none where nothing of one runs any more, which stays said, for others still look at it.
	forgotten map[types.UID]*runningPod
	// Tells whoever reports of a pod that something changed; exchanged when the API server comes back.
	enqueue func(types.NamespacedName)
}

func newRuntime(c *cluster) *podRuntime {
	return &podRuntime{cluster: c, pods: map[types.UID]*runningPod{}, forgotten: map[types.UID]*runningPod{}}
}

// runs is whether a pod is one of those that run: a program is known for all its images.
func (r *podRuntime) runs(pod *core.Pod) bool {
	if r == nil || pod.Spec.HostNetwork {
		return false
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if r.cluster.programs.image(container.Image) == "" {
			return false
		}
	}
	return true
}

// look begins with a pod that was not seen before, and gives it; none if it is gone.
func (r *podRuntime) look(pod *core.Pod, ip string) *runningPod {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if _, gone := r.forgotten[pod.UID]; gone {
		return nil
	}
	if one, found := r.pods[pod.UID]; found {
		return one
	}
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	ctx, cancel := context.WithCancel(context.Background())
	one := &runningPod{
		sandbox: &sandbox{cluster: r.cluster, pod: pod.DeepCopy(), ip: ip, dir: r.cluster.file(filepath.Join("pods", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID)))},
		cancel:  cancel, gone: make(chan struct{}),
		changed:    func() { r.tell(name) },
		containers: map[string]*containerState{}, processes: map[string]*child{},
		grace: graceOf(pod),
	}
	r.pods[pod.UID] = one
	go one.live(ctx)
	return one
}

func (r *podRuntime) tell(name types.NamespacedName) {
	r.mutex.Lock()
	enqueue := r.enqueue
	r.mutex.Unlock()
	if enqueue != nil {
		enqueue(name)
	}
}

// end begins to end a pod, and says whether nothing of it is left.
func (r *podRuntime) end(pod *core.Pod) bool {
	if r == nil {
		return true
	}
	r.mutex.Lock()
	one, found := r.pods[pod.UID]
	r.mutex.Unlock()
	if !found {
		return true
	}
	one.cancel()
	select {
	case <-one.gone:
		r.mutex.Lock()
		delete(r.pods, pod.UID)
		r.mutex.Unlock()
		return true
	default:
		return false
	}
}

// forget ends a pod that the API server knows no more, if it runs, and calls done when nothing of it is left.
func (r *podRuntime) forget(pod types.UID, done func()) {
	if r == nil {
		done()
		return
	}
	r.mutex.Lock()
	one, found := r.pods[pod]
	if _, before := r.forgotten[pod]; !before {
		r.forgotten[pod] = one
	}
	delete(r.pods, pod)
	r.mutex.Unlock()
	if !found {
		done()
		return
	}
	one.mutex.Lock()
	one.grace = min(one.grace, leastGrace)
	one.mutex.Unlock()
	one.cancel()
	go func() {
		<-one.gone
		r.mutex.Lock()
		r.forgotten[pod] = nil
		r.mutex.Unlock()
		done()
	}()
}

// named is the pod of a name.
func (r *podRuntime) named(namespace, name string) (*runningPod, error) {
	if r == nil {
		return nil, errors.New("no pod runs here: --program says which do")
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, one := range r.pods {
		if one.sandbox.pod.Namespace == namespace && one.sandbox.pod.Name == name {
			return one, nil
		}
	}
	return nil, fmt.Errorf("no pod %s/%s runs", namespace, name)
}

// close ends everything at once.
func (r *podRuntime) close() {
	if r == nil {
		return
	}
	r.mutex.Lock()
	all := slices.Collect(maps.Values(r.pods))
	for _, one := range r.forgotten {
		if one != nil {
			all = append(all, one)
		}
	}
	r.pods = map[types.UID]*runningPod{}
	r.mutex.Unlock()
	for _, one := range all {
		one.kill()
		one.cancel()
		<-one.gone
	}
}

// kill ends all processes of a pod at once, as the death of its machine would: nobody is told, and nothing starts again.
func (p *runningPod) kill() {
	p.mutex.Lock()
	p.dead = true
	processes := p.processes
	p.processes = map[string]*child{}
	p.mutex.Unlock()
	for _, one := range processes {
		one.kill()
	}
}

// live runs a pod until it is cancelled, or all is done.
func (p *runningPod) live(ctx context.Context) {
	defer close(p.gone)
	defer p.changed()
	defer func() { p.sandbox.network.close() }()
	for ctx.Err() == nil {
		err := p.sandbox.prepare(ctx)
		if err == nil {
			break
		}
		p.set(func() { p.trouble = err.Error() })
		logf("cluster %s: pod %s/%s: %v", p.sandbox.cluster.name, p.sandbox.pod.Namespace, p.sandbox.pod.Name, err)
		wait(ctx, retryWait)
	}
	p.set(func() { p.trouble = "" })
	p.work(ctx)
	p.stop()
}

// work starts everything in order, and returns when it is cancelled, or all containers of a pod that is not to go on are done.
func (p *runningPod) work(ctx context.Context) {
	for _, container := range p.sandbox.pod.Spec.InitContainers {
		if isSidecar(container) {
			p.keep(ctx, container)
			if !p.isStarted(ctx, container.Name) {
				return
			}
			continue
		}
		for !p.once(ctx, container) {
			if !wait(ctx, restartWait) {
				return
			}
			p.sandbox.refresh(ctx)
		}
	}
	var done sync.WaitGroup
	for _, container := range p.sandbox.pod.Spec.Containers {
		if p.sandbox.pod.Spec.RestartPolicy == core.RestartPolicyAlways {
			p.keep(ctx, container)
			continue
		}
		done.Go(func() {
			for !p.once(ctx, container) && p.sandbox.pod.Spec.RestartPolicy == core.RestartPolicyOnFailure {
				if !wait(ctx, restartWait) {
					return
				}
			}
		})
	}
	if p.sandbox.pod.Spec.RestartPolicy == core.RestartPolicyAlways {
		<-ctx.Done()
		return
	}
	done.Wait()
}

// once runs a container to its end, and says whether that was a good one.
func (p *runningPod) once(ctx context.Context, container core.Container) bool {
	ended := make(chan error, 1)
	process, err := p.launch(ctx, container, func(err error) { ended <- err })
	if err == nil {
		select {
		case err = <-ended:
		case <-ctx.Done():
			return false
		}
	}
	good := err == nil || (process != nil && process.command.ProcessState != nil && process.command.ProcessState.Success())
	p.set(func() {
		state := p.of(container.Name)
		state.done, state.ready, state.failure = good, good, ""
		if !good {
			state.failure = err.Error()
			state.restarts++
		}
	})
	return good
}

// keep runs a container, again when it ends, and its probes.
func (p *runningPod) keep(ctx context.Context, container core.Container) {
	go func() {
		for ctx.Err() == nil {
			ended := make(chan error, 1)
			_, err := p.launch(ctx, container, func(err error) { ended <- err })
			if err == nil {
				probing, stop := context.WithCancel(ctx)
				go p.probe(probing, container)
				select {
				case err = <-ended:
				case <-ctx.Done():
				}
				stop()
			}
			if ctx.Err() != nil || p.isDead() {
				return
			}
			p.set(func() {
				state := p.of(container.Name)
				state.started, state.ready, state.failure = false, false, fmt.Sprint(err)
				state.restarts++
			})
			logf("cluster %s: pod %s/%s: container %s: %v", p.sandbox.cluster.name, p.sandbox.pod.Namespace, p.sandbox.pod.Name, container.Name, err)
			wait(ctx, restartWait)
		}
	}()
}

func (p *runningPod) launch(ctx context.Context, container core.Container, ended func(error)) (*child, error) {
	if p.isDead() {
		return nil, errors.New("its machine is dead")
	}
	process, err := p.sandbox.start(ctx, container, ended)
	if err != nil {
		return nil, err
	}
	p.set(func() {
		p.processes[container.Name] = process
		p.of(container.Name).since = time.Now()
	})
	return process, nil
}

func (p *runningPod) isDead() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.dead
}

// stop ends the containers as a kubelet does: the pod's own first, then its sidecars, the last one first.
func (p *runningPod) stop() {
	p.mutex.Lock()
	deadline := time.Now().Add(p.grace)
	p.mutex.Unlock()
	var own sync.WaitGroup
	for _, container := range p.sandbox.pod.Spec.Containers {
		own.Go(func() { p.take(container.Name).finish(deadline) })
	}
	own.Wait()
	for _, container := range slices.Backward(p.sandbox.pod.Spec.InitContainers) {
		p.take(container.Name).finish(deadline)
	}
}

func (p *runningPod) take(name string) *child {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.processes[name]
}

// set changes something, and tells.
func (p *runningPod) set(change func()) {
	p.mutex.Lock()
	change()
	p.mutex.Unlock()
	p.changed()
}

// of is a container's state, with the mutex held.
func (p *runningPod) of(name string) *containerState {
	state, found := p.containers[name]
	if !found {
		state = &containerState{}
		p.containers[name] = state
	}
	return state
}

// states is a copy of all, and whether the pod's machine is dead.
func (p *runningPod) states() (map[string]containerState, string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	all := map[string]containerState{}
	for name, state := range p.containers {
		all[name] = *state
	}
	return all, p.trouble
}

// graceOf is how long a pod's containers have to end.
func graceOf(pod *core.Pod) time.Duration {
	if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return 30 * time.Second
}

func isSidecar(container core.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == core.ContainerRestartPolicyAlways
}

// wait is false when the context ended first.
func wait(ctx context.Context, long time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(long):
		return true
	}
}
