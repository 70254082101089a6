// Processes of servers. Each dies with us, whatever way we go, and is waited for: none is ever left behind.

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lines of a log that are shown when its process ended by itself.
const tailLines = 15

// programs are command lines of servers, without their flags. An empty etcd is the one inside us.
type programs struct {
	etcd, apiserver, controllers, proxy []string
	self                                string
	// What the images of pods that run stand for.
	images map[string]string
}

// image is the program that stands for an image, whatever its tag; none where it does not run here.
func (p *programs) image(name string) string {
	if cut := strings.LastIndex(name, ":"); cut > strings.LastIndex(name, "/") {
		name = name[:cut]
	}
	return p.images[name]
}

// findPrograms takes the servers of KUBEBUILDER_ASSETS where that is set, else those inside us.
func findPrograms() (*programs, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	found := &programs{
		apiserver: []string{self, roleAPIServer}, controllers: []string{self, roleControllers}, proxy: []string{self, roleProxy},
		self: self,
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return found, nil
	}
	for _, wanted := range []struct {
		name   string
		target *[]string
	}{
		{"etcd", &found.etcd}, {"kube-apiserver", &found.apiserver}, {"kube-controller-manager", &found.controllers},
	} {
		path := filepath.Join(assets, wanted.name)
		if _, err := os.Stat(path); err == nil {
			*wanted.target = []string{path}
		} else if wanted.name != "kube-controller-manager" {
			return nil, fmt.Errorf("KUBEBUILDER_ASSETS=%s: %w", assets, err)
		}
	}
	return found, nil
}

// child is a running process.
type child struct {
	command *exec.Cmd
	told    chan struct{}
	once    sync.Once
	done    chan struct{}
}

// Processes ask to be killed when the thread that started them ends, so one thread that never ends starts them all.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range work {
			start()
		}
	}()
	return work
})

// spawn starts a process whose output goes to a log. ended is called when it ends without having been told to.
func spawn(log string, line []string, ended func(error)) (*child, error) {
	return spawnWith(log, line, nil, ended)
}

// spawnWith does the same with an environment of its own, if that is given.
func spawnWith(log string, line, environment []string, ended func(error)) (*child, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	one := &child{command: exec.Command(line[0], line[1:]...), told: make(chan struct{}), done: make(chan struct{})}
	one.command.Stdout, one.command.Stderr = file, file
	one.command.Env = environment
	one.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startBound(one.command); err != nil {
		return nil, err
	}
	go func() {
		endGroup(one.id())
		err := one.command.Wait()
		close(one.done)
		select {
		case <-one.told:
		default:
			ended(fmt.Errorf("ended by itself (%v)\n%s", err, tail(log)))
		}
	}()
	return one, nil
}

// startBound starts a command that ends with us.
func startBound(command *exec.Cmd) error {
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	spawner() <- func() { started <- command.Start() }
	return <-started
}

// endGroup waits until a process, the first of its group, has ended, and ends whatever it started and left behind. The process is not
// reaped yet, so that the group's number is nobody else's.
func endGroup(id int) {
	for {
		err := unix.Waitid(unix.P_PID, id, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	// Fails only when nobody is left.
	_ = unix.Kill(-id, unix.SIGKILL)
}

func (c *child) id() int { return c.command.Process.Pid }

// kill ends the process at once and waits for it. What it kept is thrown away, so there is nothing to end in order.
func (c *child) kill() {
	if c == nil {
		return
	}
	c.once.Do(func() { close(c.told) })
	// Fails only when it is gone already.
	_ = c.command.Process.Kill()
	<-c.done
}

// finish asks the process to end, waits for it until the deadline, and then ends it.
func (c *child) finish(deadline time.Time) {
	if c == nil {
		return
	}
	c.once.Do(func() { close(c.told) })
	// Fails only when it is gone already.
	_ = c.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(time.Until(deadline)):
		c.kill()
	}
}

func tail(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// heldPort is a free TCP port that stays ours: bound but not listening, in a group of sockets that share it. The API
// server joins that group, and only processes of our user may.
type heldPort struct {
	socket, number int
}

func holdPort(address string) (*heldPort, error) {
	ip := net.ParseIP(address)
	family, at := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: [16]byte(ip.To16())})
	if v4 := ip.To4(); v4 != nil {
		family, at = unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte(v4)}
	}
	socket, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	held := &heldPort{socket: socket}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		held.close()
		return nil, err
	}
	if err := unix.Bind(socket, at); err != nil {
		held.close()
		return nil, fmt.Errorf("no port at %s: %w", address, err)
	}
	bound, err := unix.Getsockname(socket)
	if err != nil {
		held.close()
		return nil, err
	}
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		held.number = bound.Port
	case *unix.SockaddrInet6:
		held.number = bound.Port
	}
	return held, nil
}

func (p *heldPort) close() {
	if p != nil {
		_ = unix.Close(p.socket)
	}
}

// logf tells people; stdout is for programs.
func logf(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
}
