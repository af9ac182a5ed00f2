package demo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// nodeState is what the supervisor wants of, and knows about, a node.
type nodeState string

const (
	running nodeState = "running"
	killed  nodeState = "killed"  // by order; stays down until healed
	paused  nodeState = "paused"  // SIGSTOP
	crashed nodeState = "crashed" // ended by itself; it is being restarted
)

// stopGrace is how long a node may take to end after SIGTERM.
const stopGrace = 15 * time.Second

// node is one process of the demo.
type node struct {
	Member
	binary string
	args   []string
	dir    string

	mu       sync.Mutex
	cmd      *exec.Cmd
	exited   chan struct{}
	state    nodeState
	isolated bool
	stopping bool
	restarts int
}

func (n *node) logPath() string { return filepath.Join(n.dir, "node.log") }

// start starts the process. It is restarted when it ends by itself.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *node) startLocked() error {
	if n.stopping || n.cmd != nil {
		return nil
	}
	for _, addr := range []string{n.Peer, n.SQL, n.HTTP} {
		if err := freePort(addr); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(n.binary, n.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches the demo only, which then stops the nodes in
	// order; and nobody is left when the demo is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("node %d: %w", n.Index, err)
	}
	n.cmd, n.exited, n.state, n.isolated = cmd, make(chan struct{}), running, false
	go n.watch(cmd, n.exited)
	return nil
}

// watch waits for the process and restarts it unless it was meant to end.
func (n *node) watch(cmd *exec.Cmd, exited chan struct{}) {
	_ = cmd.Wait()
	// Who waits for exited may start the node again at once: it must see that nothing runs.
	n.mu.Lock()
	n.cmd = nil
	close(exited)
	if n.stopping || n.state == killed {
		n.mu.Unlock()
		return
	}
	n.state = crashed
	n.restarts++
	delay := min(time.Duration(n.restarts)*500*time.Millisecond, 10*time.Second)
	n.mu.Unlock()
	time.Sleep(delay)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == crashed {
		if err := n.startLocked(); err != nil {
			go n.retryStart()
		}
	}
}

// retryStart tries again while a port is still taken.
func (n *node) retryStart() {
	for {
		time.Sleep(time.Second)
		n.mu.Lock()
		done := n.stopping || n.state != crashed || n.startLocked() == nil
		n.mu.Unlock()
		if done {
			return
		}
	}
}

func (n *node) signal(sig syscall.Signal) error {
	if n.cmd == nil {
		return fmt.Errorf("node %d is not running", n.Index)
	}
	return n.cmd.Process.Signal(sig)
}

// kill is a power cut: SIGKILL, and no restart until healed.
func (n *node) kill() error {
	n.mu.Lock()
	exited := n.exited
	n.state = killed
	var err error
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(syscall.SIGCONT)
		err = n.signal(syscall.SIGKILL)
	}
	n.mu.Unlock()
	if exited != nil {
		<-exited
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// pause is a frozen machine: SIGSTOP.
func (n *node) pause() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	n.state = paused
	return nil
}

// heal undoes kill and pause.
func (n *node) heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch n.state {
	case paused:
		if err := n.signal(syscall.SIGCONT); err != nil {
			return err
		}
		n.state = running
	case killed, crashed:
		return n.startLocked()
	}
	return nil
}

// stop ends the process for good: SIGTERM, then SIGKILL.
func (n *node) stop() {
	n.mu.Lock()
	n.stopping = true
	exited := n.exited
	if n.cmd == nil {
		n.mu.Unlock()
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGCONT)
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	n.mu.Unlock()
	select {
	case <-exited:
	case <-time.After(stopGrace):
		n.mu.Lock()
		if n.cmd != nil {
			_ = n.cmd.Process.Kill()
		}
		n.mu.Unlock()
		<-exited
	}
}

// lastLines returns the end of the node's log.
func (n *node) lastLines(count int) string {
	b, err := os.ReadFile(n.logPath())
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	return strings.TrimSpace(string(bytes.Join(lines, []byte("\n"))))
}
