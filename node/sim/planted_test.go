package sim

import (
	"testing"

	"github.com/atolldb/atoll/node/raftnet"
)

// plantedSeeds bounds the search. A seed does not fix the order of goroutines, so that the seed
// which finds a bug varies; most are found within 10.
const plantedSeeds = 200

// bites runs seeds with a planted bug until the checkers find it.
func bites(t *testing.T, focus Focus, plant Plant) {
	t.Helper()
	if testing.Short() {
		t.Skip("planted bugs take many seeds")
	}
	for seed := *firstFlag; seed < *firstFlag+plantedSeeds; seed++ {
		r := simulate(t, Options{Seed: seed, Focus: focus, Plant: plant})
		if len(r.Faults) > 0 {
			t.Logf("found by seed %d: %v", seed, r.Faults[0])
			return
		}
	}
	t.Fatalf("%d seeds did not find the planted bug %+v", plantedSeeds, plant)
}

// The log's entries are acknowledged before they are synced (S15).
func TestPlantedUnsyncedLog(t *testing.T) { bites(t, FocusNone, Plant{UnsyncedLog: true}) }

// Timestamps move without a refresh of what was read (S8).
func TestPlantedSkippedRefresh(t *testing.T) { bites(t, FocusNone, Plant{SkipRefresh: true}) }

// A leader serves without the support of a quorum (S2 b).
func TestPlantedNoSupportCheck(t *testing.T) {
	bites(t, FocusPartitions, Plant{NoSupportCheck: true})
}

// Commands are applied in another term than they were evaluated in (S5).
func TestPlantedSkippedTermCheck(t *testing.T) {
	bites(t, FocusTransfers, Plant{SkipTermCheck: true})
}

// Late tries of commands that a range has forgotten are applied again (S12).
func TestPlantedNoHorizon(t *testing.T) { bites(t, FocusRetries, Plant{NoHorizon: true}) }

// Replicas answer reads of the past before they have applied it (S24).
func TestPlantedEarlyFollowers(t *testing.T) { bites(t, FocusPartitions, Plant{EarlyFollowers: true}) }

// The rules of leases (S3, raft.md rules 3 and 5). Rule 7, the wait after a restart, can't be
// missed here: a node that starts waits longer than that for its clock to pass the bound
// that it had persisted (S1). Package raftnet tests it.
func TestPlantedNoOutgoingGuard(t *testing.T) {
	bites(t, FocusLeases, Plant{Raftnet: raftnet.PlantNoOutgoingGuard})
}

func TestPlantedNoIncomingGuard(t *testing.T) {
	bites(t, FocusLeases, Plant{Raftnet: raftnet.PlantNoIncomingGuard})
}

func TestPlantedNoEpochMatch(t *testing.T) {
	bites(t, FocusLeases, Plant{Raftnet: raftnet.PlantNoEpochMatch})
}

// A witness drops what a data replica that is away still needs (S22).
func TestPlantedShortTail(t *testing.T) { bites(t, FocusWitness, Plant{ShortTail: true}) }
