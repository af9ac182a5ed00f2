// Command bench measures Atoll with three nodes beside PostgreSQL with two synchronous
// standbys (ANY 1) on the same machine: pgbench's TPC-B, select-only and a single-row insert,
// interleaved in one run, as ratios of the medians over rounds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	pgBin     string
	atoll     string
	dir       string
	scale     int
	seconds   int
	rounds    int
	clients   []int
	workloads []string
	keep      bool
	noPeer    bool
	far       bool
	join      bool
	firstPort int // the demo's first SQL port
	nodeArgs  []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	var clients, workloads, nodeArgs string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.pgBin, "pg-bin", "/usr/lib/postgresql/15/bin", "folder of PostgreSQL's server binaries")
	f.StringVar(&o.atoll, "atoll", "bin/atoll", "the atoll binary")
	f.StringVar(&o.dir, "dir", "", "folder for both databases' data (default: a temporary one)")
	f.IntVar(&o.scale, "scale", 10, "pgbench scale")
	f.IntVar(&o.seconds, "seconds", 10, "length of one measurement")
	f.IntVar(&o.rounds, "rounds", 3, "measurements of each; the median counts")
	f.StringVar(&clients, "clients", "1,8,32", "numbers of clients")
	f.StringVar(&workloads, "workloads", "select,insert,tpcb", "which of select, insert, tpcb, past (select at the nearest replica, as of some seconds ago)")
	f.BoolVar(&o.keep, "keep", false, "leave the data folder")
	f.BoolVar(&o.far, "far", false, "measure Atoll also through a zone that holds no lease")
	f.BoolVar(&o.join, "join", false, "measure only how long it takes until nodes that join have their share")
	f.BoolVar(&o.noPeer, "no-peer", false, "measure Atoll only")
	f.StringVar(&nodeArgs, "node-args", "", "more arguments for every atoll node, separated by spaces")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.nodeArgs = strings.Fields(nodeArgs)
	for _, c := range strings.Split(clients, ",") {
		n, err := strconv.Atoi(c)
		if err != nil || n < 1 || n > 500 {
			return nil, fmt.Errorf("-clients: %q is not a number from 1 to 500", c)
		}
		o.clients = append(o.clients, n)
	}
	for _, w := range strings.Split(workloads, ",") {
		if _, ok := scripts[w]; !ok {
			return nil, fmt.Errorf("-workloads: %q is not one of select, insert, tpcb, past", w)
		}
		o.workloads = append(o.workloads, w)
	}
	if o.seconds < 1 || o.seconds > 600 || o.rounds < 1 || o.rounds > 50 || o.scale < 1 || o.scale > 1000 {
		return nil, errors.New("-seconds takes 1 to 600, -rounds 1 to 50, -scale 1 to 1000")
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "atoll-bench-"); err != nil {
			return err
		}
	}
	if err := os.Chmod(o.dir, 0o755); err != nil { // the postgres user must get in
		return err
	}
	if !o.keep {
		defer os.RemoveAll(o.dir)
	}
	atoll, err := startAtoll(ctx, o)
	if err != nil {
		return err
	}
	defer atoll.stop()
	systems := []*system{atoll}
	if !o.noPeer && !o.join {
		peer, err := startPostgres(ctx, o)
		if err != nil {
			return err
		}
		defer peer.stop()
		systems = append(systems, peer)
	}
	for _, s := range systems {
		if err := s.load(ctx, o); err != nil {
			return err
		}
	}
	// PostgreSQL's clients talk to the primary; Atoll's, of whom a policy will bring the leases near,
	// to the node that holds them. Which one that is was an election's chance.
	near, far, err := atoll.byLeases(ctx)
	if err != nil {
		return err
	}
	atoll.port = near
	if o.join {
		return measureJoin(ctx, o, atoll)
	}
	if o.far {
		systems = append(systems, &system{name: farName, port: far, dir: atoll.dir, client: atoll.client})
	}
	return measure(ctx, o, systems)
}

// key names one cell of the result.
type key struct {
	system, workload string
	clients          int
}

// sample is one measurement.
type sample struct {
	tps      float64
	p50, p99 time.Duration
	failed   int
}

func measure(ctx context.Context, o *options, systems []*system) error {
	got := map[key][]sample{}
	for round := range o.rounds {
		for _, w := range o.workloads {
			for _, c := range o.clients {
				for _, s := range systems {
					if s.name == peerName && w == "past" {
						continue
					}
					m, err := s.pgbench(ctx, o, w, c)
					if err != nil {
						return fmt.Errorf("round %d, %s, %s with %d clients: %w", round+1, s.name, w, c, err)
					}
					k := key{s.name, w, c}
					got[k] = append(got[k], m)
					fmt.Fprintf(os.Stderr, "round %d  %-7s c=%-3d %-11s %9.0f tps  p50 %s  p99 %s\n", round+1, w, c, s.name, m.tps, m.p50, m.p99)
				}
			}
		}
	}
	report(o, systems, got)
	return nil
}

// report prints medians, and ratios to the peer.
func report(o *options, systems []*system, got map[key][]sample) {
	fmt.Printf("pgbench -M prepared, scale %d, %d s, median of %d rounds, both systems in turn on this machine\n\n", o.scale, o.seconds, o.rounds)
	fmt.Printf("%-8s %7s  %-11s %9s %10s %10s %7s   %s\n", "workload", "clients", "system", "tps", "p50", "p99", "failed", "ratio to PostgreSQL (tps)")
	for _, w := range o.workloads {
		for _, c := range o.clients {
			for _, s := range systems {
				if len(got[key{s.name, w, c}]) == 0 {
					continue
				}
				m := median(got[key{s.name, w, c}])
				ratio := ""
				if peer, ok := got[key{peerName, w, c}]; ok && s.name != peerName {
					ratio = fmt.Sprintf("%.2f", m.tps/median(peer).tps)
				}
				fmt.Printf("%-8s %7d  %-11s %9.0f %10s %10s %7d   %s\n", w, c, s.name, m.tps, m.p50, m.p99, m.failed, ratio)
			}
		}
	}
}

// median takes each figure's median.
func median(ms []sample) sample {
	var out sample
	tps := make([]float64, len(ms))
	p50, p99 := make([]time.Duration, len(ms)), make([]time.Duration, len(ms))
	for i, m := range ms {
		tps[i], p50[i], p99[i] = m.tps, m.p50, m.p99
		out.failed += m.failed
	}
	slices.Sort(tps)
	slices.Sort(p50)
	slices.Sort(p99)
	out.tps, out.p50, out.p99 = middle(tps), middle(p50), middle(p99)
	return out
}

// middle is the median of sorted values: of an even number, the mean of the middle two.
func middle[T float64 | time.Duration](v []T) T { return (v[(len(v)-1)/2] + v[len(v)/2]) / 2 }

// logFiles returns pgbench's per-transaction logs.
func logFiles(prefix string) []string {
	files, _ := filepath.Glob(prefix + ".*")
	return files
}
