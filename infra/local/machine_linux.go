package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// start begins a machine: it runs this program once more as `localkube machine ROLE NAME FOLDER`, in
// new namespaces, and returns when that process is there. files go to it as descriptors 3 and up.
func (l layout) start(c Config, m machine, files []*os.File) (process, error) {
	cg, err := hostControlGroups()
	if err != nil {
		return process{}, err
	}
	if err := cg.create(m.group); err != nil {
		return process{}, err
	}
	log, err := os.OpenFile(l.machineLog(m.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	cmd := exec.Command(l.program(), "machine", m.role, m.name, l.dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	switch m.role {
	case roleNode:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	case roleControl:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("%s: %w", m.name, err)
	}
	go cmd.Wait() // should we outlive it, it must not stay as a zombie
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		return process{}, fmt.Errorf("%s ended at once: %w; see %s", m.name, err, l.machineLog(m.name))
	}
	return p, nil
}

// end kills a machine and everything in it, frozen or not, and waits until its disk is let go and its
// control group removed: a group of version 2 that has given controllers to groups below it takes
// no process again.
func (l layout) end(ctx context.Context, m machine, p process) error {
	cg, err := hostControlGroups()
	if err != nil {
		return err
	}
	// A frozen process of version 1 takes no signal until it is thawed, and must do nothing else
	// then: the signal is sent first.
	killed := make(chan error, 1)
	go func() { killed <- p.kill(ctx) }()
	select {
	case err := <-killed:
		killed <- err
	case <-time.After(100 * time.Millisecond):
	}
	if err := cg.freeze(ctx, m.group, false); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if err := <-killed; err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	// PID 1 took its whole namespace along; what is left of the group (the relay has no namespace,
	// and somebody may have entered a node) descends from us all the same.
	err = waitFor(ctx, 50*time.Millisecond, func() error {
		left := cg.members(m.group)
		for _, pid := range left {
			if q, err := identify(pid); err == nil && q.alive() {
				_ = q.kill(ctx)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%s: processes %v have not ended", m.name, left)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return waitFor(ctx, 50*time.Millisecond, func() error {
		if name, ok := strings.CutPrefix(m.name, "node-"); ok {
			if err := diskReleased(l.disk(name)); err != nil {
				return err
			}
		}
		return cg.remove(m.group)
	})
}

// diskReleased says whether no loop device holds this file any more. Mounting it a second time while
// the first mount still writes would destroy it. Devices name their file as its opener saw it, so
// files are told apart by device and inode.
func diskReleased(path string) error {
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("disk %s: %w", path, err)
	}
	held, err := filepath.Glob("/sys/block/loop*/loop") // only devices that have a file
	if err != nil {
		return err
	}
	for _, h := range held {
		dev := "/dev/" + strings.Split(h, "/")[3]
		f, err := os.Open(dev)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
			continue // released while we looked
		}
		if err != nil {
			return err
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		if errors.Is(err, unix.ENXIO) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", dev, err)
		}
		if info.Inode == want.Ino && info.Device == want.Dev {
			return fmt.Errorf("disk %s is still held by %s", path, dev)
		}
	}
	return nil
}

// makeDisk makes a node's disk, a sparse file with ext4 on it, unless it is there.
func (l layout) makeDisk(ctx context.Context, name string, mib int) error {
	path := l.disk(name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(mib) << 20)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("disk of %s: %w", name, err)
	}
	mkfs, _ := findTool("mkfs.ext4")
	// No blocks reserved for root: a full disk is full for everybody. Few inodes and no eager
	// initialisation keep the file small.
	if _, err := run(ctx, "", mkfs, "-q", "-F", "-m", "0", "-i", "65536", "-E", "lazy_itable_init=1,nodiscard", part); err != nil {
		return fmt.Errorf("disk of %s: %w", name, err)
	}
	return os.Rename(part, path)
}
