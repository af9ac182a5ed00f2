package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/demo"
)

func demoCommand() *cobra.Command {
	cfg := demo.Config{}
	cfg.EnsureDefaults()
	zones := strings.Join(cfg.Zones, ",")
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run three zones on this machine, a process per node",
		Long: `Run a whole cluster on this machine until Ctrl-C, a process per node. Its data survives: the
same command opens it again. Node k (from 0) serves SQL on --sql-port+k and HTTP on --http-port+k.
The superuser is postgres, without a password, on loopback only.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Zones = strings.Split(zones, ",")
			cfg.Out = cmd.OutOrStdout()
			if !cmd.Flags().Changed("peer-port") {
				cfg.PeerPort = cfg.SQLPort + 100
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Binary = exe
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			fmt.Fprintf(cfg.Out, "starting %d nodes in %s ...\n", len(cfg.Zones)*cfg.NodesPerZone, cfg.Store)
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&zones, "zones", zones, "zones, separated by commas")
	f.IntVar(&cfg.NodesPerZone, "nodes-per-zone", cfg.NodesPerZone, "nodes in each zone")
	f.IntVar(&cfg.SQLPort, "sql-port", cfg.SQLPort, "SQL port of the first node")
	f.IntVar(&cfg.HTTPPort, "http-port", cfg.HTTPPort, "HTTP port of the first node")
	f.IntVar(&cfg.PeerPort, "peer-port", cfg.PeerPort, "port between nodes of the first node (default: --sql-port + 100)")
	f.StringVar(&cfg.Store, "store", cfg.Store, "folder of all nodes' data")
	f.DurationVar(&cfg.ReadyTimeout, "ready-timeout", cfg.ReadyTimeout, "how long the cluster may take to serve SQL")
	f.StringArrayVar(&cfg.ExtraArgs, "node-arg", nil, "one more argument for every node's atoll start (repeatable)")
	return cmd
}
