//go:build linux

// Command localkube runs a real three-zone Kubernetes on this machine, and breaks it on request.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/atolldb/atoll/infra/local"
)

func init() {
	// A machine joins namespaces on its first thread and then executes itself: see local.Machine.
	if len(os.Args) > 1 && os.Args[1] == "machine" {
		runtime.LockOSThread()
	}
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == "machine" { // local.Cluster starts these; people do not
		if err := local.Machine(context.Background(), os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintf(os.Stderr, "localkube: %s: %v\n", os.Args[3], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// usageError is a mistake in the command line: exit code 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// run executes the command line and returns the exit code: 0, 1 for a failure, 2 for usage.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "localkube: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}
