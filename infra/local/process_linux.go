package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// identify reads which process has this number now.
func identify(pid int) (process, error) {
	fields, err := statFields(pid)
	if err != nil {
		return process{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: start time %q: %w", pid, fields[19], err)
	}
	boot, err := bootID()
	return process{PID: pid, Start: start, Boot: boot}, err
}

// bootID names this run of the machine: process numbers and start times begin anew with the next.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// statFields returns the fields of /proc/PID/stat from the third, the process's state, on. The
// second, its name, may hold blanks and brackets.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if i < 0 || len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat: %q: too few fields", pid, b)
	}
	return fields, nil
}

// alive says whether the process that we started still runs. One that has ended and waits for its
// parent to notice does not.
func (p process) alive() bool {
	if p.PID <= 1 {
		return false
	}
	if boot, err := bootID(); err != nil || boot != p.Boot {
		return false
	}
	fields, err := statFields(p.PID)
	return err == nil && fields[0] != "Z" && fields[0] != "X" && fields[19] == strconv.FormatUint(p.Start, 10)
}

// kill ends the process, if it is still ours, and waits until it is gone. Its number cannot be
// taken between the check and the signal: the signal goes through a handle on the process.
func (p process) kill(ctx context.Context) error {
	if p.PID <= 1 {
		return nil // never started
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: SIGKILL: %w", p.PID, err)
	}
	return waitFor(ctx, 50*time.Millisecond, func() error {
		if p.alive() {
			return fmt.Errorf("process %d has not ended after SIGKILL", p.PID)
		}
		return nil
	})
}

// hopeless marks an error that waiting does not mend.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// waitFor repeats check until it returns nil, or a hopeless error, or ctx ends; then it returns
// check's last error.
func waitFor(ctx context.Context, every time.Duration, check func() error) error {
	for {
		err := check()
		var h hopeless
		if err == nil || errors.As(err, &h) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(every):
		}
	}
}

// run runs a program to its end; its output is part of the error.
func run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, tail(string(out), 800))
	}
	return string(out), nil
}

// tail returns the last n bytes of s, from the start of a line if it can.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if i := strings.IndexByte(s, '\n'); i >= 0 && i < n/2 {
		s = s[i+1:]
	}
	return "… " + s
}

// lockFile takes an exclusive lock, waiting until ctx ends. The lock goes with the process.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = waitFor(ctx, 200*time.Millisecond, func() error {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("%s: another localkube holds the lock: %w", path, err)
		}
		return nil
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
