package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// enteredEnv marks the second half of a machine's start.
const enteredEnv = "LOCALKUBE_ENTERED"

// Machine is the root process of a machine: `localkube machine ROLE NAME FOLDER`, started by start.
// It does not return unless it fails. The caller must have locked the main goroutine to its thread
// before any other goroutine ran (runtime.LockOSThread in an init function), since namespaces belong
// to threads.
func Machine(ctx context.Context, role, name, dir string) error {
	l := layout{dir}
	s, err := readState(l)
	if err != nil {
		return err
	}
	i := -1
	ms := s.Config.machines()
	for k, m := range ms {
		if m.name == name && m.role == role {
			i = k
		}
	}
	if i < 0 {
		return fmt.Errorf("cluster %q has no machine %q of role %q", s.Config.Name, name, role)
	}
	if os.Getenv(enteredEnv) == "" {
		return enter(ms[i])
	}
	runtime.UnlockOSThread()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("machine", name)
	switch role {
	case roleRelay:
		return runRelay(ctx, log, s.Config)
	case roleControl:
		return runControl(ctx, log, l, s)
	default:
		return runNode(ctx, log, l, s, strings.TrimPrefix(name, "node-"))
	}
}

// enter joins the machine's control group and network namespace, makes the group the root of what
// it sees, and executes the program again, so that all its threads are in there.
func enter(m machine) error {
	cg, err := hostControlGroups()
	if err != nil {
		return err
	}
	if err := cg.join(m.group); err != nil {
		return err
	}
	if m.role == roleNode {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("control group namespace: %w", err)
		}
	}
	fd, err := unix.Open("/run/netns/"+m.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", m.netns, err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespace %s: %w", m.netns, err)
	}
	err = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), enteredEnv+"=1"))
	return fmt.Errorf("executing itself: %w", err)
}

// runControl is PID 1 of the control plane.
func runControl(ctx context.Context, log *slog.Logger, l layout, s *state) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	v := newSupervisor(log, l.logs())
	for _, svc := range s.Config.controlServices(s.Programs.Kubernetes, l.creds()+"/cp", l.etcd()) {
		if err := v.keep(ctx, svc); err != nil {
			return err
		}
	}
	return v.wait(ctx)
}

// runNode is PID 1 of a node.
func runNode(ctx context.Context, log *slog.Logger, l layout, s *state, name string) error {
	var node Node
	for _, n := range s.Config.Nodes() {
		if n.Name == name {
			node = n
		}
	}
	if node.Name == "" {
		return fmt.Errorf("cluster %q has no node %q", s.Config.Name, name)
	}
	if err := unix.Sethostname([]byte(node.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := buildRoot(ctx, l, s, node); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := setNodeSysctls(); err != nil {
		return err
	}
	v := newSupervisor(log, "/var/log")
	if err := v.keep(ctx, node.containerdService()); err != nil {
		return err
	}
	if err := importImages(ctx, v); err != nil {
		return err
	}
	for _, svc := range node.services() {
		if err := v.keep(ctx, svc); err != nil {
			return err
		}
	}
	go runVolumes(ctx, log.With("service", "volumes"), node, int64(s.Config.DiskMiB)<<20)
	return v.wait(ctx)
}

// importImages gives containerd the images that were loaded into the cluster so far.
func importImages(ctx context.Context, v *supervisor) error {
	tars, err := filepath.Glob(nodeImages + "/*.tar")
	if err != nil {
		return err
	}
	for _, t := range tars {
		if err := v.once(ctx, "import", "ctr", "-n", "k8s.io", "images", "import", t); err != nil {
			return fmt.Errorf("image %s: %w", t, err)
		}
	}
	return nil
}

// setNodeSysctls sets what belongs to the node's own network namespace.
func setNodeSysctls() error {
	for _, k := range []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/"+k, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
	}
	return nil
}

// shownSysctls are settings of the whole machine that a kubelet would change. Inside a node they are
// files that hold the wanted values, so that the host's stay as they are.
var shownSysctls = map[string]string{
	"vm/overcommit_memory": "1",
	"vm/panic_on_oom":      "0",
	"kernel/panic":         "10",
	"kernel/panic_on_oops": "1",
}

// buildRoot assembles the node's root file system and moves into it: the host's programs and
// libraries, read-only; the node's own /etc and /var; fresh /proc, /sys, /run and /tmp.
func buildRoot(ctx context.Context, l layout, s *state, node Node) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	b := &rootBuilder{root: filepath.Join(l.node(node.Name), "root")}
	b.mkdir("")
	b.mount("tmpfs", "", "tmpfs", 0, "mode=755")
	b.bindReadOnly("/usr", "/usr")
	for _, d := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		b.sameAsHost(d)
	}
	for _, d := range []string{"/tmp", "/run", "/root", "/etc", "/opt/atoll", "/var"} {
		b.mkdir(d)
	}
	b.bind("/dev", "/dev", unix.MS_REC)
	b.mountNew("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mountNew("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if b.err == nil {
		var cg controlGroups
		if cg, b.err = hostControlGroups(); b.err == nil {
			b.err = cg.mountInside(b.root)
		}
	}
	b.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	b.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	b.bind(l.nodeVar(node.Name), "/var", 0)
	for _, d := range []string{"/var/log", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/tmp",
		nodeVolumes, "/run/netns", "/run/lock", "/run/containerd"} {
		b.mkdir(d)
	}
	for path, data := range node.nodeFiles(snapshotterFor(l.dir), s.CNI) {
		b.write(path, data)
	}
	b.copyDir(filepath.Join(l.creds(), "node", node.Name), nodeCreds)
	b.bindReadOnly(s.Programs.Kubernetes, nodePrograms)
	b.bindReadOnly(s.Programs.CoreDNS, nodeDNS)
	b.bindReadOnly(l.images(), nodeImages)
	if !strings.HasPrefix(s.CNI, "/usr/") {
		b.bindReadOnly(s.CNI, s.CNI)
	}
	b.mountDisk(ctx, l.disk(node.Name), nodeVolumes)
	for key, value := range shownSysctls {
		file := "/opt/atoll/sysctl/" + strings.ReplaceAll(key, "/", ".")
		b.write(file, []byte(value+"\n"))
		b.bind(b.root+file, "/proc/sys/"+key, 0)
	}
	b.pivot()
	return b.err
}

// rootBuilder prepares a file tree below root until the first failure. Paths are those that the
// node will see.
type rootBuilder struct {
	root string
	err  error
}

func (b *rootBuilder) mkdir(path string) {
	if b.err == nil {
		b.err = os.MkdirAll(b.root+path, 0o755)
	}
}

func (b *rootBuilder) write(path string, data []byte) {
	b.mkdir(filepath.Dir(path))
	if b.err == nil {
		b.err = os.WriteFile(b.root+path, data, 0o644)
	}
}

func (b *rootBuilder) mount(source, path, fstype string, flags uintptr, data string) {
	if b.err != nil {
		return
	}
	if err := unix.Mount(source, b.root+path, fstype, flags, data); err != nil {
		b.err = fmt.Errorf("mount %s at %s: %w", source, b.root+path, err)
	}
}

func (b *rootBuilder) mountNew(source, path, fstype string, flags uintptr, data string) {
	b.mkdir(path)
	b.mount(source, path, fstype, flags, data)
}

// bind shows a file or folder of the host at path.
func (b *rootBuilder) bind(host, path string, flags uintptr) {
	if b.err != nil {
		return
	}
	st, err := os.Stat(host)
	if err != nil {
		b.err = err
		return
	}
	if st.IsDir() {
		b.mkdir(path)
	}
	b.mount(host, path, "", unix.MS_BIND|flags, "")
}

func (b *rootBuilder) bindReadOnly(host, path string) {
	b.bind(host, path, 0)
	b.mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountDisk mounts a file system that lies in a file. The loop device goes when the last mount does,
// which is when the node's last process has ended.
func (b *rootBuilder) mountDisk(ctx context.Context, file, path string) {
	if b.err == nil {
		_, b.err = run(ctx, "", "mount", "-o", "loop,noatime,noinit_itable", file, b.root+path)
	}
}

// sameAsHost repeats a symbolic link of the host's root, or shows the folder that is there instead.
func (b *rootBuilder) sameAsHost(path string) {
	if b.err != nil {
		return
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		b.err = err
	case st.Mode()&fs.ModeSymlink != 0:
		var to string
		if to, b.err = os.Readlink(path); b.err == nil {
			b.err = os.Symlink(to, b.root+path)
		}
	default:
		b.bindReadOnly(path, path)
	}
}

// copyDir copies the files of a folder of the host.
func (b *rootBuilder) copyDir(host, path string) {
	if b.err != nil {
		return
	}
	entries, err := os.ReadDir(host)
	if err != nil {
		b.err = err
		return
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(host, e.Name()))
		if err != nil {
			b.err = err
			return
		}
		b.write(filepath.Join(path, e.Name()), data)
	}
}

// pivot makes the tree the root and lets go of the host's. Mounts are shared below it, as kubelet
// and containerd expect.
func (b *rootBuilder) pivot() {
	if b.err != nil {
		return
	}
	if b.err = os.Chdir(b.root); b.err != nil {
		return
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		b.err = fmt.Errorf("pivot_root: %w", err)
		return
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		b.err = fmt.Errorf("unmount the host's root: %w", err)
		return
	}
	if b.err = os.Chdir("/"); b.err == nil {
		b.err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	}
}
