//go:build !linux

// Command localkube runs a real three-zone Kubernetes on this machine, if that is Linux.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "localkube: zones are Linux namespaces, and this is %s; use a Linux machine, or the platform \"existing\" with kind\n", runtime.GOOS)
	os.Exit(1)
}
