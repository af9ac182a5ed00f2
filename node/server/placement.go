package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/session"
	"github.com/atolldb/atoll/node/store"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/allocator"
	"github.com/atolldb/atoll/topology/allocator/fleet"
)

// placer says what policies are checked against, and what they would move. It implements
// session.Placement.
type placer struct {
	n    *host.Node
	info *clusterInfo
}

// Topology implements session.Placement: the zones of all nodes that are not decommissioned.
func (p *placer) Topology() (topology.Topology, error) {
	all := p.n.Directory.All()
	places := store.Places(all)
	var nodes []topology.Node
	for _, n := range all {
		if n.State == cluster.Decommissioned {
			continue
		}
		if n.Zone == "" {
			return topology.Topology{}, fmt.Errorf("node %d has no zone; start it with --zone", n.ID)
		}
		nodes = append(nodes, topology.Node{ID: int32(n.ID), Name: fmt.Sprintf("n%d", n.ID), Locality: places[n.ID], Attributes: n.AttributeList()})
	}
	return topology.FromNodes(nodes...)
}

// Default implements session.Placement.
func (p *placer) Default() *policies.Policy {
	return &policies.Policy{Name: "default", Survive: policies.SurviveZone, Voters: p.n.Store.Voters()}
}

const (
	// previewRounds bounds the rounds of a preview; each is a look of the allocator at all ranges.
	previewRounds = 1000
	// previewStuck is how many reasons a preview names.
	previewStuck = 5
	longTime     = 24 * time.Hour // longer than any probation
)

// Preview implements session.Placement: the allocator's own changes, carried out in memory.
func (p *placer) Preview(ctx context.Context, m *policies.Map, spans []policies.Span) (session.PlacementPreview, error) {
	var out session.PlacementPreview
	ranges, err := p.info.Ranges(ctx)
	if err != nil {
		return out, err
	}
	f := fleet.New(p.fleetNodes(), m.Rules)
	// What a policy moves, not what evens nodes out.
	f.Settings.ReplicaSlack, f.Settings.LeaseSlack = 1, 1
	f.CopyBytesPerSecond = p.n.Store.SnapshotBytesPerSecond()
	for i := range ranges {
		r := &ranges[i]
		at, ok := overlap(r, spans)
		if !ok {
			continue
		}
		out.Ranges++
		out.Bytes += r.Bytes
		out.Splits += len(m.Boundaries(r.Start, r.End))
		if r.Leaseholder == 0 {
			out.Stuck = append(out.Stuck, fmt.Sprintf("range %d has no leaseholder", r.ID))
			continue
		}
		f.Ranges = append(f.Ranges, previewRange(r, m.Rule(at)))
	}
	tick := time.Second
	if f.CopyBytesPerSecond > 0 { // few rounds, however much there is
		tick = max(tick, time.Duration(out.Bytes/f.CopyBytesPerSecond)*time.Second/100)
	}
	rounds, err := f.Settle(tick, previewRounds)
	if err != nil {
		out.Unsettled = err.Error()
	}
	out.TakesAbout = time.Duration(rounds) * tick
	countChanges(&out, &f.Counts)
	plan, err := f.Round()
	if err != nil {
		return out, err
	}
	for _, s := range plan.Stuck {
		out.Stuck = append(out.Stuck, fmt.Sprintf("range %d: %s", s.Range, s.Reason))
	}
	out.Stuck = out.Stuck[:min(len(out.Stuck), previewStuck)]
	return out, nil
}

func countChanges(out *session.PlacementPreview, c *fleet.Counts) {
	for _, n := range c.Changes {
		out.Changes += n
	}
	out.Copies = c.Changes[allocator.AddNonVoter] + c.Changes[allocator.AddWitness] + c.Changes[allocator.TurnWitness]
	out.CopiedBytes = c.Bytes
	out.Removed = c.Changes[allocator.Remove] + c.Changes[allocator.Replace] + c.Changes[allocator.TurnWitness] + 2*c.Changes[allocator.Shrink]
	out.Leases = c.Changes[allocator.TransferLease]
}

// fleetNodes are the nodes as the allocator sees them now.
func (p *placer) fleetNodes() []allocator.Node {
	all := p.n.Directory.All()
	places := store.Places(all)
	var nodes []allocator.Node
	for _, d := range all {
		if d.State == cluster.Decommissioned {
			continue
		}
		n := allocator.Node{ID: allocator.NodeID(d.ID), Locality: places[d.ID], Attributes: d.AttributeList(), Membership: store.Membership(d.State), For: longTime}
		if !p.info.live(d) {
			n.Health = allocator.Silent
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// overlap returns the first key of a range that lies in one of the spans.
func overlap(r *catalog.RangeInfo, spans []policies.Span) (at []byte, ok bool) {
	for _, s := range spans {
		if (len(s.End) == 0 || bytes.Compare(r.Start, s.End) < 0) && (len(r.End) == 0 || bytes.Compare(s.Start, r.End) < 0) {
			if bytes.Compare(r.Start, s.Start) > 0 {
				return r.Start, true
			}
			return s.Start, true
		}
	}
	return nil, false
}

func previewRange(r *catalog.RangeInfo, rule int) allocator.Range {
	out := allocator.Range{ID: allocator.RangeID(r.ID), Rule: rule, Leaseholder: allocator.NodeID(r.Leaseholder), LeaseFor: longTime, Bytes: r.Bytes}
	for _, rep := range r.Replicas {
		a := allocator.Replica{Node: allocator.NodeID(rep.Node), Distrusted: rep.Problem != "", CaughtUp: true}
		switch {
		case rep.Witness && rep.Voter:
			a.Type = allocator.Witness
		case rep.Witness:
			a.Type = allocator.NewWitness
		case !rep.Voter:
			a.Type = allocator.NonVoter
		}
		out.Replicas = append(out.Replicas, a)
	}
	return out
}

// ruleKeeper gives the store the rules that policies make, and new ones when policies, what they are
// bound to, or the zones change.
type ruleKeeper struct {
	placer  *placer
	catalog *catalog.Manager
	set     func(*policies.Map)
	log     *slog.Logger

	failures prometheus.Counter
	known    bool
	schema   uint64
	zones    string
	at       time.Time // of the last refresh
	database bool      // a database has a policy of its own
	said     string    // the newest failure, once
}

const (
	// rulesEvery is how often the keeper looks whether anything has changed, in memory.
	rulesEvery = time.Second
	// againEvery is how often the tables of databases that have a policy are read all the same.
	againEvery = 30 * time.Second
	// rulesTimeout bounds the reading of policies.
	rulesTimeout = 10 * time.Second
)

func newRuleKeeper(p *placer, c *catalog.Manager, log *slog.Logger, reg prometheus.Registerer) *ruleKeeper {
	k := &ruleKeeper{placer: p, catalog: c, set: p.n.Store.SetRules, log: log,
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "atoll_placement_rule_failures_total",
			Help: "Times that placement policies could not be read or compiled; the rules known before stay in force."})}
	reg.MustRegister(k.failures)
	return k
}

// run keeps the rules until the context is done.
func (k *ruleKeeper) run(ctx context.Context) {
	tick := time.NewTicker(rulesEvery)
	defer tick.Stop()
	for {
		if err := k.refresh(ctx); err != nil && ctx.Err() == nil {
			k.failures.Inc()
			if text := err.Error(); text != k.said {
				k.said = text
				k.log.Error("placement policies can't be put into force; the rules known before stay, and it is tried on", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// refresh compiles the policies anew if something has changed.
func (k *ruleKeeper) refresh(ctx context.Context) error {
	schema := k.catalog.Generation() // before reading: what changes meanwhile is read once more
	top, badZones := k.placer.Topology()
	zones := fmt.Sprint(top.Nodes(), badZones)
	// A table that was made while its database got a policy raised no generation.
	late := k.database && time.Since(k.at) > againEvery
	if k.known && schema == k.schema && zones == k.zones && !late {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rulesTimeout)
	defer cancel()
	p, err := k.catalog.ReadPlacementMap(ctx)
	if err != nil {
		return err
	}
	var m *policies.Map // nil: the default, which needs no names of zones
	if len(p.Bindings) > 0 {
		if m, err = session.CompilePlacement(k.placer, p); err != nil {
			return err
		}
	}
	k.set(m)
	k.known, k.schema, k.zones, k.said, k.at, k.database = true, schema, zones, "", time.Now(), false
	for o := range p.Bindings {
		k.database = k.database || o.Database != 0 && o.Table == 0
	}
	return nil
}
