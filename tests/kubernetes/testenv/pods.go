// What a kubelet says of a pod whose containers run, and which address a pod gets. Decides only; kubelet.go speaks.

package main

import (
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// running is the status of a pod that runs at an address, and whether the pod says otherwise so far.
func running(pod *core.Pod, host, ip string, now meta.Time) (core.PodStatus, bool) {
	before := pod.Status
	contained := core.ConditionTrue
	if pod.Annotations["testenv/ready"] == "false" {
		contained = core.ConditionFalse
	}
	ready := contained
	for _, gate := range pod.Spec.ReadinessGates {
		if condition(before.Conditions, gate.ConditionType) != core.ConditionTrue {
			ready = core.ConditionFalse
		}
	}
	if before.Phase == core.PodRunning && before.PodIP == ip &&
		condition(before.Conditions, core.ContainersReady) == contained && condition(before.Conditions, core.PodReady) == ready {
		return before, false
	}
	started := now
	if before.StartTime != nil {
		started = *before.StartTime
	}
	status := core.PodStatus{
		Phase:      core.PodRunning,
		QOSClass:   before.QOSClass,
		HostIP:     host,
		HostIPs:    []core.HostIP{{IP: host}},
		PodIP:      ip,
		PodIPs:     []core.PodIP{{IP: ip}},
		StartTime:  &started,
		Conditions: conditions(before.Conditions, contained, ready, now),
	}
	for _, container := range pod.Spec.InitContainers {
		one := containerStatus(container, contained == core.ConditionTrue, started)
		if container.RestartPolicy == nil || *container.RestartPolicy != core.ContainerRestartPolicyAlways {
			// It ran before the others and is through; only sidecars go on.
			one.Ready, one.Started = true, new(bool)
			one.State = core.ContainerState{Terminated: &core.ContainerStateTerminated{
				Reason: "Completed", StartedAt: started, FinishedAt: started, ContainerID: one.ContainerID,
			}}
		}
		status.InitContainerStatuses = append(status.InitContainerStatuses, one)
	}
	for _, container := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(container, contained == core.ConditionTrue, started))
	}
	return status, true
}

// observed is the status of a pod that runs here, and whether the pod says otherwise so far.
func observed(pod *core.Pod, host, ip string, seen map[string]containerState, trouble string, now meta.Time) (core.PodStatus, bool) {
	ready, begun, done, failed := core.ConditionTrue, true, true, false
	status := core.PodStatus{
		QOSClass: pod.Status.QOSClass, HostIP: host, HostIPs: []core.HostIP{{IP: host}}, PodIP: ip, PodIPs: []core.PodIP{{IP: ip}},
		StartTime: &now, Message: trouble,
	}
	if pod.Status.StartTime != nil {
		status.StartTime = pod.Status.StartTime
	}
	for _, container := range pod.Spec.InitContainers {
		state := seen[container.Name]
		status.InitContainerStatuses = append(status.InitContainerStatuses, observedContainer(container, state))
		if isSidecar(container) && !state.ready {
			ready = core.ConditionFalse
		}
		begun = begun && (state.done || state.started)
	}
	for _, container := range pod.Spec.Containers {
		state := seen[container.Name]
		status.ContainerStatuses = append(status.ContainerStatuses, observedContainer(container, state))
		if !state.ready {
			ready = core.ConditionFalse
		}
		done = done && (state.done || state.failure != "")
		failed = failed || state.failure != ""
	}
	status.Phase = core.PodPending
	if begun {
		status.Phase = core.PodRunning
	}
	if done && pod.Spec.RestartPolicy != core.RestartPolicyAlways {
		status.Phase, ready = core.PodSucceeded, core.ConditionFalse
		if failed {
			status.Phase = core.PodFailed
		}
	}
	all := ready
	for _, gate := range pod.Spec.ReadinessGates {
		if condition(pod.Status.Conditions, gate.ConditionType) != core.ConditionTrue {
			all = core.ConditionFalse
		}
	}
	status.Conditions = conditions(pod.Status.Conditions, ready, all, now)
	return status, !equality.Semantic.DeepEqual(status, pod.Status)
}

func observedContainer(container core.Container, state containerState) core.ContainerStatus {
	since := meta.NewTime(state.since.Truncate(time.Second))
	status := core.ContainerStatus{
		Name: container.Name, Image: container.Image, ImageID: "testenv/" + container.Image, Ready: state.ready, RestartCount: state.restarts,
		Started: &state.started,
	}
	switch {
	case state.done:
		status.State.Terminated = &core.ContainerStateTerminated{Reason: "Completed", StartedAt: since}
	case state.failure != "":
		status.State.Waiting = &core.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: state.failure}
	case state.since.IsZero():
		status.State.Waiting = &core.ContainerStateWaiting{Reason: "PodInitializing"}
	default:
		status.State.Running = &core.ContainerStateRunning{StartedAt: since}
	}
	return status
}

func containerStatus(container core.Container, ready bool, started meta.Time) core.ContainerStatus {
	yes := true
	return core.ContainerStatus{
		Name:        container.Name,
		Image:       container.Image,
		ImageID:     "testenv/" + container.Image,
		ContainerID: "testenv://" + container.Name,
		Ready:       ready,
		Started:     &yes,
		State:       core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: started}},
	}
}

// conditions of a running pod, over what others said of it; one that keeps its value keeps its time.
func conditions(before []core.PodCondition, contained, ready core.ConditionStatus, now meta.Time) []core.PodCondition {
	wanted := []core.PodCondition{
		{Type: core.PodReadyToStartContainers, Status: core.ConditionTrue},
		{Type: core.PodInitialized, Status: core.ConditionTrue},
		{Type: core.PodReady, Status: ready},
		{Type: core.ContainersReady, Status: contained},
		{Type: core.PodScheduled, Status: core.ConditionTrue},
	}
	ours := map[core.PodConditionType]bool{}
	for index := range wanted {
		one := &wanted[index]
		ours[one.Type] = true
		one.LastTransitionTime = now
		if one.Status == core.ConditionFalse {
			one.Reason, one.Message = "NotReady", "the pod's annotation or a readiness gate says so"
		}
		for _, old := range before {
			if old.Type == one.Type && old.Status == one.Status {
				one.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	for _, old := range before {
		if !ours[old.Type] {
			wanted = append(wanted, old)
		}
	}
	return wanted
}

func condition(all []core.PodCondition, wanted core.PodConditionType) core.ConditionStatus {
	for _, one := range all {
		if one.Type == wanted {
			return one.Status
		}
	}
	return ""
}

// addresses of a range, each held by one pod. Given in turn, so that one just freed stays free for as long as it can.
type addresses struct {
	cidr        string
	first, size int64
	next        int64
	holders     map[string]types.UID
}

// newAddresses leaves out so many at the start of the range, and its last.
func newAddresses(cidr string, reserved int64) *addresses {
	size := int64(0)
	if _, network, err := net.ParseCIDR(cidr); err == nil {
		ones, bits := network.Mask.Size()
		// More than a cluster has pods is never counted, so ranges of IPv6 fit too.
		all := new(big.Int).Lsh(big.NewInt(1), uint(min(bits-ones, 24)))
		size = all.Int64() - reserved - 1
	}
	return &addresses{cidr: cidr, first: reserved, size: max(size, 0), holders: map[string]types.UID{}}
}

func (a *addresses) take(holder types.UID) (string, error) {
	for range a.size {
		ip := firstOf(a.cidr, a.first+a.next%a.size).String()
		a.next++
		if _, held := a.holders[ip]; !held {
			a.holders[ip] = holder
			return ip, nil
		}
	}
	return "", fmt.Errorf("%w in %s", errNoAddress, a.cidr)
}

var errNoAddress = errors.New("no free address")

func (a *addresses) hold(holder types.UID, ip string) { a.holders[ip] = holder }

func (a *addresses) release(holder types.UID) {
	for ip, one := range a.holders {
		if one == holder {
			delete(a.holders, ip)
		}
	}
}
