package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/demo"
)

func zonesCommand() *cobra.Command {
	var t target
	var format string
	list := func(cmd *cobra.Command, _ []string) error {
		return runOn(cmd, &t, format, "SELECT * FROM atoll.zones ORDER BY region, zone")
	}
	cmd := &cobra.Command{
		Use:   "zones",
		Short: "Show every zone's state; kill, pause, isolate and heal a demo's zone",
		Args:  noArgs,
		RunE:  list,
	}
	t.flags(cmd)
	formatFlag(cmd, &format)
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "Show every zone's state, as the cluster sees it", Args: noArgs, RunE: list})
	for _, a := range []struct{ verb, short string }{
		{"kill", "Cut a zone's power: SIGKILL to its nodes"},
		{"pause", "Freeze a zone: SIGSTOP to its nodes"},
		{"isolate", "Cut a zone's network to the other zones, both ways"},
		{"heal", "Undo kill, pause and isolate"},
	} {
		cmd.AddCommand(&cobra.Command{
			Use:   a.verb + " ZONE",
			Short: a.short + " (a demo only)",
			Args:  exactArgs("ZONE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := demo.Dial(t.store)
				if err != nil {
					return err
				}
				zones, err := c.Act(cmd.Context(), args[0], a.verb)
				if err != nil {
					return err
				}
				return output(cmd, format, []table{processTable(zones)})
			},
		})
	}
	return cmd
}

// processTable shows what a demo did to its processes.
func processTable(zones []demo.ZoneStatus) table {
	t := table{columns: []string{"zone", "node", "process", "network", "sql", "restarts"}}
	for _, z := range zones {
		for _, n := range z.Nodes {
			network := "connected"
			if n.Isolated {
				network = "isolated"
			}
			t.rows = append(t.rows, []string{z.Zone, fmt.Sprint(n.Index), n.State, network, n.SQL, fmt.Sprint(n.Restarts)})
		}
	}
	return t
}

func nodeCommand() *cobra.Command {
	var t target
	var format string
	cmd := &cobra.Command{Use: "node", Short: "List, drain and decommission nodes", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	t.flags(cmd)
	formatFlag(cmd, &format)
	runSQL := func(cmd *cobra.Command, sql string) error { return runOn(cmd, &t, format, sql) }
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "Show every node", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return runSQL(cmd, "SELECT * FROM atoll.nodes ORDER BY node_id")
	}})
	cmd.AddCommand(&cobra.Command{Use: "jobs", Short: "Show copies on their way and nodes that are being decommissioned", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return runSQL(cmd, "SELECT * FROM atoll.jobs")
	}})
	var dead bool
	drain := &cobra.Command{Use: "drain NODE", Short: "Move leases and connections off a node, before it stops", Args: exactArgs("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNodeID(args[0]); err != nil {
				return err
			}
			return runSQL(cmd, "ALTER NODE "+args[0]+" DRAIN")
		}}
	decommission := &cobra.Command{Use: "decommission NODE", Short: "Move all replicas off a node to another of its zone, then forget it for ever", Args: exactArgs("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNodeID(args[0]); err != nil {
				return err
			}
			return runSQL(cmd, decommissionSQL(args[0], dead))
		}}
	decommission.Flags().BoolVar(&dead, "dead", false, "the node is gone and will never come back")
	cmd.AddCommand(drain, decommission, retireCommand(&t), waitReplicatedCommand(), waitTLSCommand())
	return cmd
}

func decommissionSQL(node string, dead bool) string {
	if dead {
		return "ALTER NODE " + node + " DECOMMISSION DEAD"
	}
	return "ALTER NODE " + node + " DECOMMISSION"
}

func checkNodeID(s string) error {
	if s == "" || strings.Trim(s, "0123456789") != "" || len(s) > 9 {
		return usageError{fmt.Errorf("%q is not a node ID: see atoll node list", s)}
	}
	return nil
}
