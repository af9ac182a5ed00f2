package sim

import (
	"flag"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	seedsFlag  = flag.Int("seeds", 24, "how many seeds TestSeeds runs")
	firstFlag  = flag.Uint64("seed", 1, "the first seed")
	repeatFlag = flag.Int("repeat", 1, "how often each seed is run")
	lengthFlag = flag.Duration("length", 0, "virtual time with faults")
	debugFlag  = flag.Bool("debug", false, "nodes' debug logs in the trace")
	keepFlag   = flag.Bool("keep", false, "keep the trace of passing runs, too")
)

// isSet reports whether a flag was given.
func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// simulate runs a seed in a bubble of its own and judges it.
func simulate(t *testing.T, opts Options) *Report {
	t.Helper()
	if opts.Length == 0 {
		opts.Length = *lengthFlag
	}
	opts.Level = slog.LevelInfo
	if *debugFlag {
		opts.Level = slog.LevelDebug
	}
	var r *Report
	synctest.Test(t, func(*testing.T) { r = Run(opts) })
	r.Judge()
	return r
}

// TestFocus runs the mixes of faults in which some planted bugs are looked for.
func TestFocus(t *testing.T) {
	for name, focus := range map[string]Focus{"leases": FocusLeases, "transfers": FocusTransfers, "partitions": FocusPartitions, "retries": FocusRetries, "members": FocusMembers, "policies": FocusPolicies, "witness": FocusWitness} {
		t.Run(name, func(t *testing.T) {
			n := uint64(4)
			if isSet("seeds") {
				n = uint64(*seedsFlag)
			}
			for seed := *firstFlag; seed < *firstFlag+n; seed++ {
				bad := 0
				for range *repeatFlag {
					if !pass(t, Options{Seed: seed, Focus: focus}) {
						bad++
					}
				}
				if *repeatFlag > 1 {
					t.Logf("seed %d: %d of %d runs failed", seed, bad, *repeatFlag)
				}
			}
		})
	}
}

// pass runs a seed that must find nothing.
func pass(t *testing.T, opts Options) bool {
	t.Helper()
	start := time.Now()
	r := simulate(t, opts)
	t.Logf("%s (%.1fs real)", r, time.Since(start).Seconds())
	if len(r.Faults) == 0 && !*keepFlag {
		return true
	}
	path, err := r.SaveTrace()
	require.NoError(t, err)
	if len(r.Faults) == 0 {
		t.Logf("seed %d: trace in %s", r.Seed, path)
		return true
	}
	t.Errorf("seed %d failed: %d faults; trace in %s; run it again: make sim SEEDS=1 SEED=%d REPEAT=20", r.Seed, len(r.Faults), path, r.Seed)
	for _, err := range r.Faults[:min(3, len(r.Faults))] {
		t.Errorf("seed %d: %v", r.Seed, err)
	}
	return false
}

// TestSeeds runs clusters under faults; nothing may be lost, stale, doubled or torn.
func TestSeeds(t *testing.T) {
	first, count := *firstFlag, *seedsFlag
	if isSet("seed") && !isSet("seeds") {
		count = 1
	}
	if testing.Short() && !isSet("seeds") && !isSet("seed") {
		count = 4
	}
	var failed []uint64
	for seed := first; seed < first+uint64(count); seed++ {
		bad := 0
		for range *repeatFlag {
			if !pass(t, Options{Seed: seed}) {
				bad++
			}
		}
		if *repeatFlag > 1 {
			t.Logf("seed %d: %d of %d runs failed", seed, bad, *repeatFlag)
		}
		if bad > 0 {
			failed = append(failed, seed)
		}
	}
	if len(failed) > 0 {
		t.Errorf("failing seeds: %v", failed)
	}
}

// TestUnnoticedFreeze runs clusters in which machines stand still without any of their clocks
// noticing: that leases exclude each other is lost with the clocks that they rest on, and real
// time with it. Transactions stay serializable, and nothing acknowledged is lost (SAFETY S4).
func TestUnnoticedFreeze(t *testing.T) {
	n := uint64(4)
	if isSet("seeds") {
		n = uint64(*seedsFlag)
	}
	for seed := *firstFlag; seed < *firstFlag+n; seed++ {
		pass(t, Options{Seed: seed, Unnoticed: true, Focus: FocusFreezes})
	}
}
