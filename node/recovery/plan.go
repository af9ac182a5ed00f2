package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// PlanVersion is the format of plans.
const PlanVersion = 1

// LostNode is a node that is given up for good.
type LostNode struct {
	Node    keys.NodeID `json:"node"`
	Addr    string      `json:"addr"`
	Zone    string      `json:"zone,omitempty"`
	Version int64       `json:"version"` // of the directory entry that says so
}

// Survivor is a node that takes part.
type Survivor struct {
	Node keys.NodeID `json:"node"`
	Addr string      `json:"addr"`
	Boot uint64      `json:"boot"` // its state is what the plan saw only while it runs on
}

// Copy is a replica that is left, as the plan saw it.
type Copy struct {
	Server
	Role      Role   `json:"role"`
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	Distrust  string `json:"distrust,omitempty"`
	Mute      bool   `json:"mute,omitempty"`
}

// Range is a range that is recovered, and how.
type Range struct {
	ID         keys.RangeID   `json:"range"`
	Span       Span           `json:"span"`   // it holds afterwards
	Source     Copy           `json:"source"` // it is recovered from this replica
	NewReplica keys.ReplicaID `json:"new_replica"`
	Generation int64          `json:"generation"`
	Term       uint64         `json:"term"` // no replica that is left knows a later one
	Voters     []Server       `json:"voters"`
	Commit     uint64         `json:"commit"`
	Applied    uint64         `json:"applied"`
	Newest     time.Time      `json:"newest"`
	Bytes      int64          `json:"bytes"`
	Others     []Copy         `json:"others,omitzero"` // are removed once the source serves
	Notes      []string       `json:"notes,omitzero"`
}

// InDoubt is how many entries the source holds that it does not know to be committed. They count as
// committed afterwards.
func (r *Range) InDoubt() uint64 { return r.Source.LastIndex - min(r.Commit, r.Source.LastIndex) }

// Superseded is a range whose keys other ranges hold by now: nothing of it is recovered.
type Superseded struct {
	ID     keys.RangeID   `json:"range"`
	Lowest keys.ReplicaID `json:"lowest"` // no replica below this ID may be made again
	Copies []Copy         `json:"copies"`
}

// Plan is what an operator approves.
type Plan struct {
	Version   int        `json:"version"`
	ID        string     `json:"id"` // a checksum of all the rest
	ClusterID string     `json:"cluster_id"`
	MadeAt    time.Time  `json:"made_at"`
	Lost      []LostNode `json:"lost"`
	Survivors []Survivor `json:"survivors"`
	// Ranges are in the order in which they are recovered.
	Ranges     []Range      `json:"ranges,omitzero"`
	Superseded []Superseded `json:"superseded,omitzero"`
	// Holes are spans that no replica that is left holds. They stay unavailable.
	Holes []Span `json:"holes,omitzero"`
	// No ID at or below these may be given out again (S18): the lost nodes may have used them.
	RangeIDFloor int64    `json:"range_id_floor"`
	NodeIDFloor  int64    `json:"node_id_floor"`
	Notes        []string `json:"notes,omitzero"`
}

// checksum is over everything but the ID itself.
func (p *Plan) checksum() string {
	q := *p
	q.ID = ""
	b, err := json.Marshal(&q)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Encode returns the plan as its file holds it.
func (p *Plan) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", " ")
	if err == nil && len(b) >= MaxBytes {
		err = fmt.Errorf("recovery: the plan has %d bytes, the limit is %d: recover the cluster in parts", len(b), MaxBytes)
	}
	return append(b, '\n'), err
}

// DecodePlan reads a plan's file. It takes nothing that Encode did not write.
func DecodePlan(b []byte) (*Plan, error) {
	p := &Plan{}
	if err := decode(b, "plan", p); err != nil {
		return nil, err
	}
	if p.Version != PlanVersion {
		return nil, fmt.Errorf("%w: a plan of version %d, this binary reads %d: make the plan anew", ErrCorrupt, p.Version, PlanVersion)
	}
	if sum := p.checksum(); sum == "" || p.ID != sum {
		return nil, fmt.Errorf("%w: the plan's ID is %q and its checksum %q: it was changed after it was made; make it anew", ErrCorrupt, p.ID, sum)
	}
	return p, p.validate()
}

// validate lists every fault at once.
func (p *Plan) validate() error {
	var faults []error
	add := func(format string, args ...any) {
		if len(faults) < maxFaults {
			faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...))
		}
	}
	if p.ClusterID == "" || len(p.ClusterID) > maxText {
		add("the plan names cluster %q", p.ClusterID)
	}
	if len(p.Survivors) == 0 || len(p.Survivors) > maxNodes || len(p.Lost) > maxNodes || len(p.Ranges) > maxReplicas || len(p.Superseded) > maxReplicas {
		add("the plan has %d survivors, %d lost nodes, %d ranges and %d superseded ones", len(p.Survivors), len(p.Lost), len(p.Ranges), len(p.Superseded))
	}
	nodes := map[keys.NodeID]bool{}
	for _, s := range p.Survivors {
		if s.Node <= 0 || nodes[s.Node] {
			add("node %d is no survivor, or named twice", s.Node)
		}
		nodes[s.Node] = true
	}
	gone := map[keys.NodeID]bool{}
	for _, l := range p.Lost {
		if l.Node <= 0 || nodes[l.Node] || gone[l.Node] || l.Version <= 0 {
			add("node %d is no lost node, survives as well, or is named twice", l.Node)
		}
		gone[l.Node] = true
	}
	p.validateRanges(nodes, add)
	return errors.Join(faults...)
}

func (p *Plan) validateRanges(nodes map[keys.NodeID]bool, add func(string, ...any)) {
	seen := map[keys.RangeID]bool{}
	for i := range p.Ranges {
		r := &p.Ranges[i]
		if r.ID <= 0 || seen[r.ID] || r.Span.empty() || r.Generation <= 0 {
			add("range %d %s of generation %d is not one, or named twice", r.ID, r.Span, r.Generation)
		}
		if !nodes[r.Source.Node] || r.Source.Replica <= 0 || r.NewReplica <= r.Source.Replica {
			add("range %d is recovered from %s as replica %d: it is on no survivor, or the ID is not new", r.ID, r.Source, r.NewReplica)
		}
		for _, o := range r.Others {
			if !nodes[o.Node] || o.Node == r.Source.Node || o.Replica >= r.NewReplica {
				add("range %d: %s is not another replica on a survivor", r.ID, o.Server)
			}
		}
		if len(r.Voters) > maxServers || len(r.Others) > maxNodes {
			add("range %d has %d voters and %d other replicas", r.ID, len(r.Voters), len(r.Others))
		}
		seen[r.ID] = true
	}
	for _, s := range p.Superseded {
		if s.ID <= 0 || seen[s.ID] {
			add("superseded range %d is recovered as well, or named twice", s.ID)
		}
		for _, c := range s.Copies {
			if !nodes[c.Node] || c.Replica >= s.Lowest {
				add("superseded range %d: %s is on no survivor, or may be made again", s.ID, c.Server)
			}
		}
		seen[s.ID] = true
	}
}

// Survivor returns a node's part, if it takes part.
func (p *Plan) Survivor(id keys.NodeID) (Survivor, bool) {
	for _, s := range p.Survivors {
		if s.Node == id {
			return s, true
		}
	}
	return Survivor{}, false
}

// Find returns what is done with a range.
func (p *Plan) Find(id keys.RangeID) (*Range, bool) {
	for i := range p.Ranges {
		if p.Ranges[i].ID == id {
			return &p.Ranges[i], true
		}
	}
	return nil, false
}

// On returns the range's replica on a node, as the plan saw it.
func (r *Range) On(node keys.NodeID) (Copy, bool) {
	if r.Source.Node == node {
		return r.Source, true
	}
	for _, o := range r.Others {
		if o.Node == node {
			return o, true
		}
	}
	return Copy{}, false
}

// votesFor reports whether the replica would vote for one whose log ends there.
func (c *Copy) votesFor(term, index uint64) bool {
	return !c.Mute && (c.LastTerm < term || c.LastTerm == term && c.LastIndex <= index)
}

// MayVote reports whether a voter of a range, whose node lives, might vote for a replica whose log ends
// at an entry. Of nodes that the plan did not see, anything is possible.
func (p *Plan) MayVote(r *Range, v Server, term, index uint64) bool {
	if _, seen := p.Survivor(v.Node); !seen {
		return true
	}
	c, ok := r.On(v.Node)
	return ok && c.Replica == v.Replica && c.votesFor(term, index)
}
