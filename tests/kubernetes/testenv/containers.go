// What a pod's containers are here: processes in the pod's network, each with mounts of its own and its container's user, arguments,
// environment and volumes. There is no image: its name says which program of this machine is meant, unless the container has a command of
// its own, which is then found on this machine. Not kept to: limits, capabilities, read-only roots; tokens are not renewed.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// Directories that a container finds empty, but for what is mounted there. Nothing can be mounted elsewhere: the rest is the machine's.
var emptied = []string{"/run", "/var/lib"}

// Files of /etc that programs look at; hosts and resolv.conf are made for each pod.
var etcFiles = []string{"passwd", "group", "nsswitch.conf"}

// Where Debian says which of several programs a name stands for: without it there is no awk and no nc.
const alternatives = "/etc/alternatives"

// sandbox is where a pod's processes run.
type sandbox struct {
	cluster *cluster
	pod     *core.Pod
	ip      string
	dir     string

	// Guards what follows: others ask for it while the pod starts.
	mutex   sync.Mutex
	network *namespace
}

func (s *sandbox) etc() string { return filepath.Join(s.dir, "etc") }

// prepare makes what all containers share.
func (s *sandbox) prepare(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(s.etc(), filepath.Base(alternatives)), 0o755); err != nil {
		return err
	}
	if err := errors.Join(s.setHosts(), s.setResolver()); err != nil {
		return err
	}
	for _, name := range etcFiles {
		text, err := os.ReadFile("/etc/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.etc(), name), text, 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, volume := range s.pod.Spec.Volumes {
		if err := s.fill(ctx, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	}
	// Linux has fifteen letters for an interface's name.
	link := "p" + strings.ReplaceAll(string(s.pod.UID), "-", "")[:13]
	made, err := newPod(ctx, s.cluster.nodesNetwork, filepath.Join(s.dir, "network.log"), link, s.ip)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.network = made
	return nil
}

// holder is the process that holds the pod's network.
func (s *sandbox) holder() (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.network == nil {
		return 0, errors.New("it has no network yet")
	}
	return s.network.holder.id(), nil
}

// volume is the directory of a volume.
func (s *sandbox) volume(name string) string {
	for _, volume := range s.pod.Spec.Volumes {
		if volume.Name == name && volume.PersistentVolumeClaim != nil {
			return s.cluster.file(filepath.Join("claims", s.pod.Namespace, volume.PersistentVolumeClaim.ClaimName))
		}
	}
	return filepath.Join(s.dir, "volumes", name)
}

// refresh fills anew what others may have changed since, as a kubelet does from time to time. What cannot be read stays as it is.
func (s *sandbox) refresh(ctx context.Context) {
	for _, volume := range s.pod.Spec.Volumes {
		if volume.ConfigMap != nil || volume.Secret != nil || volume.Projected != nil {
			_ = s.fill(ctx, volume)
		}
	}
}

func (s *sandbox) fill(ctx context.Context, volume core.Volume) error {
	dir := s.volume(volume.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	switch {
	case volume.EmptyDir != nil || volume.PersistentVolumeClaim != nil:
		mode := os.FileMode(0o777)
		if context := s.pod.Spec.SecurityContext; context != nil && context.FSGroup != nil {
			if err := os.Chown(dir, 0, int(*context.FSGroup)); err != nil {
				return err
			}
			mode = 0o770 | os.ModeSetgid
		}
		return os.Chmod(dir, mode)
	case volume.ConfigMap != nil:
		return s.configMap(ctx, dir, volume.ConfigMap.Name, volume.ConfigMap.Items, isTrue(volume.ConfigMap.Optional))
	case volume.Secret != nil:
		return s.secret(ctx, dir, volume.Secret.SecretName, volume.Secret.Items, isTrue(volume.Secret.Optional))
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			if err := s.project(ctx, dir, source); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("no kind of volume that there is here")
}

func (s *sandbox) project(ctx context.Context, dir string, source core.VolumeProjection) error {
	switch {
	case source.ServiceAccountToken != nil:
		wanted := source.ServiceAccountToken
		token, err := s.token(ctx, wanted.Audience, wanted.ExpirationSeconds)
		if err != nil {
			return err
		}
		return put(dir, wanted.Path, []byte(token))
	case source.ConfigMap != nil:
		return s.configMap(ctx, dir, source.ConfigMap.Name, source.ConfigMap.Items, isTrue(source.ConfigMap.Optional))
	case source.Secret != nil:
		return s.secret(ctx, dir, source.Secret.Name, source.Secret.Items, isTrue(source.Secret.Optional))
	case source.DownwardAPI != nil:
		for _, item := range source.DownwardAPI.Items {
			if item.FieldRef == nil {
				return errors.New("only fields are projected here")
			}
			text, err := s.field(item.FieldRef.FieldPath)
			if err != nil {
				return err
			}
			if err := put(dir, item.Path, []byte(text)); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("no kind of projection that there is here")
}

func (s *sandbox) token(ctx context.Context, audience string, seconds *int64) (string, error) {
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{
		ExpirationSeconds: seconds,
		BoundObjectRef:    &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: s.pod.Name, UID: s.pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	accounts := s.cluster.client.CoreV1().ServiceAccounts(s.pod.Namespace)
	made, err := accounts.CreateToken(ctx, s.pod.Spec.ServiceAccountName, request, meta.CreateOptions{})
	if err != nil {
		return "", err
	}
	return made.Status.Token, nil
}

func (s *sandbox) configMap(ctx context.Context, dir, name string, items []core.KeyToPath, optional bool) error {
	found, err := s.cluster.client.CoreV1().ConfigMaps(s.pod.Namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return ignored(err, optional)
	}
	all := map[string][]byte{}
	for key, text := range found.Data {
		all[key] = []byte(text)
	}
	return putAll(dir, all, items)
}

func (s *sandbox) secret(ctx context.Context, dir, name string, items []core.KeyToPath, optional bool) error {
	found, err := s.cluster.client.CoreV1().Secrets(s.pod.Namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return ignored(err, optional)
	}
	return putAll(dir, found.Data, items)
}

func ignored(err error, optional bool) error {
	if optional {
		return nil
	}
	return err
}

func isTrue(value *bool) bool { return value != nil && *value }

func putAll(dir string, all map[string][]byte, items []core.KeyToPath) error {
	if items == nil {
		for key, text := range all {
			if err := put(dir, key, text); err != nil {
				return err
			}
		}
	}
	for _, item := range items {
		text, found := all[item.Key]
		if !found {
			return fmt.Errorf("there is no key %s", item.Key)
		}
		if err := put(dir, item.Path, text); err != nil {
			return err
		}
	}
	return nil
}

func put(dir, path string, text []byte) error {
	target := filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, text, 0o644)
}

// field is what a pod says of itself.
func (s *sandbox) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return s.pod.Name, nil
	case "metadata.namespace":
		return s.pod.Namespace, nil
	case "metadata.uid":
		return string(s.pod.UID), nil
	case "spec.serviceAccountName":
		return s.pod.Spec.ServiceAccountName, nil
	case "spec.nodeName":
		return s.pod.Spec.NodeName, nil
	case "status.podIP", "status.podIPs":
		return s.ip, nil
	}
	if label, found := strings.CutPrefix(path, "metadata.labels['"); found {
		return s.pod.Labels[strings.TrimSuffix(label, "']")], nil
	}
	return "", fmt.Errorf("the field %s is not told here", path)
}

// environment of a container, and the same by name for what refers to it.
func (s *sandbox) environment(ctx context.Context, container core.Container) ([]string, map[string]string, error) {
	known := map[string]string{
		"KUBERNETES_SERVICE_HOST": s.cluster.address,
		"KUBERNETES_SERVICE_PORT": strconv.Itoa(s.cluster.port.number),
	}
	expand := expansion.MappingFuncFor(known)
	for _, one := range container.Env {
		value, err := s.value(ctx, one, expand)
		if err != nil {
			return nil, nil, fmt.Errorf("variable %s: %w", one.Name, err)
		}
		known[one.Name] = value
	}
	all := []string{toolPath}
	for name, value := range known {
		all = append(all, name+"="+value)
	}
	return all, known, nil
}

func (s *sandbox) value(ctx context.Context, one core.EnvVar, expand func(string) string) (string, error) {
	if one.ValueFrom == nil {
		return expansion.Expand(one.Value, expand), nil
	}
	switch from := one.ValueFrom; {
	case from.FieldRef != nil:
		return s.field(from.FieldRef.FieldPath)
	case from.SecretKeyRef != nil:
		found, err := s.cluster.client.CoreV1().Secrets(s.pod.Namespace).Get(ctx, from.SecretKeyRef.Name, meta.GetOptions{})
		if err != nil {
			return "", ignored(err, isTrue(from.SecretKeyRef.Optional))
		}
		return string(found.Data[from.SecretKeyRef.Key]), nil
	}
	return "", errors.New("comes from what is not told here")
}

// start runs a container; ended is called when it ends without having been told to.
func (s *sandbox) start(ctx context.Context, container core.Container, ended func(error)) (*child, error) {
	program := s.cluster.programs.image(container.Image)
	if program == "" {
		return nil, fmt.Errorf("no program is known for the image %s", container.Image)
	}
	environment, known, err := s.environment(ctx, container)
	if err != nil {
		return nil, err
	}
	begun := s.begun(container.Name)
	if err := os.Remove(begun); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	script := "set -e\n"
	if _, err := os.Stat(alternatives); err == nil {
		script += fmt.Sprintf("mount --bind %s %s\n", alternatives, quote(filepath.Join(s.etc(), filepath.Base(alternatives))))
	}
	script += "mount --rbind " + quote(s.etc()) + " /etc\n"
	for _, dir := range emptied {
		script += "mount -t tmpfs tmpfs " + dir + "\n"
	}
	for _, mount := range container.VolumeMounts {
		target := filepath.Clean(mount.MountPath)
		if real, found := strings.CutPrefix(target, "/var/run/"); found {
			target = "/run/" + real
		}
		if !mountable(target) {
			return nil, fmt.Errorf("nothing can be mounted at %s here", mount.MountPath)
		}
		source := filepath.Join(s.volume(mount.Name), mount.SubPath)
		script += fmt.Sprintf("mkdir -p %[2]s\nmount --bind %[1]s %[2]s\n", quote(source), quote(target))
	}
	script += ": > " + quote(begun) + "\n" + `exec "$@"`
	line := []string{
		"nsenter", "--net=" + s.network.path(), "--", "unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh",
	}
	line = append(line, s.asUser(container)...)
	command := []string{program}
	if len(container.Command) > 0 {
		command = container.Command
	}
	expand := expansion.MappingFuncFor(known)
	for _, word := range slices.Concat(command, container.Args) {
		line = append(line, expansion.Expand(word, expand))
	}
	return spawnWith(s.log(container.Name), line, environment, ended)
}

// begun is a file that is there from when a container sees its own files, until it is started again.
func (s *sandbox) begun(container string) string { return filepath.Join(s.dir, container+".begun") }

// log is where all that a container says goes.
func (s *sandbox) log(container string) string { return filepath.Join(s.dir, container+".log") }

// asUser is what a command line begins with, for it to run as the container does.
func (s *sandbox) asUser(container core.Container) []string {
	user, group := s.user(container)
	if user == 0 {
		return nil
	}
	// A change of user forgets that the process is to end with us; it is told so again.
	return []string{
		"setpriv", "--reuid", strconv.FormatInt(user, 10), "--regid", strconv.FormatInt(group, 10), "--clear-groups", "--no-new-privs",
		"--pdeathsig", "KILL",
	}
}

// user and group that a container runs as.
func (s *sandbox) user(container core.Container) (int64, int64) {
	var user, group int64
	if of := s.pod.Spec.SecurityContext; of != nil {
		user, group = number(of.RunAsUser, user), number(of.RunAsGroup, group)
	}
	if of := container.SecurityContext; of != nil {
		user, group = number(of.RunAsUser, user), number(of.RunAsGroup, group)
	}
	return user, group
}

func number(given *int64, otherwise int64) int64 {
	if given == nil {
		return otherwise
	}
	return *given
}

func mountable(target string) bool {
	for _, dir := range append([]string{"/etc"}, emptied...) {
		if strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return false
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
