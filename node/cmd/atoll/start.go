package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/server"
)

func startCommand() *cobra.Command {
	var cfg server.Config
	cfg.EnsureDefaults()
	cfg.Advertise, cfg.SQLAdvertise, cfg.HTTPAdvertise = "", "", ""
	var locality, attributes, join, logLevel string
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run a node",
		Long: `Run a node. An empty store waits until "atoll init" founds a cluster with it, or until a node
named in --join admits it to an existing one; it never founds a cluster by itself.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(logLevel)
			if err != nil {
				return usageError{err}
			}
			cfg.Log = log
			if cfg.Region, cfg.Zone, err = server.ParseLocality(locality); err != nil {
				return usageError{err}
			}
			if cfg.Attributes, err = server.ParseAttributes(attributes); err != nil {
				return usageError{err}
			}
			if join != "" {
				cfg.Join = strings.Split(join, ",")
			}
			cfg.EnsureDefaults()
			if !cmd.Flags().Changed("zone-dead-after") {
				cfg.ZoneDeadAfter = max(cfg.ZoneDeadAfter, cfg.DeadAfter)
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			return server.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.StoreDir, "store", "", "folder of this node's data")
	f.StringVar(&locality, "locality", "", "where the node is: region=R,zone=Z")
	f.StringVar(&attributes, "attributes", "", "what the node is made of, for policies that ask for it: ssd,nvme")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "address for the other nodes")
	f.StringVar(&cfg.Advertise, "advertise", "", "the same as the other nodes reach it (default: --listen)")
	f.StringVar(&cfg.SQLListen, "sql-listen", cfg.SQLListen, "address for SQL clients")
	f.StringVar(&cfg.SQLAdvertise, "sql-advertise", "", "the same as clients reach it (default: --sql-listen)")
	f.StringVar(&cfg.HTTPListen, "http-listen", cfg.HTTPListen, "address for health, metrics and the console")
	f.StringVar(&cfg.HTTPAdvertise, "http-advertise", "", "the same as people reach it (default: --http-listen)")
	f.StringVar(&join, "join", "", "addresses of a few nodes, separated by commas")
	f.StringVar(&cfg.CertsDir, "certs", "", "folder with ca.crt, node.crt and node.key")
	f.BoolVar(&cfg.Insecure, "insecure", false, "no certificates and no passwords: for a demo on loopback")
	f.Int64Var(&cfg.CacheBytes, "cache", cfg.CacheBytes, "block cache in bytes")
	f.DurationVar(&cfg.MaxOffset, "max-offset", cfg.MaxOffset, "bound between the clocks of any two nodes; the same on every node")
	f.DurationVar(&cfg.Support, "support", cfg.Support, "how long a node's promise to another lasts: what a failover costs")
	f.Int64Var(&cfg.ReserveBytes, "disk-reserve", cfg.ReserveBytes, "free bytes on disk below which new writes are refused")
	f.BoolVar(&cfg.KeepReplicas, "keep-replicas", cfg.KeepReplicas, "do not move replicas only to even out the nodes of a zone")
	f.BoolVar(&cfg.NoRangeMerges, "no-range-merges", cfg.NoRangeMerges, "do not merge ranges that are small and quiet; set it on every node while some of them run a version that knows no merges")
	f.Int64Var(&cfg.RangeMaxBytes, "range-max-bytes", cfg.RangeMaxBytes, "size at which a range splits")
	f.Int64Var(&cfg.RangeMaxBatches, "range-max-batches", cfg.RangeMaxBatches, "batches of requests per second from other nodes at which a range splits, if that divides them")
	f.DurationVar(&cfg.GCTTL, "gc-ttl", cfg.GCTTL, "how long old versions are kept")
	f.DurationVar(&cfg.DeadAfter, "dead-after", cfg.DeadAfter, "how long a node is away, while others of its zone answer, before its replicas are made anew there")
	f.DurationVar(&cfg.ZoneDeadAfter, "zone-dead-after", cfg.ZoneDeadAfter, "how long all nodes of a zone are away before their replicas are made anew in other zones, where the policies allow that; at least --dead-after")
	f.DurationVar(&cfg.VolumeGoneAfter, "volume-gone-after", cfg.VolumeGoneAfter, "how long a node is away before its replicas are made anew if an empty node has taken its address: its volume is gone")
	f.Int64Var(&cfg.SnapshotBytesPerSecond, "snapshot-bytes-per-second", cfg.SnapshotBytesPerSecond, "how fast background copying may send from this node, and bring to it")
	f.IntVar(&cfg.MaxConnections, "max-connections", cfg.MaxConnections, "SQL clients at once")
	f.Int64Var(&cfg.QueryMemory, "query-memory", cfg.QueryMemory, "bytes of memory that one query may use")
	f.DurationVar(&cfg.ShutdownGrace, "shutdown-grace", cfg.ShutdownGrace, "how long a stop waits for leases and clients to leave")
	f.StringVar(&cfg.Revision, "revision", "", "shown in /api/overview: what rolls a change out waits for it")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&cfg.FaultInjection, "fault-injection", false, "let HTTP clients cut this node off: for demos and tests")
	return cmd
}

func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

func initCommand() *cobra.Command {
	var id, nodes, later, certs, passwordFile, password string
	var insecure bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Found a cluster with the named, empty nodes; repeating it is harmless",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var faults []error
			if _, err := uuid.Parse(id); err != nil {
				faults = append(faults, fmt.Errorf("--cluster-id %q is not a UUID: make one with uuidgen, and keep it", id))
			}
			if nodes == "" {
				faults = append(faults, errors.New("--nodes is empty: name the addresses of the initial nodes"))
			}
			if (certs == "") != insecure {
				faults = append(faults, errors.New("give exactly one of --certs and --insecure"))
			}
			if passwordFile != "" {
				var err error
				if password, err = readPassword(passwordFile); err != nil {
					faults = append(faults, err)
				}
			}
			if err := errors.Join(faults...); err != nil {
				return usageError{err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			stands, err := server.Found(ctx, id, strings.Split(nodes, ","), fields(later), certs, password, func(err error) {
				fmt.Fprintf(cmd.ErrOrStderr(), "waiting, %v at most: %v\n", timeout, err)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s stands with %d nodes\n", id, len(stands.Nodes))
			for _, m := range stands.Nodes {
				fmt.Fprintf(cmd.OutOrStdout(), "  node %d  %s  region=%s,zone=%s\n", m.ID, m.Addr, m.Region, m.Zone)
			}
			for _, addr := range stands.Empty {
				fmt.Fprintf(cmd.OutOrStdout(), "  empty   %s  joins as a new node\n", addr)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&id, "cluster-id", "", "the cluster's UUID")
	f.StringVar(&nodes, "nodes", "", "addresses (--advertise) of the initial nodes, separated by commas")
	f.StringVar(&later, "later", "", "addresses of nodes that may have joined since: where one of them belongs to the cluster it stands, even if all initial nodes are gone")
	f.StringVar(&certs, "certs", "", "folder with ca.crt, node.crt and node.key")
	f.BoolVar(&insecure, "insecure", false, "the nodes run without certificates")
	f.StringVar(&passwordFile, "password-file", "", "file with the first password of role postgres; a cluster that stands keeps its own (ALTER ROLE changes it)")
	f.DurationVar(&timeout, "timeout", time.Minute, "how long to try")
	return cmd
}

// maxPassword is the longest password in bytes; PostgreSQL's clients send no longer ones.
const maxPassword = 1024

// readPassword reads a file with a password, without the line end that editors add.
func readPassword(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	p := strings.TrimRight(string(b), "\r\n")
	if p == "" || len(p) > maxPassword || strings.ContainsAny(p, "\r\n\x00") {
		return "", fmt.Errorf("--password-file %s has a password of %d bytes: want one line of 1 to %d bytes", path, len(p), maxPassword)
	}
	return p, nil
}
