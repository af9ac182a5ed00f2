package allocator

import (
	"errors"
	"fmt"
	"time"
)

// Settings are the allocator's. EnsureDefaults fills those that are 0.
type Settings struct {
	// RestartWait is how long a node may be silent, while others of its zone answer, until its
	// replicas are replaced: a restart should not move data. Default 1 minute.
	RestartWait time.Duration
	// VolumeGoneWait is the same for a node that won't come back with its data. Default 10 s.
	VolumeGoneWait time.Duration
	// ZoneHold is the same while all nodes of the zone are silent: it is expected back. After
	// that, its replicas are rebuilt in other zones, if the goal is kept. Default 30 minutes.
	ZoneHold time.Duration
	// Probation is how long a node must have answered before it gets what it need not have, for
	// rules that don't say. Default 30 s.
	Probation time.Duration
	// LeaseRest is how long a lease stays before it moves again for load or to follow the
	// workload. Default 10 s.
	LeaseRest time.Duration
	// ReplicaSlack and LeaseSlack are how much fuller than another node a node must be, in
	// proportion, for a move of a replica or lease. Defaults 0.1 and 0.2.
	ReplicaSlack, LeaseSlack float64
	// CPUWeight and DiskWeight weigh the two in the imbalance. Defaults 1 and 0.5.
	CPUWeight, DiskWeight float64
	// Each replica and lease counts with at least this much, so that idle and empty ones are
	// spread as well. Defaults 16 MiB, 0.0001 and 0.001 cores.
	ReplicaBytes         int64
	ReplicaCPU, LeaseCPU float64
	// FullAt is how full a disk may be, as a fraction, before replicas leave it; a node is given
	// no replica that would bring it above. Repairs may go up to StopAt. Defaults 0.85, 0.92.
	FullAt, StopAt float64
	// FollowShare is which share of a range's requests must come from a zone, or region, for the
	// lease to follow. More than a half, so that no two places can claim it. Default 0.6.
	FollowShare float64
	// Planners is how many plan at a time without knowing of each other's plans, such as the
	// leaseholders' nodes. With the same view they would all move what they have away from the same
	// node, to the same node, and back again: so a move for balance begins, or is given up, in one
	// of so many turns, by a hash of range and turn. Default 1.
	Planners int
	Limits   Limits
}

// Limits bound what one plan starts, and what runs at a time.
type Limits struct {
	// Receive and Send bound the copies on their way to and from one node; ReceiveMoves those
	// that are for balance; nodes that receive should refuse what is more, since who sends may not
	// know of others. Defaults 4, 4, 1.
	Receive, Send, ReceiveMoves int
	// Leases bounds the leases of choice that one plan gives one node: a few at a time. Default 8.
	Leases int
	// Changes bounds a plan. 0: no bound.
	Changes int
}

const maxWait = 7 * 24 * time.Hour

// EnsureDefaults fills what is 0.
func (s *Settings) EnsureDefaults() {
	def(&s.RestartWait, time.Minute)
	def(&s.VolumeGoneWait, 10*time.Second)
	def(&s.ZoneHold, 30*time.Minute)
	def(&s.Probation, 30*time.Second)
	def(&s.LeaseRest, 10*time.Second)
	def(&s.ReplicaSlack, 0.1)
	def(&s.LeaseSlack, 0.2)
	def(&s.CPUWeight, 1)
	def(&s.DiskWeight, 0.5)
	def(&s.ReplicaBytes, 16<<20)
	def(&s.ReplicaCPU, 0.0001)
	def(&s.LeaseCPU, 0.001)
	def(&s.FullAt, 0.85)
	def(&s.StopAt, 0.92)
	def(&s.FollowShare, 0.6)
	def(&s.Planners, 1)
	def(&s.Limits.Receive, 4)
	def(&s.Limits.Send, 4)
	def(&s.Limits.ReceiveMoves, 1)
	def(&s.Limits.Leases, 8)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Validate lists every fault, with value and bound.
func (s *Settings) Validate() error {
	var faults []error
	within := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) {
			faults = append(faults, fmt.Errorf("allocator: %s is %g; it must lie between %g and %g", name, v, lo, hi))
		}
	}
	wait := func(name string, d, lo, hi time.Duration) {
		if d < lo || d > hi {
			faults = append(faults, fmt.Errorf("allocator: %s is %s; it must lie between %s and %s", name, d, lo, hi))
		}
	}
	wait("RestartWait", s.RestartWait, time.Second, maxWait)
	wait("VolumeGoneWait", s.VolumeGoneWait, time.Second, maxWait)
	wait("ZoneHold", s.ZoneHold, time.Second, maxWait)
	wait("Probation", s.Probation, 0, time.Hour)
	wait("LeaseRest", s.LeaseRest, 0, time.Hour)
	if s.ZoneHold < s.RestartWait {
		faults = append(faults, fmt.Errorf("allocator: ZoneHold is %s, less than RestartWait (%s); a zone is held at least as long as a node", s.ZoneHold, s.RestartWait))
	}
	within("ReplicaSlack", s.ReplicaSlack, 0.01, 1)
	within("LeaseSlack", s.LeaseSlack, 0.01, 1)
	within("CPUWeight", s.CPUWeight, 0, 1000)
	within("DiskWeight", s.DiskWeight, 0, 1000)
	within("FullAt", s.FullAt, 0.1, 0.99)
	within("StopAt", s.StopAt, s.FullAt, 0.99)
	within("FollowShare", s.FollowShare, 0.51, 1)
	within("Planners", float64(s.Planners), 1, 1024)
	within("Limits.Receive", float64(s.Limits.Receive), 1, 1024)
	within("Limits.Send", float64(s.Limits.Send), 1, 1024)
	within("Limits.ReceiveMoves", float64(s.Limits.ReceiveMoves), 1, float64(s.Limits.Receive))
	within("Limits.Leases", float64(s.Limits.Leases), 1, 1<<20)
	within("Limits.Changes", float64(s.Limits.Changes), 0, 1<<30)
	return errors.Join(faults...)
}
