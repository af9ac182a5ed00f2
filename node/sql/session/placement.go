package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// Placement is what placement policies need to know of the cluster. The server implements it.
type Placement interface {
	// Topology returns the zones and nodes that policies are checked against.
	Topology() (topology.Topology, error)
	// Default is the policy of a cluster that none is bound to.
	Default() *policies.Policy
	// Preview computes what a map would change about the ranges that hold the keys of some spans,
	// without moving anything.
	Preview(ctx context.Context, m *policies.Map, spans []policies.Span) (PlacementPreview, error)
}

// PlacementPreview is what would be moved.
type PlacementPreview struct {
	Ranges      int
	Bytes       int64 // of one copy of each
	Splits      int   // of ranges in which several policies hold
	Changes     int   // of all kinds; 0: all is in its place
	Copies      int   // replicas to make
	CopiedBytes int64
	Removed     int // replicas to remove
	Leases      int // to move
	TakesAbout  time.Duration
	// Stuck says what can't be done, at most a few.
	Stuck []string
	// Unsettled is why the computation did not come to an end; empty: it did.
	Unsettled string
}

// textColumns describes rows of texts.
func textColumns(names ...string) []client.Column {
	out := make([]client.Column, len(names))
	for i, n := range names {
		out[i] = client.Column{Name: n, Type: types.OIDText, TypeLen: -1, TypeMod: -1}
	}
	return out
}

func writeTexts(out client.RowWriter, values ...string) error {
	row := make([]types.Datum, len(values))
	for i, v := range values {
		row[i] = types.NewString(v)
	}
	return out.WriteRow(row)
}

// placementCommand returns what one of the placement statements does; nil for others.
func (s *Session) placementCommand(st *parser.Statement) *command {
	change := func(tag string, f func(context.Context) error) *command {
		return &command{catalog: true, run: func(ctx context.Context, _ client.RowWriter) (string, error) {
			return tag, s.changePlacement(ctx, f)
		}}
	}
	show := func(tag string, columns []client.Column, f func(context.Context, client.RowWriter) error) *command {
		return &command{catalog: true, columns: columns, run: func(ctx context.Context, out client.RowWriter) (string, error) {
			if s.eng.cfg.Placement == nil {
				return "", errNoPlacement()
			}
			if err := s.loadRole(ctx); err != nil {
				return "", err
			}
			return tag, f(ctx, out)
		}}
	}
	switch n := st.Atoll.(type) {
	case *parser.CreatePolicy:
		return change("CREATE PLACEMENT POLICY", func(ctx context.Context) error { return s.createPolicy(ctx, n) })
	case *parser.AlterPolicy:
		return change("ALTER PLACEMENT POLICY", func(ctx context.Context) error { return s.alterPolicy(ctx, n) })
	case *parser.DropPolicy:
		return change("DROP PLACEMENT POLICY", func(ctx context.Context) error { return s.dropPolicy(ctx, n) })
	case *parser.SetPolicy:
		tag := map[parser.PlacementKind]string{parser.PlacementOfCluster: "ALTER CLUSTER", parser.PlacementOfDatabase: "ALTER DATABASE",
			parser.PlacementOfTable: "ALTER TABLE", parser.PlacementOfIndex: "ALTER INDEX"}[n.Object.Kind]
		return change(tag, func(ctx context.Context) error { return s.setPolicy(ctx, st, n) })
	case *parser.ShowPolicies:
		return show("SHOW", textColumns("policy", "kind", "survive", "voters", "used_by"), s.showPolicies)
	case *parser.ShowPolicy:
		return show("SHOW", textColumns("definition"), func(ctx context.Context, out client.RowWriter) error { return s.showPolicy(ctx, n.Name, out) })
	case *parser.ShowPlacement:
		return show("SHOW", textColumns("object", "policy", "chosen_for", "survive", "voters"), func(ctx context.Context, out client.RowWriter) error {
			return s.showPlacement(ctx, st, n.Object, out)
		})
	case *parser.ExplainPlacement:
		return show("EXPLAIN", textColumns("PLACEMENT"), func(ctx context.Context, out client.RowWriter) error { return s.explainPlacement(ctx, st, n, out) })
	}
	return nil
}

func errNoPlacement() error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "this node does not place data")
}

// changePlacement runs a change of policies or bindings, one after the other in the whole cluster.
func (s *Session) changePlacement(ctx context.Context, f func(context.Context) error) error {
	if s.eng.cfg.Placement == nil {
		return errNoPlacement()
	}
	if s.tx.readOnly {
		return readOnlyViolation("this statement")
	}
	if err := s.loadRole(ctx); err != nil {
		return err
	}
	if err := s.catalogView().LockPlacement(ctx); err != nil {
		return err
	}
	return f(ctx)
}

func (s *Session) superuserOnly(what string) error {
	if s.role.Superuser {
		return nil
	}
	return pgerror.New(pgerrcode.InsufficientPrivilege, "must be superuser to %s", what)
}

// skipped tells the client that a statement did nothing.
func (s *Session) skipped(format string, args ...any) {
	definer{s: s}.Notice("NOTICE", pgerrcode.SuccessfulCompletion, fmt.Sprintf(format, args...))
}

// createPolicy runs CREATE PLACEMENT POLICY.
func (s *Session) createPolicy(ctx context.Context, n *parser.CreatePolicy) error {
	if err := s.superuserOnly("create a placement policy"); err != nil {
		return err
	}
	view := s.catalogView()
	now, err := view.Placement(ctx)
	if err != nil {
		return err
	}
	if now.Policies[n.Name] != nil && !n.Replace {
		if n.IfNotExists {
			s.skipped("placement policy %q already exists, skipping", n.Name)
			return nil
		}
		return pgerror.New(pgerrcode.DuplicateObject, "placement policy %q already exists", n.Name)
	}
	if _, err := policies.Ready(n.Name); err == nil || n.Name == s.eng.cfg.Placement.Default().Name {
		return pgerror.New(pgerrcode.DuplicateObject, "placement policy %q is a ready one, which can't be replaced", n.Name).
			WithHint("Choose another name, or use it as it is: ALTER ... SET PLACEMENT POLICY '%s'.", n.Name)
	}
	if len(now.Policies) >= catalog.MaxPolicies && now.Policies[n.Name] == nil {
		return pgerror.New(pgerrcode.ProgramLimitExceeded, "there are %d placement policies already, the most that a cluster may have; drop some", len(now.Policies))
	}
	base := &policies.Policy{Name: n.Name, Survive: policies.SurviveZone, Voters: policies.DefaultVoters}
	p, err := s.definePolicy(base, &n.Definition)
	if err != nil {
		return err
	}
	return view.PutPolicy(ctx, p)
}

// alterPolicy runs ALTER PLACEMENT POLICY.
func (s *Session) alterPolicy(ctx context.Context, n *parser.AlterPolicy) error {
	if err := s.superuserOnly("change a placement policy"); err != nil {
		return err
	}
	view := s.catalogView()
	now, err := view.Placement(ctx)
	if err != nil {
		return err
	}
	old := now.Policies[n.Name]
	if old == nil {
		return s.noPolicy(n.Name, now)
	}
	p, err := s.definePolicy(old, &n.Definition)
	if err != nil {
		return err
	}
	return view.PutPolicy(ctx, p)
}

// definePolicy reads a definition and refuses what can't be carried out.
func (s *Session) definePolicy(base *policies.Policy, d *parser.PolicyDefinition) (*policies.Policy, error) {
	var p *policies.Policy
	var err error
	if len(d.Options) == 0 {
		if p, err = policies.Read(base.Name, []byte(d.Text)); err == nil && p.Name != base.Name {
			err = fmt.Errorf("the text is of the policy %q, the statement is about %q; name the same", p.Name, base.Name)
		}
	} else {
		options := make([]policies.Option, len(d.Options))
		for i, o := range d.Options {
			options[i] = policies.Option{Key: o.Key, Value: o.Value}
		}
		p, err = base.With(options...)
	}
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return nil, policyFaults(pgerrcode.InvalidParameterValue, base.Name, err)
	}
	return p, s.checkPolicy(p)
}

// checkPolicy refuses a policy that the cluster's zones can't satisfy, or that this version can't
// carry out.
func (s *Session) checkPolicy(p *policies.Policy) error {
	top, err := s.eng.cfg.Placement.Topology()
	if err != nil {
		return pgerror.Wrap(err, pgerrcode.ObjectNotInPrerequisiteState, "placement policies need zones with names: %s", err.Error()).
			WithHint("Start every node with --zone, and zones of different regions with different names.")
	}
	if err := p.Check(top); err != nil {
		return policyFaults(pgerrcode.ObjectNotInPrerequisiteState, p.Name, err)
	}
	return nil
}

// policyFaults makes one error of several: the first is the message, all are the detail.
func policyFaults(code, name string, err error) error {
	lines := strings.Split(err.Error(), "\n")
	first := strings.TrimPrefix(lines[0], fmt.Sprintf("policy %q: ", name))
	pe := pgerror.New(code, "placement policy %q: %s", name, first)
	if len(lines) > 1 {
		pe = pe.WithDetail("%s", strings.Join(lines, "\n"))
	}
	return pe
}

func (s *Session) noPolicy(name string, now *catalog.Placement) error {
	if _, err := policies.Ready(name); err == nil {
		return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "placement policy %q is a ready one and can't be changed or dropped", name).
			WithHint("SHOW PLACEMENT POLICY '%s' gives its text; create one of your own from it under another name.", name)
	}
	own := slices.Sorted(maps.Keys(now.Policies))
	own = own[:min(len(own), 20)]
	return pgerror.New(pgerrcode.UndefinedObject, "placement policy %q does not exist", name).
		WithHint("There are: %s. SHOW PLACEMENT POLICIES lists all.", strings.Join(append(own, policies.Names()...), ", "))
}

// dropPolicy runs DROP PLACEMENT POLICY.
func (s *Session) dropPolicy(ctx context.Context, n *parser.DropPolicy) error {
	if err := s.superuserOnly("drop a placement policy"); err != nil {
		return err
	}
	view := s.catalogView()
	now, err := view.Placement(ctx)
	if err != nil {
		return err
	}
	if now.Policies[n.Name] == nil {
		if n.IfExists {
			s.skipped("placement policy %q does not exist, skipping", n.Name)
			return nil
		}
		return s.noPolicy(n.Name, now)
	}
	return view.DropPolicy(ctx, n.Name, now)
}

// setPolicy runs ALTER ... SET PLACEMENT POLICY.
func (s *Session) setPolicy(ctx context.Context, st *parser.Statement, n *parser.SetPolicy) error {
	o, owned, err := s.placementObject(ctx, st, &n.Object)
	if err != nil {
		return err
	}
	view := s.catalogView()
	if owned == nil {
		err = s.superuserOnly("choose the cluster's placement policy")
	} else {
		err = view.CheckOwner(ctx, s.roleID, owned)
	}
	if err != nil {
		return err
	}
	now, err := view.Placement(ctx)
	if err != nil {
		return err
	}
	if n.Policy != "" {
		p := now.Policy(n.Policy)
		if p == nil {
			return s.noPolicy(n.Policy, now)
		}
		if err := s.checkPolicy(p); err != nil {
			return err
		}
		if _, bound := now.Bindings[o]; !bound && len(now.Bindings) >= catalog.MaxBindings {
			return pgerror.New(pgerrcode.ProgramLimitExceeded, "%d objects have a placement policy of their own, the most that may", len(now.Bindings)).
				WithHint("Bind policies to databases rather than to each table.")
		}
	}
	return view.BindPolicy(ctx, o, n.Policy)
}

// checkLeaving refuses to decommission a node without which a policy in force can't be kept: its
// replicas would have nowhere to go. One whose node is dead is replaced as well as possible.
func (s *Session) checkLeaving(ctx context.Context, node int32) error {
	if s.eng.cfg.Placement == nil {
		return nil
	}
	before, err := s.eng.cfg.Placement.Topology()
	if err != nil {
		return nil // zones without names have no policies but the default
	}
	after, err := topology.FromNodes(slices.DeleteFunc(before.Nodes(), func(n topology.Node) bool { return n.ID == node })...)
	if err != nil {
		return err
	}
	now, err := s.catalogView().Placement(ctx)
	if err != nil {
		return err
	}
	inForce := now.Named()
	if _, chosen := now.Bindings[policies.Object{}]; !chosen {
		inForce[""] = s.eng.cfg.Placement.Default()
	}
	for _, name := range slices.Sorted(maps.Keys(inForce)) {
		if err := inForce[name].CheckLeaving(before, after); err != nil {
			return pgerror.Wrap(err, pgerrcode.ObjectNotInPrerequisiteState, "node %d can't be decommissioned: without it, %s", node, err.Error()).
				WithHint("Add a node that takes its place, or choose another placement policy first. If the node is gone for good: ALTER NODE %d DECOMMISSION DEAD.", node)
		}
	}
	return nil
}

// placementObject finds what a statement is about. owned is nil for the cluster, and the table for
// an index.
func (s *Session) placementObject(ctx context.Context, st *parser.Statement, p *parser.PlacementObject) (policies.Object, catalog.Descriptor, error) {
	view := s.catalogView()
	switch p.Kind {
	case parser.PlacementOfDatabase:
		db, err := view.ResolveDatabase(ctx, p.Name)
		if err != nil {
			return policies.Object{}, nil, err
		}
		return policies.Object{Database: int64(db.ID)}, db, nil
	case parser.PlacementOfTable:
		t, err := view.ResolveTable(ctx, s.catalogPath(), p.Relation.Schemaname, p.Relation.Relname, st.Position(p.Relation.Location))
		if err != nil {
			return policies.Object{}, nil, err
		}
		return policies.Object{Database: int64(t.Database), Table: int64(t.ID)}, t, nil
	case parser.PlacementOfIndex:
		r, err := view.ResolveRelation(ctx, s.catalogPath(), p.Relation.Schemaname, p.Relation.Relname)
		if err != nil {
			return policies.Object{}, nil, err
		}
		if r == nil || r.Index == nil || r.Table == nil {
			return policies.Object{}, nil, pgerror.New(pgerrcode.UndefinedObject, "index %q does not exist", p.Relation.Relname).At(st.Position(p.Relation.Location))
		}
		return policies.Object{Database: int64(r.Table.Database), Table: int64(r.Table.ID), Index: int64(r.Index.ID)}, r.Table, nil
	}
	return policies.Object{}, nil, nil
}

// policyOf returns a policy that is in force somewhere: "" is the default.
func (s *Session) policyOf(now *catalog.Placement, name string) (*policies.Policy, error) {
	if name == "" {
		return s.eng.cfg.Placement.Default(), nil
	}
	if p := now.Policy(name); p != nil {
		return p, nil
	}
	return nil, errors.New("placement policy " + name + " is bound but missing")
}
