// Command atoll-image links the atoll binary statically and makes an OCI image of it, or makes an
// image of a static binary that is already there (--binary).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/infra/image"
)

// crossCompilers are Debian's C compilers for other machines than this one: the SQL parser is C.
var crossCompilers = map[string]struct{ cc, pkg string }{
	"amd64": {"x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"},
	"arm64": {"aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "atoll-image:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o image.Options
	var arch, out, pkg string
	var dirs, labels []string
	c := &cobra.Command{
		Use:           "atoll-image",
		Short:         "Make an OCI image of a static binary",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			o.Labels = map[string]string{"org.opencontainers.image.title": filepath.Base(pkg)}
			for _, l := range labels {
				k, v, ok := strings.Cut(l, "=")
				if !ok || k == "" {
					return fmt.Errorf("label %q: want key=value", l)
				}
				o.Labels[k] = v
			}
			o.Dirs = dirs
			describeSource(ctx, &o)
			if o.Binary == "" {
				dir, err := os.MkdirTemp("", "atoll-image-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				o.Binary = filepath.Join(dir, filepath.Base(pkg))
				if err := link(ctx, pkg, arch, o.Binary); err != nil {
					return err
				}
			}
			if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
				return err
			}
			if err := image.WriteFile(out, o); err != nil {
				return err
			}
			info, err := image.ReadFile(out) // what was written is what was meant
			if err != nil {
				return err
			}
			fmt.Printf("%s: %s, linux/%s, user %s, %s\n", out, info.Name, info.Arch, info.User, info.Digest)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.Name, "name", "localhost/atoll:dev", "the image's name and tag")
	f.StringVar(&pkg, "package", "./node/cmd/atoll", "the Go package to build")
	f.StringVar(&o.Binary, "binary", "", "a static binary to take instead of building one")
	f.StringVar(&arch, "arch", runtime.GOARCH, "amd64 or arm64; another one than this machine's needs its cross compiler")
	f.StringVarP(&out, "output", "o", "bin/atoll-image.tar", "the archive to write")
	f.StringVar(&o.User, "user", image.NonRoot, "uid:gid to run as")
	f.StringSliceVar(&dirs, "dir", []string{"/data"}, "an empty folder of that user")
	f.StringSliceVar(&labels, "label", nil, "key=value")
	return c
}

// describeSource takes the image's time and revision from git, so that one commit gives one image.
// Outside a repository the time is 1970.
func describeSource(ctx context.Context, o *image.Options) {
	o.Created = time.Unix(0, 0)
	out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct %H").Output()
	var seconds int64
	var revision string
	if n, serr := fmt.Sscan(string(out), &seconds, &revision); err != nil || serr != nil || n != 2 {
		return
	}
	o.Created = time.Unix(seconds, 0)
	if _, ok := o.Labels["org.opencontainers.image.revision"]; !ok {
		o.Labels["org.opencontainers.image.revision"] = revision
	}
}

// link builds a package statically, C parts included.
func link(ctx context.Context, pkg, arch, out string) error {
	env := append(os.Environ(), "CGO_ENABLED=1", "GOOS=linux", "GOARCH="+arch)
	if arch != runtime.GOARCH || runtime.GOOS != "linux" {
		cross, ok := crossCompilers[arch]
		if !ok {
			return fmt.Errorf("architecture %q: want amd64 or arm64", arch)
		}
		if _, err := exec.LookPath(cross.cc); err != nil {
			return fmt.Errorf("no %s, which an image for %s needs; on Debian: apt-get install -y --no-install-recommends %s", cross.cc, arch, cross.pkg)
		}
		env = append(env, "CC="+cross.cc)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo",
		"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", out, pkg)
	cmd.Env = env
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		return fmt.Errorf("go build %s for linux/%s: %w", pkg, arch, err)
	}
	return nil
}
