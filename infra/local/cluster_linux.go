package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atolldb/atoll/infra/image"
)

// How long the steps of a cluster's life may take on a slow, busy machine.
const (
	lockTimeout  = 10 * time.Second
	apiTimeout   = 4 * time.Minute
	nodesTimeout = 5 * time.Minute
	endTimeout   = time.Minute
	upDiskMiB    = 3 << 10 // free disk that a cluster takes: images, containers, logs, etcd
)

// Cluster is a local cluster in a folder of its own.
type Cluster struct {
	l   layout
	out io.Writer
}

// Open names a cluster by its folder, which need not be there yet. What its methods do is told on out.
func Open(dir string, out io.Writer) (*Cluster, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{l: layout{abs}, out: out}, nil
}

// Kubeconfig is the path of the file that clients on this machine use.
func (k *Cluster) Kubeconfig() string { return k.l.kubeconfig() }

// Config is what the cluster was made with.
func (k *Cluster) Config() (Config, error) {
	s, err := readState(k.l)
	if err != nil {
		return Config{}, err
	}
	return s.Config, nil
}

// Programs is the folder that holds kubectl among others.
func (k *Cluster) Programs() (string, error) {
	s, err := readState(k.l)
	if err != nil {
		return "", err
	}
	return s.Programs.Kubernetes, nil
}

// lock keeps every other command away from the cluster until unlock.
func (k *Cluster) lock(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout, fmt.Errorf("waited %v", lockTimeout))
	defer cancel()
	return lockFile(ctx, k.l.lock())
}

// Up brings the cluster up: it makes one where there is none, and starts what does not run of one
// that is there (its configuration must be the same). program is the localkube that machines run.
func (k *Cluster) Up(ctx context.Context, c Config, b *Builder, program string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := CheckHost(ctx); err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(k.out, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	if err := os.MkdirAll(k.l.dir, 0o700); err != nil {
		return err
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := k.prepare(ctx, c, b, program)
	if err != nil {
		return err
	}
	say("programs, certificates and disks are there")
	if err := k.startAll(ctx, s, say); err != nil {
		return fmt.Errorf("%w; logs are in %s; localkube down removes what is there", err, k.l.logs())
	}
	say("all nodes are ready; kubeconfig: %s", k.l.kubeconfig())
	return nil
}

// prepare makes everything that lies in the cluster's folder.
func (k *Cluster) prepare(ctx context.Context, c Config, b *Builder, program string) (*state, error) {
	s, err := readState(k.l)
	switch {
	case errors.Is(err, ErrNotUp):
		if err := needDisk(k.l.dir, upDiskMiB, "a local cluster", "free some, or give another folder by --state"); err != nil {
			return nil, err
		}
		s = &state{Version: stateVersion, Config: c, Created: time.Now().UTC(), Processes: map[string]process{}, Sysctls: map[string]sysctl{}}
	case err != nil:
		return nil, err
	case len(s.Cuts)+len(s.Paused)+len(s.Off) > 0:
		return nil, fmt.Errorf("%s: the cluster there has faults in force; localkube status shows them, localkube fault heal undoes them", k.l.dir)
	case string(asJSON(s.Config)) != string(asJSON(c)):
		return nil, fmt.Errorf("%s: the cluster there was made with another configuration; localkube down removes it, then localkube up makes the new one\nit has:  %s\nwanted: %s",
			k.l.dir, describeConfig(s.Config), describeConfig(c))
	}
	if s.Programs, err = buildAll(ctx, b); err != nil {
		return nil, err
	}
	s.CNI, _ = cniFolder() // CheckHost has seen it
	for _, d := range []string{k.l.logs(), k.l.images(), k.l.etcd()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.write(k.l); err != nil {
		return nil, err
	}
	if err := copyProgram(program, k.l.program()); err != nil {
		return nil, err
	}
	if err := c.credentials(k.l.creds(), time.Now()); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes() {
		if err := os.MkdirAll(k.l.nodeVar(n.Name), 0o755); err != nil {
			return nil, err
		}
		if err := k.l.makeDisk(ctx, n.Name, c.DiskMiB); err != nil {
			return nil, err
		}
	}
	return s, k.pauseImage(s)
}

func describeConfig(c Config) string {
	var zs []string
	for _, z := range c.Zones {
		zs = append(zs, fmt.Sprintf("%s/%s x%d", z.Region, z.Name, z.Nodes))
	}
	return fmt.Sprintf("name %s, zones %s, API port %d, %d forwards, disks of %d MiB, grace %v, eviction %v",
		c.Name, strings.Join(zs, " "), c.APIPort, len(c.Forwards), c.DiskMiB, c.NodeGrace, c.Eviction)
}

func buildAll(ctx context.Context, b *Builder) (p programs, err error) {
	for _, t := range []struct {
		name string
		dir  *string
	}{{"kubernetes", &p.Kubernetes}, {"coredns", &p.CoreDNS}, {"pause", &p.Pause}} {
		if *t.dir, err = b.Build(ctx, t.name); err != nil {
			return p, err
		}
	}
	return p, nil
}

// copyProgram keeps the program that machines run: the one that started them may be gone later, as
// one of go run is.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	part := to + ".part"
	out, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(part, to)
}

func (k *Cluster) pauseImage(s *state) error {
	path := filepath.Join(k.l.images(), "pause.tar")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return image.WriteFile(path, image.Options{
		Name:    pauseImage,
		Binary:  filepath.Join(s.Programs.Pause, "pause"),
		User:    "65535:65535",
		Created: time.Unix(0, 0).UTC(),
	})
}

// startAll starts whatever does not run, from the network up, and waits until all nodes are ready.
func (k *Cluster) startAll(ctx context.Context, s *state, say func(string, ...any)) error {
	c := s.Config
	if err := k.raiseSysctls(s); err != nil {
		return err
	}
	if err := c.raiseNetwork(ctx); err != nil {
		return err
	}
	if err := c.applyCuts(ctx, s.Cuts); err != nil {
		return err
	}
	for _, m := range c.machines() {
		if err := k.startMachine(ctx, s, m); err != nil {
			return err
		}
	}
	say("the control plane and %d nodes are started", len(c.Nodes()))
	api, err := newAPIClient(k.l.kubeconfig())
	if err != nil {
		return err
	}
	actx, cancel := context.WithTimeoutCause(ctx, apiTimeout, fmt.Errorf("waited %v", apiTimeout))
	defer cancel()
	err = waitFor(actx, 100*time.Millisecond, func() error {
		if err := k.machinesRun(s); err != nil {
			return err
		}
		return api.ready(actx)
	})
	if err != nil {
		return fmt.Errorf("the Kubernetes API is not ready: %w", err)
	}
	say("the Kubernetes API is ready")
	for _, o := range baseObjects() {
		err := waitFor(actx, 200*time.Millisecond, func() error { return api.applyObject(actx, o) })
		if err != nil {
			return err
		}
	}
	return k.waitNodes(ctx, api, s)
}

// machinesRun says which machine has ended by itself, if one has, and its last words: nothing starts
// it again.
func (k *Cluster) machinesRun(s *state) error {
	for _, m := range s.Config.machines() {
		if !s.Processes[m.name].alive() {
			log, _ := os.ReadFile(k.l.machineLog(m.name))
			return hopeless{fmt.Errorf("%s has ended: %s", m.name, tail(string(log), 600))}
		}
	}
	return nil
}

// ready asks the API server whether it is.
func (a *apiClient) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := a.send(ctx, "GET", "/readyz", "", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// waitNodes waits until Kubernetes calls all nodes ready.
func (k *Cluster) waitNodes(ctx context.Context, api *apiClient, s *state) error {
	ctx, cancel := context.WithTimeoutCause(ctx, nodesTimeout, fmt.Errorf("waited %v", nodesTimeout))
	defer cancel()
	return waitFor(ctx, 200*time.Millisecond, func() error {
		if err := k.machinesRun(s); err != nil {
			return err
		}
		ready, err := api.nodeReady(ctx)
		if err != nil {
			return err
		}
		for _, n := range s.Config.Nodes() {
			if !ready[n.Name] {
				return fmt.Errorf("node %s is not ready", n.Name)
			}
		}
		return nil
	})
}

// startMachine starts a machine that does not run and remembers its process.
func (k *Cluster) startMachine(ctx context.Context, s *state, m machine) error {
	if s.Processes[m.name].alive() {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("waited %v", endTimeout))
	defer cancel()
	if p, ok := s.Processes[m.name]; ok { // it ended by itself, perhaps not all of it
		if err := k.l.end(ctx, m, p); err != nil {
			return err
		}
	}
	var files []*os.File
	if m.role == roleRelay {
		var err error
		if files, err = s.Config.relayListen(); err != nil {
			return err
		}
		defer func() {
			for _, f := range files {
				f.Close()
			}
		}()
	}
	p, err := k.l.start(s.Config, m, files)
	if err != nil {
		return err
	}
	s.Processes[m.name] = p
	s.Off = slices.DeleteFunc(s.Off, func(z string) bool { return z == s.Config.placeOf(m) })
	return s.write(k.l)
}

// placeOf names the zone of a node's machine; the control plane is its own place.
func (c Config) placeOf(m machine) string {
	for _, n := range c.Nodes() {
		if c.nodeMachine(n) == m {
			return n.Zone
		}
	}
	return m.name
}

// raiseSysctls raises limits of the host that several kubelets exhaust. Down puts them back.
func (k *Cluster) raiseSysctls(s *state) error {
	const path, want = "/proc/sys/fs/inotify/max_user_instances", 8192
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var have int
	if _, err := fmt.Sscan(string(b), &have); err != nil {
		return fmt.Errorf("%s: %q: %w", path, b, err)
	}
	if have >= want {
		return nil
	}
	s.Sysctls[path] = sysctl{Old: fmt.Sprint(have), New: fmt.Sprint(want)}
	if err := s.write(k.l); err != nil {
		return err
	}
	fmt.Fprintf(k.out, "sysctl fs.inotify.max_user_instances: %d is raised to %d until localkube down\n", have, want)
	return os.WriteFile(path, []byte(fmt.Sprint(want)), 0o644)
}

// Down ends everything that Up started and removes the cluster's folder. Where there is no cluster
// it does nothing.
func (k *Cluster) Down(ctx context.Context) error {
	if _, err := os.Stat(k.l.dir); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(k.out, "no cluster in %s\n", k.l.dir)
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("user %d is not root: run it with sudo", os.Geteuid())
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readState(k.l)
	if errors.Is(err, ErrNotUp) {
		// Up failed before it wrote anything down. Only what it may have made is removed.
		return errors.Join(os.Remove(k.l.lock()), os.Remove(k.l.dir))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*endTimeout, fmt.Errorf("waited %v", 2*endTimeout))
	defer cancel()
	var errs []error
	for _, m := range slices.Backward(s.Config.machines()) {
		errs = append(errs, k.l.end(ctx, m, s.Processes[m.name]))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w; nothing more is removed, so that localkube down can be tried again", err)
	}
	if err := s.Config.dropNetwork(ctx); err != nil {
		return err
	}
	for path, v := range s.Sysctls {
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(b)) == v.New { // else somebody has set it since
			errs = append(errs, os.WriteFile(path, []byte(v.Old), 0o644))
		}
	}
	errs = append(errs, os.RemoveAll(k.l.dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(k.out, "cluster %q is gone, and %s with it\n", s.Config.Name, k.l.dir)
	return nil
}

// Load gives all nodes an image from an OCI archive, and keeps it for nodes that are off now.
func (k *Cluster) Load(ctx context.Context, path string) error {
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readState(k.l)
	if err != nil {
		return err
	}
	info, err := image.ReadFile(path)
	if err != nil {
		return err
	}
	// One file for each name: a node that starts loads them all, and must not end up with an older
	// image of the same name.
	name := fmt.Sprintf("image-%x.tar", sha256.Sum256([]byte(info.Name)))
	if err := copyProgram(path, filepath.Join(k.l.images(), name)); err != nil {
		return err
	}
	var errs []error
	for _, n := range s.Config.Nodes() {
		p := s.Processes[s.Config.nodeMachine(n).name]
		if !p.alive() {
			fmt.Fprintf(k.out, "node %s is off: it loads %s when it is powered on\n", n.Name, info.Name)
			continue
		}
		if slices.Contains(s.Paused, n.Zone) {
			errs = append(errs, fmt.Errorf("node %s is paused: localkube fault heal %s, then load again", n.Name, n.Zone))
			continue
		}
		if _, err := run(ctx, "", k.inside(p, "ctr", "-n", "k8s.io", "images", "import", nodeImages+"/"+name)...); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", n.Name, err))
			continue
		}
		fmt.Fprintf(k.out, "node %s has %s (%s)\n", n.Name, info.Name, info.Digest[:19])
	}
	return errors.Join(errs...)
}

// inside is the command line that runs a program inside a machine.
func (k *Cluster) inside(p process, args ...string) []string {
	return append([]string{"nsenter", "--target", fmt.Sprint(p.PID), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}, args...)
}

// Inside returns the command line that runs a program inside a node, for a look around.
func (k *Cluster) Inside(node string, args ...string) ([]string, error) {
	s, err := readState(k.l)
	if err != nil {
		return nil, err
	}
	for _, n := range s.Config.Nodes() {
		if n.Name == node {
			p := s.Processes[s.Config.nodeMachine(n).name]
			if !p.alive() {
				return nil, fmt.Errorf("node %s is off", node)
			}
			return k.inside(p, args...), nil
		}
	}
	return nil, fmt.Errorf("cluster %q has no node %q", s.Config.Name, node)
}
