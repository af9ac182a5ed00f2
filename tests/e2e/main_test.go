package e2e

import (
	"flag"
	"os"
	"testing"
)

// TestMain refuses -short: these tests start clusters.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(0)
	}
	os.Exit(m.Run())
}
