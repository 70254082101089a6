// A stand-in for kubelets and the scheduler, because neither containers nor kubelets can run here: it registers nodes, binds
// pods to them, and says of bound pods what a kubelet would say of ones whose containers run. Pods whose images stand for programs run
// as processes, and what is said of them was seen (runtime.go); of others nothing starts, and nothing listens at their addresses.
//
// A pod of which nothing runs may say how it is to look:
//   testenv/pod-ip: ADDRESS   where a test runs the pod's processes; else one of the cluster's range
//   testenv/ready: "false"    its containers run but are not ready

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	// Pods looked after at the same time.
	kubeletWorkers = 4
	// Pods are looked at again this often even if nothing happens.
	resync = 10 * time.Minute
)

type kubelets struct {
	cluster *cluster
	pods    listers.PodLister
	nodes   []*core.Node
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mutex     sync.Mutex
	addresses *addresses
	turn      int
}

// runKubelets registers the nodes and looks after pods until the context ends; the channel closes when all is quiet.
func runKubelets(ctx context.Context, c *cluster) (<-chan struct{}, error) {
	nodes, err := c.registerNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	factory := informers.NewSharedInformerFactory(c.client, resync)
	informer := factory.Core().V1().Pods()
	k := &kubelets{
		cluster:   c,
		pods:      informer.Lister(),
		nodes:     nodes,
		addresses: newAddresses(c.podCIDR, maxNodes+1),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](10*time.Millisecond, 5*time.Second)),
	}
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    k.enqueue,
		UpdateFunc: func(_, pod any) { k.enqueue(pod) },
		DeleteFunc: k.forget,
	})
	if err != nil {
		return nil, err
	}
	if c.runtime != nil {
		c.runtime.mutex.Lock()
		c.runtime.enqueue = k.queue.Add
		c.runtime.mutex.Unlock()
	}
	factory.StartWithContext(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer factory.Shutdown()
		// Addresses that pods hold already are known before the first new one is given.
		if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			return
		}
		k.holdAddresses()
		var workers sync.WaitGroup
		for range kubeletWorkers {
			workers.Go(func() {
				for k.next(ctx) {
				}
			})
		}
		<-ctx.Done()
		k.queue.ShutDown()
		workers.Wait()
	}()
	return done, nil
}

func (k *kubelets) enqueue(object any) {
	if pod, ok := object.(*core.Pod); ok {
		k.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
}

// forget ends what still runs of a pod that is gone, as one is that was deleted without waiting for its kubelet, and then gives its
// address to others.
func (k *kubelets) forget(object any) {
	if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = missed.Obj
	}
	if pod, ok := object.(*core.Pod); ok {
		k.cluster.runtime.forget(pod.UID, func() {
			k.mutex.Lock()
			defer k.mutex.Unlock()
			k.addresses.release(pod.UID)
		})
	}
}

func (k *kubelets) holdAddresses() {
	pods, err := k.pods.List(labels.Everything())
	if err != nil {
		return
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, pod := range pods {
		if pod.Status.PodIP != "" {
			k.addresses.hold(pod.UID, pod.Status.PodIP)
		}
	}
}

// next looks after one pod; false when there will be no more.
func (k *kubelets) next(ctx context.Context) bool {
	name, ending := k.queue.Get()
	if ending {
		return false
	}
	defer k.queue.Done(name)
	err := k.lookAfter(ctx, name)
	switch {
	case err == nil, ctx.Err() != nil:
		k.queue.Forget(name)
	case kerrors.IsConflict(err), kerrors.IsNotFound(err):
		// The pod changed meanwhile: its next event brings it back. It is asked once more in case that came before.
		k.queue.AddRateLimited(name)
	default:
		logf("cluster %s: pod %s: %v", k.cluster.name, name, err)
		k.queue.AddRateLimited(name)
	}
	return true
}

func (k *kubelets) lookAfter(ctx context.Context, name types.NamespacedName) error {
	pod, err := k.pods.Pods(name.Namespace).Get(name.Name)
	if kerrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	pods := k.cluster.client.CoreV1().Pods(name.Namespace)
	if pod.DeletionTimestamp != nil {
		if pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
			// All that is left are finalizers of others.
			k.cluster.runtime.forget(pod.UID, func() {})
			return nil
		}
		if !k.cluster.runtime.end(pod) {
			return k.reportEnding(ctx, pod)
		}
		now := int64(0)
		err := pods.Delete(ctx, name.Name, meta.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &meta.Preconditions{UID: &pod.UID},
		})
		if kerrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if pod.Spec.NodeName == "" {
		if len(pod.Spec.SchedulingGates) > 0 {
			return nil
		}
		node := k.choose(pod)
		if node == nil {
			return errors.New("no node has the labels of its nodeSelector")
		}
		return pods.Bind(ctx, &core.Binding{
			ObjectMeta: meta.ObjectMeta{Name: name.Name, UID: pod.UID},
			Target:     core.ObjectReference{Kind: "Node", Name: node.Name},
		}, meta.CreateOptions{})
	}
	node := k.node(pod.Spec.NodeName)
	if node == nil || pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed {
		return nil
	}
	ip, err := k.address(pod, node)
	if err != nil {
		return err
	}
	status, changed := running(pod, nodeAddress(node), ip, meta.Now())
	if k.cluster.runtime.runs(pod) {
		one := k.cluster.runtime.look(pod, ip)
		if one == nil {
			return nil
		}
		seen, trouble := one.states()
		status, changed = observed(pod, nodeAddress(node), ip, seen, trouble, meta.Now())
	}
	if !changed {
		return nil
	}
	return k.report(ctx, pod, status)
}

// reportEnding says that a pod which runs is ready no more: it ends.
func (k *kubelets) reportEnding(ctx context.Context, pod *core.Pod) error {
	status := *pod.Status.DeepCopy()
	changed := false
	for index := range status.Conditions {
		one := &status.Conditions[index]
		if (one.Type == core.PodReady || one.Type == core.ContainersReady) && one.Status == core.ConditionTrue {
			one.Status, one.Reason, one.LastTransitionTime, changed = core.ConditionFalse, "Ending", meta.Now(), true
		}
	}
	if !changed {
		return nil
	}
	return k.report(ctx, pod, status)
}

func (k *kubelets) report(ctx context.Context, pod *core.Pod, status core.PodStatus) error {
	pods := k.cluster.client.CoreV1().Pods(pod.Namespace)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = pods.Patch(ctx, pod.Name, types.MergePatchType, patch, meta.PatchOptions{}, "status")
	return err
}

// choose takes the nodes in turn that have what the pod selects by.
func (k *kubelets) choose(pod *core.Pod) *core.Node {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	wanted := labels.SelectorFromSet(pod.Spec.NodeSelector)
	for range k.nodes {
		node := k.nodes[k.turn%len(k.nodes)]
		k.turn++
		if wanted.Matches(labels.Set(node.Labels)) {
			return node
		}
	}
	return nil
}

func (k *kubelets) node(name string) *core.Node {
	for _, node := range k.nodes {
		if node.Name == name {
			return node
		}
	}
	return nil
}

func (k *kubelets) address(pod *core.Pod, node *core.Node) (string, error) {
	if pod.Spec.HostNetwork {
		return nodeAddress(node), nil
	}
	if ip := pod.Annotations["testenv/pod-ip"]; ip != "" {
		return ip, nil
	}
	if pod.Status.PodIP != "" {
		return pod.Status.PodIP, nil
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return k.addresses.take(pod.UID)
}

// registerNodes makes the nodes that are not there yet, each in a zone of its own, and says that they are ready.
func (c *cluster) registerNodes(ctx context.Context) ([]*core.Node, error) {
	nodes := c.client.CoreV1().Nodes()
	var registered []*core.Node
	for index := range c.nodes {
		name := fmt.Sprintf("%s-node-%d", c.name, index+1)
		node, err := nodes.Get(ctx, name, meta.GetOptions{})
		if kerrors.IsNotFound(err) {
			node, err = nodes.Create(ctx, &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{
				core.LabelHostname:       name,
				core.LabelOSStable:       "linux",
				core.LabelArchStable:     "amd64",
				core.LabelTopologyRegion: c.region,
				core.LabelTopologyZone:   fmt.Sprintf("%s-%d", c.region, index+1),
			}}}, meta.CreateOptions{})
		}
		if err != nil {
			return nil, err
		}
		// The API server taints new nodes as not ready; a controller that does not run here would take that away.
		if len(node.Spec.Taints) > 0 {
			node.Spec.Taints = nil
			if node, err = nodes.Update(ctx, node, meta.UpdateOptions{}); err != nil {
				return nil, err
			}
		}
		now := meta.Now()
		capacity := core.ResourceList{
			core.ResourceCPU: resource.MustParse("64"), core.ResourceMemory: resource.MustParse("256Gi"), core.ResourcePods: resource.MustParse("1000"),
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Addresses = []core.NodeAddress{
			{Type: core.NodeInternalIP, Address: firstOf(c.podCIDR, int64(index+1)).String()}, {Type: core.NodeHostName, Address: name},
		}
		node.Status.Conditions = []core.NodeCondition{{
			Type: core.NodeReady, Status: core.ConditionTrue, Reason: "StandIn", Message: "no kubelet: tests say so",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}}
		if c.runtime != nil {
			node.Status.DaemonEndpoints.KubeletEndpoint.Port = kubeletPort
		}
		if node, err = nodes.UpdateStatus(ctx, node, meta.UpdateOptions{}); err != nil {
			return nil, err
		}
		registered = append(registered, node)
	}
	return registered, nil
}

func nodeAddress(node *core.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == core.NodeInternalIP {
			return address.Address
		}
	}
	return ""
}
