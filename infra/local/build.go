package local

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A toolset is one of the Go modules below modules/, each with the versions of what it builds, and
// the programs that are built from it.
type toolset struct {
	name     string
	tags     string
	programs []toolProgram
	// versionVars are linker variables; %s is the version of the module versionOf, from go.mod.
	versionOf   string
	versionVars []string
	needMiB     uint64 // free disk that a cold build takes, module cache and build cache included
	note        string // what to expect of a cold build
}

type toolProgram struct{ name, pkg string }

// gitVersion is what Kubernetes' programs report, by two packages.
func gitVersionVars() []string {
	var vs []string
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		vs = append(vs, p+".gitVersion=%s", p+".gitMajor=1", p+".gitTreeState=clean")
	}
	return vs
}

var toolsets = []toolset{
	{
		name: "kubernetes", tags: "providerless,notest,grpcnotrace", versionOf: "k8s.io/kubernetes",
		versionVars: gitVersionVars(), needMiB: 6 << 10,
		note: "the first time this takes about 22 minutes of CPU time",
		programs: []toolProgram{
			{"etcd", "go.etcd.io/etcd/server/v3"},
			{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
			{"kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"},
			{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"},
			{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
			{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
			{"kubelet", "k8s.io/kubernetes/cmd/kubelet"},
		},
	},
	{
		name: "coredns", tags: "providerless,notest,grpcnotrace", needMiB: 1 << 10,
		programs: []toolProgram{{"coredns", "."}},
	},
	{name: "pause", needMiB: 64, programs: []toolProgram{{"pause", "."}}},
	{
		name: "pulumi", versionOf: "github.com/pulumi/pulumi/pkg/v3",
		versionVars: []string{"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=%s"}, needMiB: 4 << 10,
		note:     "the first time this takes about 5 minutes of CPU time",
		programs: []toolProgram{{"pulumi", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"}},
	},
	{
		name: "pulumi-language-go", versionOf: "github.com/pulumi/pulumi/sdk/v3",
		versionVars: []string{"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=%s"}, needMiB: 1 << 10,
		programs: []toolProgram{{"pulumi-language-go", "github.com/pulumi/pulumi/sdk/v3/go/pulumi-language-go"}},
	},
}

// Toolsets lists the names that Builder.Build takes.
func Toolsets() []string {
	var ns []string
	for _, t := range toolsets {
		ns = append(ns, t.name)
	}
	return ns
}

// Builder builds pinned programs from Go modules into a cache. Programs lie in
// CacheDir/NAME-HASH/, where HASH covers the module's files, the flags, and the Go toolchain.
type Builder struct {
	ModulesDir string // infra/local/modules of the source tree
	CacheDir   string
	Progress   io.Writer
}

// Build makes sure that the programs of a toolset are there and returns their folder. Two builds of
// one toolset at a time wait for each other.
func (b *Builder) Build(ctx context.Context, name string) (string, error) {
	i := slices.IndexFunc(toolsets, func(t toolset) bool { return t.name == name })
	if i < 0 {
		return "", fmt.Errorf("no toolset %q; there are %s", name, strings.Join(Toolsets(), ", "))
	}
	t := toolsets[i]
	dir, err := b.folder(ctx, t)
	if err != nil {
		return "", err
	}
	if missing := t.missing(dir); len(missing) == 0 {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	missing := t.missing(dir)
	if len(missing) == 0 {
		return dir, nil
	}
	if err := b.checkDisk(ctx, t); err != nil {
		return "", err
	}
	if t.note != "" {
		fmt.Fprintf(b.Progress, "building %s into %s: %s\n", t.name, dir, t.note)
	}
	for _, p := range missing {
		if err := b.compile(ctx, t, p, dir); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Cached returns a toolset's folder if all of its programs are built, and an error that names what
// is missing if not. It builds nothing.
func (b *Builder) Cached(ctx context.Context, name string) (string, error) {
	i := slices.IndexFunc(toolsets, func(t toolset) bool { return t.name == name })
	if i < 0 {
		return "", fmt.Errorf("no toolset %q; there are %s", name, strings.Join(Toolsets(), ", "))
	}
	dir, err := b.folder(ctx, toolsets[i])
	if err != nil {
		return "", err
	}
	if m := toolsets[i].missing(dir); len(m) > 0 {
		return "", fmt.Errorf("%s: %s is not built yet (localkube build %s)", dir, m[0].name, name)
	}
	return dir, nil
}

// missing lists the programs that dir lacks. A program is renamed into place when it is whole.
func (t toolset) missing(dir string) []toolProgram {
	var ms []toolProgram
	for _, p := range t.programs {
		if st, err := os.Stat(filepath.Join(dir, p.name)); err != nil || !st.Mode().IsRegular() {
			ms = append(ms, p)
		}
	}
	return ms
}

// folder names where a toolset's programs lie, by the content of its module.
func (b *Builder) folder(ctx context.Context, t toolset) (string, error) {
	src := filepath.Join(b.ModulesDir, t.name)
	entries, err := os.ReadDir(src)
	if err != nil {
		return "", fmt.Errorf("sources of %s: %w; run this from Atoll's source tree or name its infra/local/modules", t.name, err)
	}
	goVersion, err := goEnv(ctx, src, "GOVERSION")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "v1 %s %s/%s %q %q\n", goVersion, runtime.GOOS, runtime.GOARCH, t.tags, t.versionVars)
	for _, e := range entries { // sorted by name
		if !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(src, e.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", e.Name(), len(data))
		h.Write(data)
	}
	return filepath.Join(b.CacheDir, t.name+"-"+hex.EncodeToString(h.Sum(nil))[:12]), nil
}

// goEnv asks the Go toolchain for one of its settings.
func goEnv(ctx context.Context, dir, key string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", key)
	cmd.Dir = dir
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("no go on PATH: Go 1.26 or newer builds the local platform; see https://go.dev/dl/")
	}
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", key, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (b *Builder) checkDisk(ctx context.Context, t toolset) error {
	var errs []error
	for _, key := range []string{"GOCACHE", "GOMODCACHE"} {
		dir, err := goEnv(ctx, b.ModulesDir, key)
		if err != nil {
			return err
		}
		errs = append(errs, needDisk(dir, t.needMiB, "building "+t.name, "free some, or set "+key+" to a larger disk"))
	}
	errs = append(errs, needDisk(b.CacheDir, 600, "keeping the programs of "+t.name, "free some, or give another folder by --cache"))
	return errors.Join(errs...)
}

// moduleVersion reads the version that go.mod requires of a module.
func moduleVersion(gomod []byte, module string) (string, error) {
	re := regexp.MustCompile(`(?m)^\s*(?:require\s+)?` + regexp.QuoteMeta(module) + `\s+(v\S+)`)
	m := re.FindSubmatch(gomod)
	if m == nil {
		return "", fmt.Errorf("go.mod requires no %s", module)
	}
	return string(m[1]), nil
}

func (b *Builder) ldflags(t toolset) (string, error) {
	flags := []string{"-s", "-w"}
	if t.versionOf == "" {
		return strings.Join(flags, " "), nil
	}
	gomod, err := os.ReadFile(filepath.Join(b.ModulesDir, t.name, "go.mod"))
	if err != nil {
		return "", err
	}
	version, err := moduleVersion(gomod, t.versionOf)
	if err != nil {
		return "", fmt.Errorf("toolset %s: %w", t.name, err)
	}
	for _, v := range t.versionVars {
		flags = append(flags, "-X", strings.ReplaceAll(v, "%s", version))
	}
	if t.name == "kubernetes" {
		minor := strings.Split(version, ".")[1]
		for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
			flags = append(flags, "-X", p+".gitMinor="+minor)
		}
	}
	return strings.Join(flags, " "), nil
}

// compile builds one program, reporting how far it is every few seconds.
func (b *Builder) compile(ctx context.Context, t toolset, p toolProgram, dir string) error {
	ld, err := b.ldflags(t)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, "."+p.name+".part")
	defer os.Remove(part)
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-tags", t.tags, "-ldflags", ld, "-o", part, p.pkg)
	cmd.Dir = filepath.Join(b.ModulesDir, t.name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go ends its compilers
	cmd.WaitDelay = 10 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go build %s: %w", p.name, err)
	}
	said := b.follow(p.name, stderr, start)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("go build %s: %w; what is compiled is kept, and the next try goes on from there", p.name, context.Cause(ctx))
		}
		return fmt.Errorf("go build %s: %w\n%s", p.name, err, tail(said, 3000))
	}
	if err := os.Rename(part, filepath.Join(dir, p.name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := os.Stat(filepath.Join(dir, p.name))
	if err != nil {
		return err
	}
	fmt.Fprintf(b.Progress, "  %-24s %5.0f s %6.1f MB\n", p.name, time.Since(start).Seconds(), float64(st.Size())/1e6)
	return nil
}

// follow reads what go build says, one line for each package that it compiles, until it ends, and
// returns what is not such a line.
func (b *Builder) follow(name string, r io.Reader, start time.Time) string {
	var other bytes.Buffer
	packages, last := 0, start
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 4<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.ContainsAny(line, " \t:") {
			if other.Len() < 64<<10 && !strings.HasPrefix(line, "go: downloading ") {
				other.WriteString(line + "\n")
			}
		} else {
			packages++
		}
		if time.Since(last) >= 5*time.Second {
			last = time.Now()
			fmt.Fprintf(b.Progress, "  %-24s %5.0f s, %d packages compiled\n", name, time.Since(start).Seconds(), packages)
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line beyond the buffer must not stop the build
	return other.String()
}
