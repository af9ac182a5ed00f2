package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology/placement"
)

// showPolicies runs SHOW PLACEMENT POLICIES.
func (s *Session) showPolicies(ctx context.Context, out client.RowWriter) error {
	now, err := s.catalogView().Placement(ctx)
	if err != nil {
		return err
	}
	row := func(p *policies.Policy, kind string) error {
		used := len(now.Bindings.Uses(p.Name))
		return writeTexts(out, p.Name, kind, string(p.Survive), strconv.Itoa(p.Voters), strconv.Itoa(used))
	}
	for _, name := range slices.Sorted(maps.Keys(now.Policies)) {
		if err := row(now.Policies[name], "own"); err != nil {
			return err
		}
	}
	for _, name := range policies.Names() {
		p, err := policies.Ready(name)
		if err != nil {
			return err
		}
		if err := row(p, "ready"); err != nil {
			return err
		}
	}
	return nil
}

// showPolicy runs SHOW PLACEMENT POLICY.
func (s *Session) showPolicy(ctx context.Context, name string, out client.RowWriter) error {
	now, err := s.catalogView().Placement(ctx)
	if err != nil {
		return err
	}
	if p := now.Policy(name); p != nil {
		return writeTexts(out, p.Format())
	}
	if p := s.eng.cfg.Placement.Default(); p.Name == name {
		return writeTexts(out, p.Format())
	}
	return s.noPolicy(name, now)
}

// showPlacement runs SHOW PLACEMENT: what is in force for one object, or wherever a choice was made.
func (s *Session) showPlacement(ctx context.Context, st *parser.Statement, what *parser.PlacementObject, out client.RowWriter) error {
	now, err := s.catalogView().Placement(ctx)
	if err != nil {
		return err
	}
	objects := []policies.Object{{}}
	if what != nil {
		o, _, err := s.placementObject(ctx, st, what)
		if err != nil {
			return err
		}
		objects[0] = o
	} else {
		for o := range now.Bindings {
			if o != (policies.Object{}) {
				objects = append(objects, o)
			}
		}
		policies.SortObjects(objects)
	}
	for _, o := range objects {
		if err := s.showOne(ctx, now, o, out); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) showOne(ctx context.Context, now *catalog.Placement, o policies.Object, out client.RowWriter) error {
	name, err := s.catalogView().Describe(ctx, o)
	if err != nil || name == "" {
		return err // gone since
	}
	bound, at := now.Bindings.InForce(o)
	chosen, err := s.catalogView().Describe(ctx, at)
	if err != nil {
		return err
	}
	p, err := s.policyOf(now, bound)
	if err != nil {
		return err
	}
	if bound == "" {
		chosen = "nothing"
	}
	return writeTexts(out, name, p.Name, chosen, string(p.Survive), strconv.Itoa(p.Voters))
}

// explainPlacement runs EXPLAIN PLACEMENT.
func (s *Session) explainPlacement(ctx context.Context, st *parser.Statement, n *parser.ExplainPlacement, out client.RowWriter) error {
	o, _, err := s.placementObject(ctx, st, &n.Object)
	if err != nil {
		return err
	}
	view := s.catalogView()
	now, err := view.Placement(ctx)
	if err != nil {
		return err
	}
	name, err := view.Describe(ctx, o)
	if err != nil {
		return err
	}
	bound, at := now.Bindings.InForce(o)
	lines := []string{}
	if n.Policy != "" {
		if now.Policy(n.Policy) == nil {
			return s.noPolicy(n.Policy, now)
		}
		bound = n.Policy
		lines = append(lines, fmt.Sprintf("%s under policy %q", name, bound))
	} else if bound == "" {
		lines = append(lines, fmt.Sprintf("%s: no policy was chosen; this is the default", name))
	} else {
		where, err := view.Describe(ctx, at)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%s: policy %q, chosen for %s", name, bound, where))
	}
	p, err := s.policyOf(now, bound)
	if err != nil {
		return err
	}
	more, err := s.foresee(p, n.Policy != "")
	if err != nil {
		return err
	}
	moves, err := s.preview(ctx, o, p)
	if err != nil {
		return err
	}
	for _, line := range slices.Concat(lines, more, moves) {
		if err := writeTexts(out, line); err != nil {
			return err
		}
	}
	return nil
}

// foresee says in words what a policy survives and costs. One that is asked about must be possible;
// of one in force it is said if it no longer is.
func (s *Session) foresee(p *policies.Policy, asked bool) ([]string, error) {
	if asked {
		if err := s.checkPolicy(p); err != nil {
			return nil, err
		}
	}
	top, err := s.eng.cfg.Placement.Topology()
	if err != nil {
		return []string{"the nodes' zones have no usable names: " + err.Error()}, nil
	}
	outlook, err := p.Foresee(top)
	if err != nil {
		return []string{"it can't be kept by the zones there are: " + err.Error()}, nil
	}
	lines := []string{"survives the loss of " + outlook.Survives.String()}
	for _, z := range outlook.Zones {
		lines = append(lines, zoneLine(z))
	}
	return lines, nil
}

func zoneLine(z policies.ZoneOutlook) string {
	has := []string{}
	switch {
	case z.Role == policies.Witness && z.Voters > 1:
		has = append(has, strconv.Itoa(z.Voters)+" witnesses without data")
	case z.Role == policies.Witness && z.Voters > 0:
		has = append(has, "a witness without data")
	case z.Voters > 0:
		has = append(has, count(z.Voters, "voter"))
	}
	if z.NonVoters > 0 {
		has = append(has, count(z.NonVoters, "non-voter"))
	}
	if z.Lease {
		has = append(has, "leases")
	}
	if len(has) == 0 {
		has = append(has, "nothing")
	}
	line := fmt.Sprintf("zone %s (%s): %s; a commit from there: %s; a read: %s", z.Zone.Zone, z.Role, strings.Join(has, ", "), tripsText(z.Commit), tripsText(z.Read))
	if z.LocalReads {
		line += "; a read of the past (AS OF SYSTEM TIME follower_read_timestamp()): in the zone"
	}
	return line
}

// tripsText says how far something travels.
func tripsText(t placement.Trips) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{t.InZone, "in the zone"}, {t.CrossZone, "across zones"}, {t.CrossRegion, "across regions"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", count(p.n, "round trip"), p.what))
		}
	}
	if len(parts) == 0 {
		return "no round trip"
	}
	return strings.Join(parts, ", ")
}

// count writes a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// preview says what would move.
func (s *Session) preview(ctx context.Context, o policies.Object, p *policies.Policy) ([]string, error) {
	with, err := s.catalogView().PlacementMapWith(ctx, o, p.Name)
	if err != nil {
		return nil, err
	}
	m, err := CompilePlacement(s.eng.cfg.Placement, with, p)
	if err != nil {
		return nil, pgerror.Wrap(err, pgerrcode.ObjectNotInPrerequisiteState, "placement can't be computed: %s", err.Error())
	}
	spans := with.KeysOf(o)
	if len(spans) == 0 {
		return []string{"there is no data to move"}, nil
	}
	v, err := s.eng.cfg.Placement.Preview(ctx, m, spans)
	if err != nil {
		return nil, err
	}
	return v.lines(), nil
}

// CompilePlacement compiles policies and bindings, with the default where the cluster has none. also
// are policies that need not be bound.
func CompilePlacement(cluster Placement, p *catalog.PlacementMap, also ...*policies.Policy) (*policies.Map, error) {
	top, err := cluster.Topology()
	if err != nil {
		return nil, err
	}
	named, bindings := p.Named(), maps.Clone(p.Bindings)
	for _, policy := range also {
		named[policy.Name] = policy
	}
	if _, chosen := bindings[policies.Object{}]; !chosen {
		d := cluster.Default()
		named[d.Name], bindings[policies.Object{}] = d, d.Name
	}
	return policies.CompileAll(top, named, bindings, p.Spans)
}

func (v *PlacementPreview) lines() []string {
	lines := []string{fmt.Sprintf("holds %s, %s in each copy", count(v.Ranges, "range"), bytesText(v.Bytes))}
	if v.Splits > 0 {
		lines = append(lines, fmt.Sprintf("to split: %s, where policies meet", count(v.Splits, "time")))
	}
	if v.Changes == 0 && v.Splits == 0 {
		lines = append(lines, "nothing has to move")
	} else if v.Changes > 0 {
		lines = append(lines, fmt.Sprintf("to move: %s (%s), %s, %s; about %s", count(v.Copies, "new replica"), bytesText(v.CopiedBytes),
			count(v.Removed, "old one"), count(v.Leases, "lease"), v.TakesAbout.Round(time.Second)))
	}
	for _, reason := range v.Stuck {
		lines = append(lines, "stuck: "+reason)
	}
	if v.Unsettled != "" {
		lines = append(lines, "the computation did not come to an end: "+v.Unsettled)
	}
	return lines
}

// bytesText writes a size as people read it.
func bytesText(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d bytes", n)
	}
	size, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if size /= step; size < step {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", size, unit)
}
