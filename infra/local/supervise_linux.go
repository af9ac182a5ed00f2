package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a machine's logs, and of how fast a program that ends is started again.
const (
	maxLogBytes  = 16 << 20 // one older file of this size is kept beside it
	minRestart   = 500 * time.Millisecond
	maxRestart   = 10 * time.Second
	longRun      = 30 * time.Second // after a run this long, waiting starts over at minRestart
	readyTimeout = 3 * time.Minute  // a cold page cache on a busy machine is slow
	onceTimeout  = 5 * time.Minute
)

// supervisor is what PID 1 does: it keeps programs running and collects every process that ends,
// its own and those whose parents have gone.
type supervisor struct {
	log    *slog.Logger
	logDir string

	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
}

func newSupervisor(log *slog.Logger, logDir string) *supervisor {
	v := &supervisor{log: log, logDir: logDir, waiting: map[int]chan unix.WaitStatus{}}
	go v.reap()
	return v
}

// reap waits for any child at all. Nothing else in the process may wait for a child (os/exec would),
// since only one of them would be told.
func (v *supervisor) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // no child at all
			time.Sleep(100 * time.Millisecond)
			continue
		}
		v.mu.Lock()
		done, ok := v.waiting[pid]
		delete(v.waiting, pid)
		v.mu.Unlock()
		if ok {
			done <- ws
		}
	}
}

// launch starts a program whose output goes to out. The lock covers start and registration, so that
// reap cannot miss a program that ends at once.
func (v *supervisor) launch(args []string, out *os.File) (<-chan unix.WaitStatus, error) {
	path, ok := findTool(args[0])
	if !ok {
		return nil, fmt.Errorf("no program %s", args[0])
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	p, err := os.StartProcess(path, args, &os.ProcAttr{Dir: "/", Env: machineEnv(), Files: []*os.File{null, out, out}})
	if err != nil {
		return nil, err
	}
	done := make(chan unix.WaitStatus, 1)
	v.waiting[p.Pid] = done
	return done, p.Release()
}

func machineEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, enteredEnv+"=") {
			env = append(env, e)
		}
	}
	return env
}

// once runs a program to its end.
func (v *supervisor) once(ctx context.Context, name string, args ...string) error {
	out, err := v.output(name)
	if err != nil {
		return err
	}
	defer out.Close()
	done, err := v.launch(args, out)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case ws := <-done:
		if ws.ExitStatus() != 0 {
			return fmt.Errorf("%s: %s: %s; see %s.log", name, strings.Join(args, " "), describe(ws), filepath.Join(v.logDir, name))
		}
		return nil
	case <-time.After(onceTimeout):
		return fmt.Errorf("%s: %s: not done after %v", name, strings.Join(args, " "), onceTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "ended by signal " + ws.Signal().String()
	}
	return fmt.Sprintf("ended with status %d", ws.ExitStatus())
}

// keep starts a service, starts it again whenever it ends, and returns when it is ready.
func (v *supervisor) keep(ctx context.Context, svc service) error {
	out, err := v.output(svc.name)
	if err != nil {
		return err
	}
	go func() {
		defer out.Close()
		pause := minRestart
		for ctx.Err() == nil {
			began := time.Now()
			done, err := v.launch(svc.args, out)
			if err != nil {
				v.log.Error("a service does not start", "service", svc.name, "err", err)
			} else {
				v.log.Warn("a service has ended and is started again", "service", svc.name, "end", describe(<-done))
			}
			if time.Since(began) > longRun {
				pause = minRestart
			}
			time.Sleep(pause)
			pause = min(2*pause, maxRestart)
		}
	}()
	if svc.ready == "" {
		return nil
	}
	network, address, _ := strings.Cut(svc.ready, ":")
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
	defer cancel()
	return waitFor(ctx, 50*time.Millisecond, func() error {
		conn, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return fmt.Errorf("%s is not ready: %w", svc.name, err)
		}
		return conn.Close()
	})
}

// wait holds PID 1 until the end of the machine, which is a SIGKILL.
func (v *supervisor) wait(ctx context.Context) error {
	v.log.Info("the machine is up")
	<-ctx.Done()
	return context.Cause(ctx)
}

// output opens a service's log, bounded in size, and returns what programs write to.
func (v *supervisor) output(name string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	log := &rotatingLog{path: filepath.Join(v.logDir, name+".log"), max: maxLogBytes}
	go func() {
		defer r.Close()
		if _, err := io.Copy(log, r); err != nil {
			v.log.Error("a log is lost", "service", name, "err", err)
			_, _ = io.Copy(io.Discard, r) // the program must not block on its log
		}
	}()
	return w, nil
}

// rotatingLog is a file that moves to path.old when it has grown to max bytes.
type rotatingLog struct {
	path string
	max  int64
	f    *os.File
	size int64
}

func (l *rotatingLog) Write(p []byte) (int, error) {
	if l.f != nil && l.size+int64(len(p)) > l.max {
		if err := l.f.Close(); err != nil {
			return 0, err
		}
		l.f = nil
		if err := os.Rename(l.path, l.path+".old"); err != nil {
			return 0, err
		}
	}
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		st, err := f.Stat()
		if err != nil {
			f.Close()
			return 0, err
		}
		l.f, l.size = f, st.Size()
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}
