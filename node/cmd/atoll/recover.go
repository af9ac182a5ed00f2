package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/demo"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/recovery"
	"github.com/atolldb/atoll/node/server"
)

// recoverTarget says which nodes are asked, over the port between nodes: there may be no SQL.
type recoverTarget struct {
	nodes, certs, store, format string
	insecure                    bool
}

func recoverCommand() *cobra.Command {
	t := &recoverTarget{}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Get a cluster back that has lost quorums for good, knowing what may be lost",
		Long: `Get a cluster back that has lost the quorums of ranges for good, for instance with the volumes of two zones of three.
"recover plan" shows what can be had back, and from which replicas; nothing is changed. "recover apply" carries a plan
out. "recover report" says how far the cluster is. The nodes that are left keep running. Nodes that are given up can
never come back: where there is a chance that they do, wait for them instead.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&t.nodes, "nodes", "", "addresses between nodes (--listen) of one or more that run, separated by commas (default: the demo's in --store)")
	f.StringVar(&t.certs, "certs", "", "folder with ca.crt, and a node's node.crt and node.key")
	f.BoolVar(&t.insecure, "insecure", false, "the cluster has no certificates")
	f.StringVar(&t.store, "store", demo.DefaultStore(), "folder of the demo")
	formatFlag(cmd, &t.format)
	cmd.AddCommand(recoverPlanCommand(t), recoverApplyCommand(t), recoverReportCommand(t))
	return cmd
}

// addrs returns whom to ask first.
func (t *recoverTarget) addrs() ([]string, error) {
	if t.nodes != "" {
		if (t.certs == "") != t.insecure {
			return nil, usageError{errors.New("give exactly one of --certs and --insecure")}
		}
		return strings.Split(t.nodes, ","), nil
	}
	if t.certs != "" || t.insecure {
		return nil, usageError{errors.New("--nodes is empty: name the addresses of nodes that run")}
	}
	p, err := demo.ReadPlan(t.store)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{fmt.Errorf("there is no demo in %s: name nodes with --nodes, and --certs or --insecure", t.store)}
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range p.Members() {
		out = append(out, m.Peer)
	}
	return out, nil
}

// ask collects inventories, and says who did not answer.
func (t *recoverTarget) ask(cmd *cobra.Command, also ...string) ([]recovery.Inventory, error) {
	addrs, err := t.addrs()
	if err != nil {
		return nil, err
	}
	nodes, err := server.NewRecovery(t.certs)
	if err != nil {
		return nil, err
	}
	defer nodes.Close()
	found, silent := recovery.Ask(cmd.Context(), nodes, slices.Concat(addrs, also))
	for _, a := range slices.Sorted(mapKeys(silent)) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s gives no inventory: %v\n", a, silent[a])
	}
	if err := cmd.Context().Err(); err != nil {
		return nil, err
	}
	return found, nil
}

func mapKeys(m map[string]error) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func recoverPlanCommand(t *recoverTarget) *cobra.Command {
	var lost, out string
	var accept bool
	cmd := &cobra.Command{Use: "plan --out FILE", Short: "Work out what can be had back, from which replicas, and what may be lost; changes nothing", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ids, err := parseNodeIDs(lost)
			if err != nil {
				return err
			}
			if out == "" {
				return usageError{errors.New("--out is empty: name the file for the plan, which recover apply takes")}
			}
			found, err := t.ask(cmd)
			if err != nil {
				return err
			}
			p, err := recovery.Make(recovery.Input{Inventories: found, Lost: ids, AcceptLostSpans: accept, Now: time.Now()})
			if err != nil {
				return err
			}
			b, err := p.Encode()
			if err != nil {
				return err
			}
			if err := writeNew(out, b); err != nil {
				return err
			}
			if t.format == "json" {
				_, err = cmd.OutOrStdout().Write(b)
				return err
			}
			p.WriteText(cmd.OutOrStdout())
			fmt.Fprintf(cmd.OutOrStdout(), "\nNothing is changed yet. The plan is in %s; atoll recover apply %s carries it out.\n", out, out)
			return nil
		}}
	cmd.Flags().StringVar(&lost, "lost", "", "IDs of the nodes whose data is gone for good, separated by commas (default: all that do not answer)")
	cmd.Flags().StringVar(&out, "out", "", "file for the plan; it must not exist")
	cmd.Flags().BoolVar(&accept, "accept-lost-spans", false, "make a plan although no replica of some keys is left; they stay unavailable")
	return cmd
}

// writeNew writes a file that does not exist yet: a plan is not overwritten by another one.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// parseNodeIDs returns nil for an empty list.
func parseNodeIDs(s string) ([]keys.NodeID, error) {
	if s == "" {
		return nil, nil
	}
	var out []keys.NodeID
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(f), 10, 32)
		if err != nil || n <= 0 {
			return nil, usageError{fmt.Errorf("--lost: %q is not a node ID", f)}
		}
		out = append(out, keys.NodeID(n))
	}
	return out, nil
}

func readPlan(path string) (*recovery.Plan, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, recovery.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	p, err := recovery.DecodePlan(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func recoverApplyCommand(t *recoverTarget) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "apply PLAN", Short: "Carry a plan out; after an interruption, the same command goes on", Args: exactArgs("PLAN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPlan(args[0])
			if err != nil {
				return err
			}
			if _, err := t.addrs(); err != nil {
				return err
			}
			p.WriteText(cmd.ErrOrStderr())
			if !yes {
				if err := approve(cmd, p); err != nil {
					return err
				}
			}
			nodes, err := server.NewRecovery(t.certs)
			if err != nil {
				return err
			}
			defer nodes.Close()
			err = recovery.Apply(cmd.Context(), nodes, p, func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) })
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The plan is carried out. atoll recover report %s says when every range has its copies again.\n", args[0])
			return nil
		}}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// approve wants the cluster's ID to be typed: nobody does that by habit.
func approve(cmd *cobra.Command, p *recovery.Plan) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "\nThis can't be undone. To carry it out, type the cluster's ID (%s): ", p.ClusterID)
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if got := strings.TrimSpace(line); got != p.ClusterID {
		return fmt.Errorf("%q is not the cluster's ID: nothing is changed. To carry the plan out without being asked, add --yes", got)
	}
	return nil
}

func recoverReportCommand(t *recoverTarget) *cobra.Command {
	return &cobra.Command{Use: "report [PLAN]", Short: "Say which ranges are back and which keys are not; exit code 0 only if all is whole",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s takes at most one plan: see %s --help", cmd.CommandPath(), cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var p *recovery.Plan
			var also []string
			if len(args) == 1 {
				var err error
				if p, err = readPlan(args[0]); err != nil {
					return err
				}
				for _, s := range p.Survivors {
					also = append(also, s.Addr)
				}
			}
			found, err := t.ask(cmd, also...)
			if err != nil {
				return err
			}
			s, err := recovery.Look(found, p)
			if err != nil {
				return err
			}
			if t.format == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			} else {
				s.WriteText(cmd.OutOrStdout())
			}
			if err == nil && !s.Whole {
				err = errors.New("not everything is back yet")
			}
			return err
		}}
}
