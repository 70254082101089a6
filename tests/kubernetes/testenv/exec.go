// Commands in containers that run, as `kubectl exec` asks for them: with the container's network, files, user and environment, and with a
// terminal where one is wished. Whatever a command leaves behind ends with it, and the command with its pod. That its caller went away it
// notices, as under a kubelet, when it reads or writes.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// How often it is looked whether a container that was just started sees its files.
const begunPoll = 10 * time.Millisecond

func serveExec(pod *runningPod, answer http.ResponseWriter, request *http.Request) {
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(answer, request, pod, pod.sandbox.pod.Name, string(pod.sandbox.pod.UID), request.PathValue("container"),
		request.Form["command"], options, streamIdle, streamDeadline, remotecommand.SupportedStreamingProtocols)
}

// ExecInContainer runs a command to its end.
func (p *runningPod) ExecInContainer(ctx context.Context, _, _, name string, words []string, in io.Reader, out, errs io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	command, err := p.commandIn(ctx, name, words)
	if err != nil {
		return err
	}
	// Its own session, so that all that it starts can be ended.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var copied <-chan struct{}
	if tty {
		copied, err = startOnTerminal(command, in, out, resize)
	} else {
		err = startOnPipes(command, in, out, errs)
	}
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		select {
		case <-ended:
		case <-p.gone:
			// Fails only when it is gone already.
			_ = command.Process.Kill()
		}
	}()
	endGroup(command.Process.Pid)
	err = command.Wait()
	close(ended)
	if copied != nil {
		<-copied
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return utilexec.CodeExitError{Err: err, Code: failed.ExitCode()}
	}
	return err
}

// commandIn is a command that will see what a container sees, once that sees it itself.
func (p *runningPod) commandIn(ctx context.Context, name string, words []string) (*exec.Cmd, error) {
	if len(words) == 0 {
		return nil, errors.New("no command was given")
	}
	all := slices.Concat(p.sandbox.pod.Spec.InitContainers, p.sandbox.pod.Spec.Containers)
	index := slices.IndexFunc(all, func(one core.Container) bool { return one.Name == name })
	if index < 0 {
		return nil, fmt.Errorf("no container %s", name)
	}
	container := all[index]
	environment, _, err := p.sandbox.environment(ctx, container)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, streamDeadline)
	defer cancel()
	var process *child
	for {
		process = p.take(name)
		if _, err := os.Stat(p.sandbox.begun(name)); err == nil && process != nil {
			break
		}
		if !wait(limited, begunPoll) {
			return nil, fmt.Errorf("container %s does not run", name)
		}
	}
	select {
	case <-process.done:
		return nil, fmt.Errorf("container %s does not run any more", name)
	default:
	}
	line := []string{"--target", strconv.Itoa(process.id()), "--net", "--mount", "--"}
	line = slices.Concat(line, p.sandbox.asUser(container), words)
	command := exec.Command("nsenter", line...)
	command.Env = environment
	return command, nil
}

// startOnPipes starts a command whose streams are apart.
func startOnPipes(command *exec.Cmd, in io.Reader, out, errs io.Writer) error {
	command.Stdout, command.Stderr = out, errs
	if in == nil {
		return startBound(command)
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	if err := startBound(command); err != nil {
		return err
	}
	go func() {
		// It may end without having read everything.
		_, _ = io.Copy(stdin, in)
		_ = stdin.Close()
	}()
	return nil
}

// startOnTerminal starts a command on a terminal of its own; the channel closes when all that it said was passed on.
func startOnTerminal(command *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) (<-chan struct{}, error) {
	near, far, err := openTerminal()
	if err != nil {
		return nil, err
	}
	command.Stdin, command.Stdout, command.Stderr = far, far, far
	command.SysProcAttr.Setctty = true
	err = startBound(command)
	_ = far.Close()
	if err != nil {
		_ = near.Close()
		return nil, err
	}
	go func() {
		for size := range resize {
			setSize(near, size)
		}
	}()
	if in != nil {
		go func() {
			// Fails when the terminal is closed.
			_, _ = io.Copy(near, in)
		}()
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer near.Close()
		if out == nil {
			out = io.Discard
		}
		// Ends by an error when nobody has the other side open any more.
		_, _ = io.Copy(out, near)
	}()
	return copied, nil
}

// openTerminal makes a terminal: the side that we hold, and the one that the command has.
func openTerminal() (near, far *os.File, err error) {
	// Reads of it can be ended by closing it, which needs it not to block.
	held, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	number, err := unix.IoctlGetUint32(held, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(held, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		far, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = unix.Close(held)
		return nil, nil, fmt.Errorf("a terminal: %w", err)
	}
	return os.NewFile(uintptr(held), "/dev/ptmx"), far, nil
}

// setSize of a terminal. Fails only when it is closed.
func setSize(terminal *os.File, size remotecommand.TerminalSize) {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(held uintptr) {
		_ = unix.IoctlSetWinsize(int(held), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}
