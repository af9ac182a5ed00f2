package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cniFolders are where distributions put the plugins.
var cniFolders = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// tools are the programs of the host that a cluster needs, with Debian's packages.
var tools = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"mkfs.ext4", "e2fsprogs"},
	{"mount", "mount"},
	{"umount", "mount"},
	{"nsenter", "util-linux"},
}

// findTool looks on PATH, and where Debian puts programs for root.
func findTool(name string) (string, bool) {
	if p, err := exec.LookPath(name); err == nil {
		return p, true
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, true
		}
	}
	return "", false
}

// cniFolder finds the plugins that pods' networks take.
func cniFolder() (string, bool) {
	for _, d := range cniFolders {
		ok := true
		for _, p := range []string{"bridge", "host-local", "loopback"} {
			if _, err := os.Stat(filepath.Join(d, p)); err != nil {
				ok = false
			}
		}
		if ok {
			return d, true
		}
	}
	return "", false
}

// CheckHost lists everything that this machine lacks for a local cluster, each with what to do.
func CheckHost(ctx context.Context) error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, fmt.Errorf("user %d is not root: namespaces, control groups and mounts need root; run it with sudo", os.Geteuid()))
	}
	errs = append(errs, checkPackages())
	if _, err := hostControlGroups(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 && errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	return checkKernel(ctx)
}

func checkPackages() error {
	var missing, programs []string
	for _, t := range tools {
		if _, ok := findTool(t.program); !ok {
			missing = append(missing, t.pkg)
			programs = append(programs, t.program)
		}
	}
	if _, ok := cniFolder(); !ok {
		missing = append(missing, "containernetworking-plugins")
		programs = append(programs, "the CNI plugins in "+strings.Join(cniFolders, " or "))
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("missing: %s; on Debian: apt-get install -y --no-install-recommends %s",
		strings.Join(programs, ", "), strings.Join(slices.Compact(missing), " "))
}

// checkKernel tries each feature of the kernel that a cluster needs, in a network namespace that it
// removes again.
func checkKernel(ctx context.Context) error {
	var errs []error
	if b, err := os.ReadFile("/proc/filesystems"); err == nil {
		for _, fsys := range []string{"overlay", "ext4"} {
			if !strings.Contains(string(b), "\t"+fsys+"\n") && !modprobe(ctx, fsys) {
				errs = append(errs, fmt.Errorf("kernel: no file system %q; load its module or take a kernel that has it", fsys))
			}
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil && !modprobe(ctx, "loop") {
		errs = append(errs, errors.New("kernel: no loop devices (CONFIG_BLK_DEV_LOOP); a node's disk needs one"))
	}
	modprobe(ctx, "br_netfilter") // built in or a module; its absence shows below
	ns := fmt.Sprintf("atoll-probe-%d", os.Getpid())
	if _, err := run(ctx, "", "ip", "netns", "add", ns); err != nil {
		return errors.Join(append(errs, fmt.Errorf("kernel: network namespaces (CONFIG_NET_NS): %w", err))...)
	}
	defer run(context.WithoutCancel(ctx), "", "ip", "netns", "del", ns)
	for _, p := range []struct{ what, stdin string }{
		{"bridges (CONFIG_BRIDGE)", "link add br0 type bridge\n"},
		{"veth pairs (CONFIG_VETH)", "link add v0 type veth peer name v1\n"},
	} {
		if _, err := run(ctx, p.stdin, "ip", "-n", ns, "-batch", "-"); err != nil {
			errs = append(errs, fmt.Errorf("kernel: %s: %w", p.what, err))
		}
	}
	for _, p := range []struct{ what, rules string }{
		{"nftables on bridges (CONFIG_NF_TABLES_BRIDGE)", "table bridge p { chain c { type filter hook forward priority 0; iifname \"a\" counter drop; }; }\n"},
		{"nftables with address translation (CONFIG_NFT_NAT, CONFIG_NFT_MASQ)", "table ip p { chain c { type nat hook postrouting priority 0; masquerade; }; }\n"},
		{"nftables with connection tracking and fib (CONFIG_NFT_CT, CONFIG_NFT_FIB_IPV4)", "table ip q { chain c { type filter hook input priority 0; ct state new fib daddr type local accept; }; }\n"},
	} {
		if _, err := run(ctx, p.rules, "nsenter", "--net=/run/netns/"+ns, "nft", "-f", "-"); err != nil {
			errs = append(errs, fmt.Errorf("kernel: %s: %w", p.what, err))
		}
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		errs = append(errs, errors.New("kernel: no packet filter on bridges (CONFIG_BRIDGE_NETFILTER; module br_netfilter)"))
	}
	return errors.Join(errs...)
}

func modprobe(ctx context.Context, module string) bool {
	_, err := run(ctx, "", "modprobe", module)
	return err == nil
}

// needDisk refuses a disk with less than need MiB free for unprivileged use.
func needDisk(dir string, needMiB uint64, what, remedy string) error {
	at := dir
	var st unix.Statfs_t
	for {
		err := unix.Statfs(at, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) || at == filepath.Dir(at) {
			return fmt.Errorf("%s: %w", dir, err)
		}
		at = filepath.Dir(at)
	}
	free := st.Bavail * uint64(st.Bsize) >> 20
	if free < needMiB {
		return fmt.Errorf("%s: %d MiB free, %s needs %d MiB; %s", dir, free, what, needMiB, remedy)
	}
	return nil
}

// snapshotterFor picks how containers' file systems are stacked: overlays cannot lie on overlays.
func snapshotterFor(dir string) string {
	const overlayMagic = 0x794c7630
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == overlayMagic {
		return "native"
	}
	return "overlayfs"
}
