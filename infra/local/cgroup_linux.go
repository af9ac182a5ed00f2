package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is one mounted tree of control groups of version 1.
type hierarchy struct {
	path    string
	options []string // what mounting it again takes: controllers, or a name
}

// controlGroups is how this host groups processes: one tree (version 2), or one tree for each
// controller (version 1).
type controlGroups struct {
	unified bool
	trees   []hierarchy // version 1 only
}

// hostControlGroups reads which version the host has mounted, from /proc/mounts.
func hostControlGroups() (controlGroups, error) {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return controlGroups{}, err
	}
	return parseControlGroups(string(b))
}

func parseControlGroups(mounts string) (controlGroups, error) {
	var cg controlGroups
	sc := bufio.NewScanner(strings.NewReader(mounts))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 4 {
			continue
		}
		switch {
		case f[2] == "cgroup2" && f[1] == cgroupRoot:
			return controlGroups{unified: true}, nil
		case f[2] == "cgroup" && filepath.Dir(f[1]) == cgroupRoot:
			if !slices.ContainsFunc(cg.trees, func(h hierarchy) bool { return h.path == f[1] }) {
				cg.trees = append(cg.trees, hierarchy{path: f[1], options: mountOptions(f[3])})
			}
		}
	}
	for _, need := range []string{"cpu", "memory", "pids", "devices", "freezer"} {
		if !cg.has(need) {
			return cg, fmt.Errorf("%s: no control group tree %q is mounted there; mount version 2 (mount -t cgroup2 none %s) or the tree of this controller", cgroupRoot, need, cgroupRoot)
		}
	}
	return cg, nil
}

// mountOptions keeps of a version 1 tree's options those that select it.
func mountOptions(s string) []string {
	var out []string
	for _, o := range strings.Split(s, ",") {
		key, _, _ := strings.Cut(o, "=")
		switch key {
		case "rw", "ro", "relatime", "nosuid", "nodev", "noexec", "clone_children", "xattr", "release_agent", "seclabel", "none":
			continue
		case "name":
			out = append(out, "none")
		}
		out = append(out, o)
	}
	return out
}

func (cg controlGroups) has(controller string) bool {
	return slices.ContainsFunc(cg.trees, func(h hierarchy) bool { return slices.Contains(h.options, controller) })
}

// dirs lists where a group of this name lies.
func (cg controlGroups) dirs(group string) []string {
	if cg.unified {
		return []string{filepath.Join(cgroupRoot, group)}
	}
	var ds []string
	for _, t := range cg.trees {
		ds = append(ds, filepath.Join(t.path, group))
	}
	return ds
}

// v2Controllers are those that a node needs (the first three) or makes use of.
var v2Controllers = []string{"cpu", "memory", "pids", "cpuset", "io"}

// create makes an empty group; one that is there stays.
func (cg controlGroups) create(group string) error {
	if cg.unified {
		if err := delegate(cgroupRoot); err != nil {
			return err
		}
	}
	for _, d := range cg.dirs(group) {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("control group: %w", err)
		}
		if err := inheritCPUs(d); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// delegate gives the groups below dir (version 2) the controllers that a node needs.
func delegate(dir string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	for i, c := range v2Controllers {
		err := os.WriteFile(control, []byte("+"+c), 0o644)
		if err != nil && i < 3 {
			return fmt.Errorf("control groups: controller %s cannot be given to groups below %s: %w; the kernel needs it, and %s must hold no process of its own", c, dir, err, dir)
		}
	}
	return nil
}

// inheritCPUs fills what a version 1 cpuset needs before it can hold a process.
func inheritCPUs(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(filepath.Join(parent, "cgroup.clone_children")); err != nil {
		return nil // version 2
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the tree of another controller
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0o644)
}

// join moves the calling process to a group.
func (cg controlGroups) join(group string) error {
	for _, d := range cg.dirs(group) {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// freeze stops every process of the group, or lets all go on, and waits until it is so.
func (cg controlGroups) freeze(ctx context.Context, group string, frozen bool) error {
	file, value, stateFile, want := cg.freezerFiles(group, frozen)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !frozen {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("freezer: %w", err)
	}
	return waitFor(ctx, 20*time.Millisecond, func() error {
		b, err := os.ReadFile(stateFile)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), want) {
			return fmt.Errorf("freezer: %s: still %q, want %q", stateFile, strings.TrimSpace(string(b)), want)
		}
		return nil
	})
}

func (cg controlGroups) freezerFiles(group string, frozen bool) (file, value, stateFile, want string) {
	if cg.unified {
		d := filepath.Join(cgroupRoot, group)
		if frozen {
			return d + "/cgroup.freeze", "1", d + "/cgroup.events", "frozen 1"
		}
		return d + "/cgroup.freeze", "0", d + "/cgroup.events", "frozen 0"
	}
	for _, t := range cg.trees {
		if slices.Contains(t.options, "freezer") {
			f := filepath.Join(t.path, group, "freezer.state")
			if frozen {
				return f, "FROZEN", f, "FROZEN"
			}
			return f, "THAWED", f, "THAWED"
		}
	}
	return "", "", "", "" // parseControlGroups has refused such a host
}

// members lists the processes of a group and of all groups below it: everything in it descends from
// a process that we put there.
func (cg controlGroups) members(group string) []int {
	seen := map[int]bool{}
	for _, d := range cg.dirs(group) {
		_ = filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // groups vanish while we look
			}
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				var pid int
				if _, err := fmt.Sscan(f, &pid); err == nil && pid > 1 {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	var pids []int
	for p := range seen {
		pids = append(pids, p)
	}
	slices.Sort(pids)
	return pids
}

// remove deletes an empty group and all groups below it.
func (cg controlGroups) remove(group string) error {
	var errs []error
	for _, d := range cg.dirs(group) {
		var all []string
		_ = filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, p := range slices.Backward(all) {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// mountInside shows a node its own group as the root of each tree, below root. It runs in the node's
// mount and control group namespaces.
func (cg controlGroups) mountInside(root string) error {
	at := root + cgroupRoot
	if cg.unified {
		if err := unix.Mount("cgroup2", at, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
		// A group with processes cannot give controllers to groups below it, so ours move down.
		if err := os.Mkdir(at+"/init", 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.WriteFile(at+"/init/cgroup.procs", []byte("0"), 0o644); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
		return delegate(at)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	for _, t := range cg.trees {
		dir := root + t.path
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", dir, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, strings.Join(t.options, ",")); err != nil {
			return fmt.Errorf("mount control group %s: %w", strings.Join(t.options, ","), err)
		}
		if len(t.options) > 1 && t.options[0] != "none" { // cpu,cpuacct: each by its own name too
			for _, o := range t.options {
				if err := os.Symlink(filepath.Base(t.path), filepath.Join(at, o)); err != nil && !errors.Is(err, fs.ErrExist) {
					return err
				}
			}
		}
	}
	return nil
}
