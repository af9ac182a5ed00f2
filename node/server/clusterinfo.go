package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/cluster"
	"github.com/atolldb/atoll/node/events"
	"github.com/atolldb/atoll/node/host"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
)

// clusterInfo answers the atoll.* views. It implements catalog.ClusterInfo.
type clusterInfo struct {
	n *host.Node
}

// leaseLookups bounds how many ranges are asked for their leaseholder at a time, and
// leaseWait how long one may take: a range without quorum does not hold the view up.
const (
	leaseLookups = 16
	leaseWait    = 2 * time.Second
)

// Ranges implements catalog.ClusterInfo: the meta range's records, and what each range's
// leaseholder says.
func (c *clusterInfo) Ranges(ctx context.Context) ([]catalog.RangeInfo, error) {
	descs, err := c.descriptors(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]catalog.RangeInfo, len(descs))
	sem := make(chan struct{}, leaseLookups)
	var wg sync.WaitGroup
	for i := range descs {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			out[i] = c.rangeInfo(ctx, &descs[i])
		})
	}
	wg.Wait()
	return out, nil
}

// Events implements catalog.ClusterInfo.
func (c *clusterInfo) Events(ctx context.Context) ([]catalog.EventInfo, error) {
	all, err := events.Read(ctx, c.n.Sender)
	if err != nil {
		return nil, err
	}
	out := make([]catalog.EventInfo, len(all))
	for i, e := range all {
		out[i] = catalog.EventInfo{At: e.At, Node: int32(e.Node), Kind: string(e.Kind), Range: int64(e.RangeID), Other: int32(e.Other), What: e.What, Cause: e.Cause}
	}
	return out, nil
}

// Violations implements catalog.ClusterInfo. Leases move while nodes are asked: a range is listed
// once, as the node with the newest look at it says.
func (c *clusterInfo) Violations(ctx context.Context) ([]catalog.ViolationInfo, error) {
	by := map[int64]catalog.ViolationInfo{}
	for node, all := range c.n.Findings(ctx) {
		for _, f := range all {
			v := catalog.ViolationInfo{Range: int64(f.Range), Leaseholder: int32(node), Status: "being mended", Since: f.Since, Reason: f.Reason}
			if f.Stuck {
				v.Status = "stuck"
			}
			if old, ok := by[v.Range]; !ok || old.Since.Before(v.Since) {
				by[v.Range] = v
			}
		}
	}
	out := slices.Collect(maps.Values(by))
	slices.SortFunc(out, func(x, y catalog.ViolationInfo) int { return cmp.Compare(x.Range, y.Range) })
	return out, nil
}

func (c *clusterInfo) rangeInfo(ctx context.Context, d *kv.RangeDescriptor) catalog.RangeInfo {
	info := catalog.RangeInfo{ID: int64(d.RangeID), Start: d.Start, End: d.End, Generation: d.Generation}
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	br, err := c.n.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.LeaseInfoRequest{Key: d.Start}}})
	if err == nil {
		if r, ok := br.Responses[0].(*kv.LeaseInfoResponse); ok && r.Desc.RangeID == d.RangeID {
			d = &r.Desc
			info.Leaseholder, info.Bytes, info.Generation, info.BatchesPerSecond = int32(r.Leaseholder), r.Bytes, d.Generation, r.BatchesPerSecond
		}
	}
	for _, r := range d.Replicas {
		zone := ""
		if n, ok := c.n.Directory.Get(r.Node); ok {
			zone = n.Zone
		}
		info.Replicas = append(info.Replicas, catalog.RangeReplica{Node: int32(r.Node), ID: int64(r.Replica), Voter: r.Type.Votes(), Witness: !r.Type.HoldsData(), Zone: zone, Problem: r.Quarantine.String()})
	}
	return info
}

// descriptors reads the meta range.
func (c *clusterInfo) descriptors(ctx context.Context) ([]kv.RangeDescriptor, error) {
	span := keys.Span{Key: keys.MetaMin, EndKey: keys.MetaMax}
	var out []kv.RangeDescriptor
	for {
		br, err := c.n.Sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: span}}})
		if err != nil {
			return nil, err
		}
		r, ok := br.Responses[0].(*kv.ScanResponse)
		if !ok {
			return nil, fmt.Errorf("scan of the meta range answered %T", br.Responses[0])
		}
		for _, row := range r.Rows {
			d, err := kv.DecodeRangeDescriptor(row.Value)
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
		if r.ResumeSpan == nil {
			return out, nil
		}
		span = *r.ResumeSpan
	}
}

// Nodes implements catalog.ClusterInfo.
func (c *clusterInfo) Nodes(ctx context.Context) ([]catalog.NodeInfo, error) {
	ranges, err := c.Ranges(ctx)
	if err != nil {
		return nil, err
	}
	replicas, leases := map[int32]int{}, map[int32]int{}
	bytes := map[int32]int64{}
	for _, r := range ranges {
		leases[r.Leaseholder]++
		for _, rep := range r.Replicas {
			replicas[rep.Node]++
			bytes[rep.Node] += r.Bytes
		}
	}
	statuses := c.n.Statuses(ctx)
	var out []catalog.NodeInfo
	for _, d := range c.n.Directory.All() {
		id := int32(d.ID)
		info := catalog.NodeInfo{ID: id, Region: d.Region, Zone: d.Zone, Attributes: d.Attributes, Address: d.Addr, SQLAddr: d.SQLAddr, Live: c.live(d), Self: d.ID == c.n.Identity.Node,
			Replicas: replicas[id], Leases: leases[id], Bytes: bytes[id], Boot: int64(c.n.Agent.Boot(d.ID))}
		info.Status = nodeStatus(d, info.Live)
		if s, ok := statuses[d.ID]; ok {
			info.Boot, info.Started, info.Version, info.DiskFree = int64(s.Boot), s.Started, s.Version, max(s.DiskFree, 0)
		}
		out = append(out, info)
	}
	return out, nil
}

func (c *clusterInfo) live(d cluster.NodeInfo) bool {
	return d.ID == c.n.Identity.Node || c.n.Agent.Live(d.ID)
}

func nodeStatus(d cluster.NodeInfo, live bool) string {
	switch {
	case d.State != cluster.Live:
		return d.State.String()
	case live:
		return "live"
	}
	return "down"
}

// Zones implements catalog.ClusterInfo.
func (c *clusterInfo) Zones(ctx context.Context) ([]catalog.ZoneInfo, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	by := map[[2]string]*catalog.ZoneInfo{}
	for _, n := range nodes {
		if n.Status == cluster.Decommissioned.String() {
			continue
		}
		k := [2]string{n.Region, n.Zone}
		z := by[k]
		if z == nil {
			z = &catalog.ZoneInfo{Region: n.Region, Zone: n.Zone}
			by[k] = z
		}
		z.Nodes++
		z.Replicas += n.Replicas
		z.Leases += n.Leases
		if n.Live {
			z.Live++
		}
	}
	var out []catalog.ZoneInfo
	for _, z := range by {
		switch z.Live {
		case z.Nodes:
			z.Status = "healthy"
		case 0:
			z.Status = "down"
		default:
			z.Status = "degraded"
		}
		out = append(out, *z)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Region < out[j].Region || (out[i].Region == out[j].Region && out[i].Zone < out[j].Zone)
	})
	return out, nil
}

// Jobs implements catalog.ClusterInfo: the copies on their way, and nodes that are being
// decommissioned.
func (c *clusterInfo) Jobs(ctx context.Context) ([]catalog.JobInfo, error) {
	var out []catalog.JobInfo
	now := time.Now()
	for node, all := range c.n.Copies(ctx) {
		for _, t := range all {
			out = append(out, catalog.JobInfo{Kind: "copy", Node: int32(node), Range: int64(t.Range), Other: int32(t.To), Started: t.Since, Done: t.Sent, Total: t.Total,
				Left: t.Left(now), What: fmt.Sprintf("a replica of range %d goes to node %d", t.Range, t.To)})
		}
	}
	slices.SortFunc(out, func(x, y catalog.JobInfo) int {
		return cmp.Or(x.Started.Compare(y.Started), cmp.Compare(x.Range, y.Range))
	})
	leaving := map[int32]*catalog.JobInfo{}
	for _, d := range c.n.Directory.All() {
		if d.State == cluster.Decommissioning {
			leaving[int32(d.ID)] = &catalog.JobInfo{Kind: "decommission", Node: int32(d.ID)}
		}
	}
	if len(leaving) == 0 {
		return out, nil
	}
	ranges, err := c.Ranges(ctx)
	if err != nil {
		return nil, err
	}
	replicas := map[int32]int{}
	for _, r := range ranges {
		for _, rep := range r.Replicas {
			if j := leaving[rep.Node]; j != nil {
				j.Total += r.Bytes
				replicas[rep.Node]++
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(leaving)) {
		j := leaving[id]
		j.What = fmt.Sprintf("node %d is being decommissioned: %d replicas are left on it", id, replicas[id])
		out = append(out, *j)
	}
	return out, nil
}
