// Command ensure makes sure that Pulumi finds a Kubernetes provider: the official plugin, if it is
// installed or can be downloaded, else the stand-in of the package above. It prints the folder that
// has to be on PATH: nothing for the official one, so that the stand-in never stands before it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"
)

// plugin is the version that the program's SDK asks for.
const plugin = "4.23.0"

// downloadTimeout bounds the try to get the official plugin.
const downloadTimeout = 2 * time.Minute

func main() {
	out := flag.String("out", "bin/pulumi-standin", "folder of the stand-in")
	offline := flag.Bool("offline", false, "do not try to download the official plugin")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	e := ensurer{out: *out, home: pulumiHome(), install: installOfficial, build: buildStandIn, progress: os.Stderr}
	if *offline {
		e.install = func(context.Context) error { return fmt.Errorf("-offline is set") }
	}
	path, err := e.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ensure:", err)
		os.Exit(1)
	}
	if path != "" {
		fmt.Println(path)
	}
}

// ensurer decides which provider serves. Its functions are what touches the world.
type ensurer struct {
	out, home string
	install   func(context.Context) error
	build     func(ctx context.Context, binary string) error
	progress  io.Writer
}

func (e ensurer) run(ctx context.Context) (path string, err error) {
	binary := filepath.Join(e.out, "pulumi-resource-kubernetes")
	if !e.official() {
		err := e.install(ctx)
		if err != nil {
			fmt.Fprintf(e.progress, "the official Kubernetes provider v%s is not installed and can't be had (%v): the stand-in serves\n", plugin, err)
		}
	}
	if e.official() {
		if err := os.Remove(binary); err != nil && !os.IsNotExist(err) {
			return "", err
		}
		return "", nil
	}
	abs, err := filepath.Abs(e.out)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return "", err
	}
	return abs, e.build(ctx, filepath.Join(abs, "pulumi-resource-kubernetes"))
}

// official reports whether the official plugin is installed.
func (e ensurer) official() bool {
	_, err := os.Stat(filepath.Join(e.home, "plugins", "resource-kubernetes-v"+plugin, "pulumi-resource-kubernetes"))
	return err == nil
}

func pulumiHome() string {
	if h := os.Getenv("PULUMI_HOME"); h != "" {
		return h
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".pulumi"
	}
	return filepath.Join(home, ".pulumi")
}

func installOfficial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pulumi", "plugin", "install", "resource", "kubernetes", plugin).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pulumi plugin install: %w: %.300s", err, out)
	}
	return nil
}

func buildStandIn(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/atolldb/atoll/tests/kubeprovider")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
