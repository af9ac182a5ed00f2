package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// StepKind is a part of carrying a plan out on one node.
type StepKind string

// The steps, in their order. Each is harmless to repeat.
const (
	// GiveUp marks the lost nodes as decommissioned in the node's own synced copy of the directory.
	GiveUp StepKind = "give-up"
	// Recover makes the node's replicas of the named ranges the only voters of these.
	Recover StepKind = "recover"
	// Clear removes the node's other replicas of the plan's ranges for good.
	Clear StepKind = "clear"
	// Announce writes the directory to the system keys again.
	Announce StepKind = "announce"
	// Settle brings the meta records of the named ranges up to date.
	Settle StepKind = "settle"
)

// StepVersion is the format of steps.
const StepVersion = 1

// Step asks a node, which has accepted the plan, to do a part of it.
type Step struct {
	Version int            `json:"version"`
	Plan    string         `json:"plan"`
	Kind    StepKind       `json:"kind"`
	Ranges  []keys.RangeID `json:"ranges,omitzero"`
}

// Encode returns the step as it travels.
func (s *Step) Encode() ([]byte, error) {
	s.Version = StepVersion
	return encode("step", s)
}

// DecodeStep reads what Encode wrote.
func DecodeStep(b []byte) (*Step, error) {
	s := &Step{}
	if err := decode(b, "step", s); err != nil {
		return nil, err
	}
	if s.Version != StepVersion || s.Plan == "" || len(s.Ranges) > rangesAtOnce {
		return nil, fmt.Errorf("%w: a step of version %d for plan %q with %d ranges; version %d and at most %d ranges are understood",
			ErrCorrupt, s.Version, s.Plan, len(s.Ranges), StepVersion, rangesAtOnce)
	}
	return s, nil
}

// Nodes is the way to nodes by their addresses.
type Nodes interface {
	Inventory(ctx context.Context, addr string) (*Inventory, error)
	Stage(ctx context.Context, addr string, p *Plan) error
	Step(ctx context.Context, addr string, s *Step) error
}

const (
	rangesAtOnce = 32 // in one step
	askTimeout   = 10 * time.Second
	stepTimeout  = 2 * time.Minute
	tryPause     = time.Second
	promiseTries = 15 // for a promise to a lost node to run out
)

// Ask collects the inventories of every node that answers, beginning with those at addrs and going on
// with those that their directories name. silent says why others did not answer, by address.
func Ask(ctx context.Context, nodes Nodes, addrs []string) (found []Inventory, silent map[string]error) {
	silent = map[string]error{}
	asked := map[string]bool{}
	seen := map[keys.NodeID]bool{}
	for todo := addrs; len(todo) > 0; {
		type answer struct {
			v   *Inventory
			err error
		}
		answers := make([]answer, len(todo))
		eachAddr(todo, func(i int, addr string) {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			answers[i].v, answers[i].err = nodes.Inventory(ctx, addr)
		})
		var next []string
		for i, addr := range todo {
			asked[addr] = true
			if answers[i].err != nil {
				silent[addr] = answers[i].err
				continue
			}
			v := answers[i].v
			if !seen[v.Node] {
				seen[v.Node] = true
				found = append(found, *v)
			}
			for _, n := range v.Nodes {
				if n.Addr != "" && n.State != stateDecommissioned && !asked[n.Addr] {
					asked[n.Addr] = true
					next = append(next, n.Addr)
				}
			}
		}
		todo = next
	}
	return found, silent
}

// asksAtOnce bounds the nodes that are spoken to at a time.
const asksAtOnce = 16

func eachAddr(addrs []string, f func(i int, addr string)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for i, a := range addrs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i, a)
		})
	}
	wg.Wait()
}

// Apply carries a plan out, or goes on with it where it was interrupted. say is told of each stage. The
// first error ends it; what is done stays done.
func Apply(ctx context.Context, nodes Nodes, p *Plan, say func(format string, args ...any)) error {
	d := driver{nodes: nodes, plan: p, say: say}
	if err := d.stage(ctx); err != nil {
		return fmt.Errorf("the plan was refused, and nothing is changed:\n%w", err)
	}
	err := d.carryOut(ctx)
	if err != nil {
		err = fmt.Errorf("the plan is carried out in part; run the same apply again to go on:\n%w", err)
	}
	return err
}

type driver struct {
	nodes Nodes
	plan  *Plan
	say   func(format string, args ...any)
}

// each does f for every survivor at once.
func (d *driver) each(f func(s Survivor) error) error {
	errs := make([]error, len(d.plan.Survivors))
	addrs := make([]string, len(errs))
	eachAddr(addrs, func(i int, _ string) {
		s := d.plan.Survivors[i]
		if err := f(s); err != nil {
			errs[i] = fmt.Errorf("node %d (%s): %w", s.Node, s.Addr, err)
		}
	})
	return errors.Join(errs...)
}

// stage has every survivor accept the plan. A promise to a lost node may have to run out first.
func (d *driver) stage(ctx context.Context) error {
	d.say("asking %d node(s) to accept the plan", len(d.plan.Survivors))
	var err error
	for try := range promiseTries {
		err = d.each(func(s Survivor) error {
			ctx, cancel := context.WithTimeout(ctx, stepTimeout)
			defer cancel()
			return d.nodes.Stage(ctx, s.Addr, d.plan)
		})
		if err == nil || !Passing(err) || !pause(ctx, tryPause) || try == promiseTries-1 {
			break
		}
	}
	return err
}

// PassingText marks errors that go away by themselves within seconds; errors travel as texts.
const PassingText = "try again in a few seconds"

// Passing reports whether every fault of an error goes away by itself.
func Passing(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			if !Passing(e) {
				return false
			}
		}
		return true
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		if !strings.Contains(line, PassingText) {
			return false
		}
	}
	return true
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *driver) step(ctx context.Context, s Survivor, kind StepKind, ranges ...keys.RangeID) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return d.nodes.Step(ctx, s.Addr, &Step{Plan: d.plan.ID, Kind: kind, Ranges: ranges})
}

func (d *driver) carryOut(ctx context.Context) error {
	// REQUIRES: S18. Every survivor knows durably who is lost before any range goes on without them.
	d.say("giving up %d node(s) for good", len(d.plan.Lost))
	if err := d.each(func(s Survivor) error { return d.step(ctx, s, GiveUp) }); err != nil {
		return err
	}
	if err := d.ranges(ctx, Recover); err != nil {
		return err
	}
	// Copies go only once their ranges are durable elsewhere, and serve.
	d.say("removing the other replicas of these ranges")
	if err := d.each(func(s Survivor) error { return d.step(ctx, s, Clear) }); err != nil {
		return err
	}
	d.say("bringing the directory and the meta records up to date")
	if err := d.step(ctx, d.plan.Survivors[0], Announce); err != nil {
		return fmt.Errorf("node %d: %w", d.plan.Survivors[0].Node, err)
	}
	if err := d.ranges(ctx, Settle); err != nil {
		return err
	}
	return d.each(func(s Survivor) error { return d.step(ctx, s, Settle) })
}

// ranges has the ranges' sources do a step: first, one by one, the ranges without which the others are
// not found, then the rest, a few at a time on each node.
func (d *driver) ranges(ctx context.Context, kind StepKind) error {
	rest := map[keys.NodeID][]keys.RangeID{}
	for i := range d.plan.Ranges {
		r := &d.plan.Ranges[i]
		if urgency(r) == len(essential) {
			rest[r.Source.Node] = append(rest[r.Source.Node], r.ID)
			continue
		}
		s, _ := d.plan.Survivor(r.Source.Node)
		d.say("%s range %d on node %d", kind, r.ID, s.Node)
		if err := d.step(ctx, s, kind, r.ID); err != nil {
			return fmt.Errorf("node %d (%s): %w", s.Node, s.Addr, err)
		}
	}
	return d.each(func(s Survivor) error {
		for ids := rest[s.Node]; len(ids) > 0; {
			n := min(len(ids), rangesAtOnce)
			d.say("%s %d range(s) on node %d", kind, n, s.Node)
			if err := d.step(ctx, s, kind, ids[:n]...); err != nil {
				return err
			}
			ids = ids[n:]
		}
		return nil
	})
}
