package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// policyFlags say which policy is meant, and for what.
type policyFlags struct {
	text   string // instead of a file
	as     string
	target string // --for
}

func policyCommand() *cobra.Command {
	var t target
	var format string
	cmd := &cobra.Command{Use: "policy", Short: "Check, preview and apply placement policies", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	t.flags(cmd)
	formatFlag(cmd, &format)
	show := func(use, short string, args cobra.PositionalArgs, sql func([]string) string) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			return runOn(cmd, &t, format, sql(args))
		}})
	}
	show("list", "Show the policies that there are", noArgs, func([]string) string { return "SHOW PLACEMENT POLICIES" })
	show("show NAME", "Show a policy's text", exactArgs("NAME"), func(args []string) string { return "SHOW PLACEMENT POLICY " + policies.Literal(args[0]) })
	show("placement", "Show which policy holds for what", noArgs, func([]string) string { return "SHOW PLACEMENT" })
	cmd.AddCommand(validateCommand(), previewCommand(&t, &format), applyCommand(&t))
	return cmd
}

// args takes a file or a name, or nothing with --text.
func (p *policyFlags) args(cmd *cobra.Command, args []string) error {
	if (p.text == "") == (len(args) != 1) {
		return usageError{fmt.Errorf("%s takes a policy's file or name, or --text: see %s --help", cmd.CommandPath(), cmd.CommandPath())}
	}
	return nil
}

// read returns the policy that is meant: a file's, a text's, or a ready one.
func (p *policyFlags) read(args []string) (*policies.Policy, error) {
	name, text := "--text", []byte(p.text)
	if len(args) == 1 {
		name = args[0]
		var err error
		if text, err = os.ReadFile(name); err != nil {
			if ready, none := policies.Ready(name); none == nil {
				return ready, nil
			}
			if errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("%s is neither a file nor a ready policy; the ready ones are %s", name, strings.Join(policies.Names(), ", "))
			}
			return nil, err
		}
	}
	policy, err := policies.Read(name, text)
	if err != nil {
		return nil, err
	}
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	if p.as != "" {
		policy.Name = p.as
	}
	return policy, nil
}

// object returns --for as SQL has it: CLUSTER, DATABASE d, TABLE t or INDEX i.
func (p *policyFlags) object() (string, error) {
	kind, name, _ := strings.Cut(strings.TrimSpace(p.target), " ")
	kind, name = strings.ToUpper(kind), strings.TrimSpace(name)
	if kind == "CLUSTER" && name == "" {
		return kind, nil
	}
	if !slices.Contains([]string{"DATABASE", "TABLE", "INDEX"}, kind) || name == "" || strings.ContainsAny(name, "; ") {
		return "", usageError{fmt.Errorf("--for %q: use cluster, \"database NAME\", \"table NAME\" or \"index NAME\"", p.target)}
	}
	return kind + " " + name, nil
}

// both returns the policy that is meant, and for what.
func (p *policyFlags) both(args []string) (*policies.Policy, string, error) {
	policy, err := p.read(args)
	if err != nil {
		return nil, "", err
	}
	object, err := p.object()
	return policy, object, err
}

func (p *policyFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.text, "text", "", "the policy itself, instead of a file")
	cmd.Flags().StringVar(&p.as, "as", "", "the name to give it, instead of its own")
	cmd.Flags().StringVar(&p.target, "for", "cluster", `what it is for: cluster, "database NAME", "table NAME" or "index NAME"`)
}

func validateCommand() *cobra.Command {
	var zones []string
	cmd := &cobra.Command{Use: "validate FILE", Short: "Check a policy's file, and with --zones whether zones can satisfy it; needs no cluster", Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := (&policyFlags{}).read(args)
			if err != nil {
				return err
			}
			if len(zones) == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "policy %q is well-formed; --zones checks it against zones\n", p.Name)
				return nil
			}
			top, err := parseTopology(zones)
			if err != nil {
				return usageError{err}
			}
			if err := p.Check(top); err != nil {
				return err
			}
			outlook, err := p.Foresee(top)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "policy %q can be kept; it survives the loss of %s\n", p.Name, outlook.Survives)
			return nil
		}}
	cmd.Flags().StringSliceVar(&zones, "zones", nil, "zones and their numbers of nodes: region/zone:nodes,...")
	return cmd
}

// parseTopology reads region/zone:nodes.
func parseTopology(in []string) (topology.Topology, error) {
	var zones []topology.Zone
	for _, s := range in {
		place, count, counted := strings.Cut(s, ":")
		region, zone, split := strings.Cut(place, "/")
		if !split {
			region, zone = topology.DefaultRegion, place
		}
		n := 1
		if counted {
			var err error
			if n, err = strconv.Atoi(count); err != nil || n < 0 || n > topology.MaxNodesPerZone {
				return topology.Topology{}, fmt.Errorf("--zones: %q: want region/zone:nodes, with 0 to %d nodes", s, topology.MaxNodesPerZone)
			}
		}
		z := topology.Zone{Name: zone, Region: region}
		for i := range n {
			z.Nodes = append(z.Nodes, topology.Node{Name: fmt.Sprintf("%s-%d", zone, i), Locality: z.Locality()})
		}
		zones = append(zones, z)
	}
	return topology.New(zones...)
}

func previewCommand(t *target, format *string) *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{Use: "preview FILE|NAME", Short: "Show what a policy would survive, cost and move, without moving anything", Args: p.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, object, err := p.both(args)
			if err != nil {
				return err
			}
			conn, err := t.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(cmd.Context()))
			tables, err := query(cmd.Context(), conn, policy.PreviewSQL(object))
			if err != nil {
				return err
			}
			return output(cmd, *format, slices.DeleteFunc(tables, func(t table) bool { return len(t.columns) == 0 }))
		}}
	p.flags(cmd)
	return cmd
}

func applyCommand(t *target) *cobra.Command {
	var p policyFlags
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{Use: "apply FILE|NAME", Short: "Store a policy and choose it for the cluster, a database, a table or an index", Args: p.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, object, err := p.both(args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			conn, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if _, err := query(ctx, conn, "BEGIN;"+policy.CreateSQL()+"ALTER "+object+" SET PLACEMENT POLICY "+policies.Literal(policy.Name)+";COMMIT"); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "policy %q is chosen for %s\n", policy.Name, strings.ToLower(object))
			if !wait {
				return nil
			}
			return awaitPlacement(ctx, cmd, t, object)
		}}
	p.flags(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until everything is where the policy wants it")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long all of it may take")
	return cmd
}

const placementLook = 2 * time.Second // between looks at what has still to move

// awaitPlacement returns once nothing has to move any more. Each look has its own connection: nodes
// may restart meanwhile.
func awaitPlacement(ctx context.Context, cmd *cobra.Command, t *target, object string) error {
	last := ""
	for {
		left, err := leftToMove(ctx, t, object)
		if err != nil {
			left = err.Error()
		}
		if left == "" {
			fmt.Fprintln(cmd.OutOrStdout(), "everything is where the policy wants it")
			return nil
		}
		if left != last && ctx.Err() == nil {
			last = left
			fmt.Fprintln(cmd.OutOrStdout(), left)
		}
		select {
		case <-time.After(placementLook):
		case <-ctx.Done():
			return fmt.Errorf("not everything is where the policy wants it yet (%s); it goes on by itself: see atoll.placement_violations: %w", last, ctx.Err())
		}
	}
}

// leftToMove returns what is left to do, in words; empty if nothing is.
func leftToMove(ctx context.Context, t *target, object string) (string, error) {
	conn, err := t.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tables, err := query(ctx, conn, "EXPLAIN PLACEMENT FOR "+object)
	return unfinished(tables), err
}

// unfinished returns what EXPLAIN PLACEMENT says is left to do; empty if nothing is.
func unfinished(tables []table) string {
	var left []string
	for _, t := range tables {
		for _, row := range t.rows {
			for _, prefix := range []string{"to move: ", "stuck: ", "to split: ", "the computation did not"} {
				if strings.HasPrefix(row[0], prefix) {
					left = append(left, row[0])
				}
			}
		}
	}
	return strings.Join(left, "; ")
}
