package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/node/server"
	"github.com/atolldb/atoll/policies"
	"github.com/atolldb/atoll/topology"
)

// These commands are the steps of a rollout: a program that changes nodes runs them in between.
// They ask the nodes' HTTP ports. What runs them says whether a cluster was founded: by silence
// alone, a first installation that got stuck looks like a cluster that is down.

// Bounds of a look at the nodes.
const (
	lookEvery   = time.Second
	lookTimeout = 3 * time.Second
	maxOverview = 64 << 20
)

// sight is what one look found of a node.
type sight struct {
	addr     string
	absent   bool // no such name: it was never made
	overview *server.Overview
	err      error
}

// look asks every node at once.
func look(ctx context.Context, addrs []string) []sight {
	out := make([]sight, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() { out[i] = lookAt(ctx, a) })
	}
	wg.Wait()
	return out
}

func lookAt(ctx context.Context, addr string) sight {
	s := sight{addr: addr}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/overview", nil)
	if err != nil {
		s.err = err
		return s
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.absent, s.err = noSuchHost(err), err
		return s
	}
	defer resp.Body.Close()
	var o server.Overview
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxOverview)).Decode(&o); err != nil || resp.StatusCode != http.StatusOK {
		s.err = fmt.Errorf("GET %s/api/overview: %s: %w", addr, resp.Status, errors.Join(err))
		return s
	}
	s.overview = &o
	return s
}

func noSuchHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// unborn reports whether no node serves, as far as they answer. It says that there is no cluster only
// together with what the caller knows (--founded): nodes of a cluster may be silent.
func unborn(all []sight) bool {
	return !slices.ContainsFunc(all, func(s sight) bool { return s.overview != nil && s.overview.Ready })
}

// foundedFlag adds --founded. Any value but true means that it is not known: on Kubernetes an
// optional variable that does not exist arrives as its own name.
func foundedFlag(cmd *cobra.Command, v *string) {
	cmd.Flags().StringVar(v, "founded", "", "true: the cluster was put together before, so all its nodes have to be there")
	cmd.Flags().Lookup("founded").NoOptDefVal = "true"
}

// replication judges a look: nil if every node is ready and every range whole. before is the
// look before it: replicas must have caught up with what was applied then. A node that has no name yet
// comes later in the same rollout; if it were a member that is gone, the others would miss it.
func replication(now, before []sight) error {
	byNode := map[int32]*server.Overview{}
	for _, s := range now {
		switch {
		case s.absent:
			continue
		case s.overview == nil:
			return fmt.Errorf("%s does not answer: %w", s.addr, s.err)
		case !s.overview.Ready:
			return fmt.Errorf("%s is not ready: %s", s.addr, s.overview.Reason)
		}
		byNode[s.overview.Node] = s.overview
	}
	if len(byNode) == 0 {
		return errors.New("none of the nodes has a name yet")
	}
	zones := map[string]bool{}
	for _, o := range byNode {
		for _, n := range o.Nodes {
			// An ID that is 'joining' runs under it only once it says so; who was killed before that is
			// never heard of again under it. The nodes meant are those of --http.
			gone := n.State == "decommissioned" || n.State == "joining"
			if !gone && !n.Live {
				return fmt.Errorf("node %d does not see node %d of zone %s", o.Node, n.ID, n.Zone)
			}
			if !gone {
				zones[n.Region+"/"+n.Zone] = true
			}
		}
	}
	// How many replicas a range needs, and where, is for its policy to say. Nodes of an older version
	// do not tell what they lack.
	want := 1
	for _, o := range byNode {
		switch p := o.Placement; {
		case p == nil:
			want = min(len(zones)-(len(zones)+1)%2, minVoters)
		case !p.Known:
			return fmt.Errorf("node %d does not know the placement policies yet", o.Node)
		case p.Lacking > 0:
			return fmt.Errorf("%d of the ranges that node %d leads lack something: %s", p.Lacking, o.Node, p.Reason)
		}
	}
	applied, seen := map[int64]uint64{}, false
	for _, s := range before {
		if s.absent {
			continue
		}
		if s.overview == nil {
			return errors.New("one look more is needed")
		}
		seen = true
		for _, r := range s.overview.Ranges {
			applied[r.ID] = max(applied[r.ID], r.Applied)
		}
	}
	if !seen {
		return errors.New("one look more is needed")
	}
	for _, o := range byNode {
		for _, r := range o.Ranges {
			if err := whole(r, byNode, want, applied[r.ID]); err != nil {
				return err
			}
		}
	}
	return nil
}

// minVoters is what a range has by default, where there are zones enough.
const minVoters = 3

// whole checks a range: enough replicas, each with what was applied at the look before.
func whole(r server.RangeRow, byNode map[int32]*server.Overview, want int, applied uint64) error {
	replicas := strings.Fields(r.Replicas)
	if len(replicas) < want {
		return fmt.Errorf("range %d has %d of %d replicas (%s)", r.ID, len(replicas), want, r.Replicas)
	}
	if r.Leaseholder == 0 {
		return fmt.Errorf("range %d has no leaseholder", r.ID)
	}
	for _, name := range replicas {
		var node int32
		if _, err := fmt.Sscanf(name, "n%d", &node); err != nil {
			return fmt.Errorf("range %d: %q is no replica", r.ID, name)
		}
		o := byNode[node]
		if o == nil {
			return fmt.Errorf("range %d has a replica on node %d, which is not among --http", r.ID, node)
		}
		i := slices.IndexFunc(o.Ranges, func(x server.RangeRow) bool { return x.ID == r.ID })
		if i < 0 {
			return fmt.Errorf("range %d: node %d has no replica yet", r.ID, node)
		}
		if o.Ranges[i].Applied < applied {
			return fmt.Errorf("range %d: node %d has applied %d of %d", r.ID, node, o.Ranges[i].Applied, applied)
		}
	}
	return nil
}

// rollout is what wait-replicated waits for.
type rollout struct {
	all, updated []string
	revision     string
	founded      bool // a cluster that is not founded is no end
}

// judge returns nil when the wait is over, and what it found out.
func (w rollout) judge(now, before []sight) (string, error) {
	for _, s := range now {
		if !slices.Contains(w.updated, s.addr) {
			continue
		}
		if s.overview == nil {
			return "", fmt.Errorf("%s does not answer: %w", s.addr, s.err)
		}
		if w.revision != "" && s.overview.Revision != w.revision {
			return "", fmt.Errorf("%s runs revision %q, not %q yet", s.addr, s.overview.Revision, w.revision)
		}
	}
	if err := w.retired(now); err != nil {
		return "", err
	}
	if !w.founded {
		return "the nodes run; the cluster is being put together, there is nothing more to wait for", nil
	}
	if err := replication(now, before); err != nil {
		return "", err
	}
	return "every node is ready and every range is whole", nil
}

// retired refuses a node that was decommissioned: its zone was taken out of the stack before, and its
// volume came back with it.
func (w rollout) retired(now []sight) error {
	for _, s := range now {
		if s.overview == nil || !slices.Contains(w.updated, s.addr) {
			continue
		}
		for _, n := range s.overview.Nodes {
			if n.ID == s.overview.Node && n.State == "decommissioned" {
				pod, _, _ := strings.Cut(s.addr, ".")
				return refusal{fmt.Errorf("%s has the volume of node %d, which was decommissioned and never comes back: delete it, so that a new node starts there (on Kubernetes: "+
					"kubectl delete pvc data-%s --wait=false; kubectl delete pod %s), and repeat the update", s.addr, n.ID, pod, pod)}
			}
		}
	}
	return nil
}

func (w rollout) wait(ctx context.Context, progress io.Writer) error {
	var before []sight
	said := ""
	for {
		now := look(ctx, w.all)
		done, err := w.judge(now, before)
		if err == nil {
			fmt.Fprintln(progress, done)
			return nil
		}
		if refused := (refusal{}); errors.As(err, &refused) {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			fmt.Fprintln(progress, "waits:", said)
		}
		before = now
		select {
		case <-ctx.Done():
			return fmt.Errorf("time is up: %w; see the node's log and, on Kubernetes, kubectl describe of its pod", err)
		case <-time.After(lookEvery):
		}
	}
}

func waitReplicatedCommand() *cobra.Command {
	var all, updated, revision string
	var founded string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait-replicated",
		Short: "Wait until nodes run a revision and every range has all its replicas",
		Long: `Wait until the nodes of --updated run --revision, all nodes are ready and every range has all its replicas, caught up.
Without --founded (a first installation, or volumes that are opened again) it ends as soon as the nodes of --updated answer.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := rollout{all: fields(all), updated: fields(updated), revision: revision, founded: founded == "true"}
			if len(w.all) == 0 {
				return usageError{errors.New("--http is empty: name the HTTP addresses of all nodes")}
			}
			for _, u := range w.updated {
				if !slices.Contains(w.all, u) {
					return usageError{fmt.Errorf("--updated: %s is not among --http", u)}
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return w.wait(ctx, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&all, "http", "", "HTTP addresses of all nodes, separated by commas")
	f.StringVar(&updated, "updated", "", "those of them that must answer with --revision")
	f.StringVar(&revision, "revision", "", "what they were started with")
	foundedFlag(cmd, &founded)
	f.DurationVar(&timeout, "timeout", 15*time.Minute, "how long to wait")
	return cmd
}

func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func waitTLSCommand() *cobra.Command {
	var certs, nodes string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait-tls",
		Short: "Wait until every node accepts the certificate in --certs, and has one that its CA accepts",
		Long: `Wait until every node that runs accepts the certificate in --certs, and shows one that the CA there accepts: between trusting
a new CA and making certificates with it. A node whose name does not exist is passed over.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if certs == "" || nodes == "" {
				return usageError{errors.New("--certs and --nodes are needed: a folder with ca.crt, node.crt and node.key, and the nodes' addresses")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			for _, n := range fields(nodes) {
				if err := waitTLS(ctx, certs, n, cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&certs, "certs", "", "folder with ca.crt, node.crt and node.key")
	f.StringVar(&nodes, "nodes", "", "addresses (--advertise) of the nodes, separated by commas")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait")
	return cmd
}

func waitTLS(ctx context.Context, certs, addr string, progress io.Writer) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, lookTimeout)
		err := server.Handshake(attempt, certs, addr)
		cancel()
		switch {
		case err == nil:
			fmt.Fprintln(progress, addr, "accepts the certificate")
			return nil
		case noSuchHost(err):
			fmt.Fprintln(progress, addr, "does not exist: passed over")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not accept the certificate, or its own is not accepted: %w", addr, err)
		case <-time.After(lookEvery):
		}
	}
}

func retireCommand(t *target) *cobra.Command {
	var keep, all, founded string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "retire",
		Short: "Drain and decommission every node that is not in --keep",
		Long: `Drain and decommission every node whose address is not in --keep, one after the other: before the machines of a smaller
cluster are taken away. Nothing to do is no error, and neither, without --founded, is that no node serves. It refuses, before
any node leaves, where a placement policy that is in force could not be kept by the nodes that stay.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kept := fields(keep)
			if len(kept) == 0 || all == "" {
				return usageError{errors.New("--keep and --http are needed: the addresses (--advertise) that stay, and the HTTP addresses of the nodes that tell whether a cluster is there")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return retire(ctx, t, kept, fields(all), founded == "true", cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&keep, "keep", "", "addresses (--advertise) of the nodes that stay, separated by commas")
	f.StringVar(&all, "http", "", "HTTP addresses of the nodes")
	foundedFlag(cmd, &founded)
	f.DurationVar(&timeout, "timeout", time.Hour, "how long it may take")
	return cmd
}

func retire(ctx context.Context, t *target, keep, all []string, founded bool, progress io.Writer) error {
	for {
		if !founded && unborn(look(ctx, all)) {
			fmt.Fprintln(progress, "no cluster runs yet: there is nothing to retire")
			return nil
		}
		err := retireOnce(ctx, t, keep, progress)
		var refused refusal
		if err == nil || errors.As(err, &refused) {
			return err
		}
		fmt.Fprintln(progress, "tries again:", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("time is up: %w", err)
		case <-time.After(2 * lookEvery):
		}
	}
}

// refusal is an error that trying again does not mend.
type refusal struct{ error }

// member is a row of atoll.nodes.
type member struct{ id, region, zone, addr, status, attributes string }

func retireOnce(ctx context.Context, t *target, keep []string, progress io.Writer) error {
	conn, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tables, err := query(ctx, conn, "SELECT node_id, region, zone, address, status, attributes FROM atoll.nodes ORDER BY node_id")
	if err != nil {
		return err
	}
	var members []member
	for _, r := range tables[0].rows {
		members = append(members, member{r[0], r[1], r[2], r[3], r[4], r[5]})
	}
	inForce, err := policiesInForce(ctx, conn)
	if err != nil {
		return err
	}
	leave, err := retirees(members, keep, inForce)
	if err != nil {
		return refusal{err}
	}
	if len(leave) == 0 {
		fmt.Fprintln(progress, "every node stays")
	}
	for _, m := range leave {
		fmt.Fprintf(progress, "node %s (%s, zone %s): drains\n", m.id, m.addr, m.zone)
		if _, err := query(ctx, conn, "ALTER NODE "+m.id+" DRAIN"); err != nil {
			return fmt.Errorf("drain node %s: %w", m.id, err)
		}
		if _, err := query(ctx, conn, decommissionSQL(m.id, false)); err != nil {
			return fmt.Errorf("decommission node %s: %w", m.id, err)
		}
		fmt.Fprintf(progress, "node %s is decommissioned\n", m.id)
	}
	return nil
}

// retirees returns who has to go. It refuses before anybody goes, where the rest could not keep a
// policy: a node that was decommissioned never comes back.
func retirees(members []member, keep []string, inForce []*policies.Policy) ([]member, error) {
	var stay, all []topology.Node
	var leave []member
	for _, m := range members {
		if m.status == "decommissioned" {
			continue
		}
		n := topology.Node{Name: "n" + m.id, Locality: topology.Locality{Region: m.region, Zone: m.zone}, Attributes: fields(m.attributes)}
		all = append(all, n)
		if slices.Contains(keep, m.addr) {
			stay = append(stay, n)
		} else {
			leave = append(leave, m)
		}
	}
	if len(leave) == 0 {
		return nil, nil
	}
	before, err := topology.FromNodes(all...)
	if err != nil {
		return nil, err
	}
	after, err := topology.FromNodes(stay...)
	if err != nil {
		return nil, err
	}
	for _, p := range inForce {
		if err := p.CheckLeaving(before, after); err != nil {
			return nil, fmt.Errorf("%d nodes, of which the first is node %s (%s) of zone %s, can't be taken away: without them, %w; keep them, or apply another policy first",
				len(leave), leave[0].id, leave[0].addr, leave[0].zone, err)
		}
	}
	return leave, nil
}

// policiesInForce returns the policies that hold for something.
func policiesInForce(ctx context.Context, conn *pgx.Conn) ([]*policies.Policy, error) {
	tables, err := query(ctx, conn, "SHOW PLACEMENT")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, row := range tables[0].rows {
		if !slices.Contains(names, row[1]) {
			names = append(names, row[1])
		}
	}
	var out []*policies.Policy
	for _, name := range names {
		text, err := query(ctx, conn, "SHOW PLACEMENT POLICY "+policies.Literal(name))
		if err != nil {
			return nil, err
		}
		p, err := policies.Read(name, []byte(text[0].rows[0][0]))
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
