package pgcatalog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

func itoa(v int64) string { return strconv.FormatInt(v, 10) }

type viewColumn struct {
	name string
	typ  types.OID
}

type atollView struct {
	name    string
	columns []viewColumn
	rows    func(*scan) error
}

// atollViews show where the cluster's data and leases are. Their order fixes their OIDs:
// append only.
var atollViews []atollView

func init() {
	const (
		text, i4, i8 = types.OIDText, types.OIDInt4, types.OIDInt8
	)
	atollViews = []atollView{
		{"zones", []viewColumn{{"region", text}, {"zone", text}, {"status", text}, {"nodes", i4}, {"live_nodes", i4}, {"replicas", i4}, {"leases", i4}}, atollZones},
		{"nodes", []viewColumn{{"node_id", i4}, {"region", text}, {"zone", text}, {"address", text}, {"sql_address", text}, {"status", text}, {"is_live", types.OIDBool},
			{"boot", i8}, {"started_at", types.OIDTimestampTZ}, {"replicas", i4}, {"leases", i4}, {"bytes", i8}, {"version", text}, {"disk_free", i8}, {"is_self", types.OIDBool}, {"attributes", text}}, atollNodes},
		{"ranges", []viewColumn{{"range_id", i8}, {"start_key", text}, {"end_key", text}, {"table_name", text}, {"generation", i8}, {"leaseholder", i4}, {"lease_zone", text},
			{"replicas", types.OIDInt4Array}, {"zones", types.OIDTextArray}, {"bytes", i8}, {"problem", text}, {"batches_per_second", i8}}, atollRanges},
		{"replicas", []viewColumn{{"range_id", i8}, {"replica_id", i8}, {"node_id", i4}, {"zone", text}, {"type", text}, {"has_lease", types.OIDBool}, {"problem", text}}, atollReplicas},
		{"events", []viewColumn{{"happened_at", types.OIDTimestampTZ}, {"node_id", i4}, {"kind", text}, {"range_id", i8}, {"other_node", i4}, {"event", text}, {"cause", text}}, atollEvents},
		{"placement_violations", []viewColumn{{"range_id", i8}, {"leaseholder", i4}, {"status", text}, {"since", types.OIDTimestampTZ}, {"reason", text}}, atollViolations},
		{"jobs", []viewColumn{{"kind", text}, {"node_id", i4}, {"range_id", i8}, {"other_node", i4}, {"job", text}, {"started_at", types.OIDTimestampTZ},
			{"done_bytes", i8}, {"total_bytes", i8}, {"seconds_left", i8}}, atollJobs},
	}
}

func atollZones(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	zones, err := s.q.Cluster.Zones(s.ctx)
	if err != nil {
		return err
	}
	for _, z := range zones {
		if err := s.row("region", z.Region, "zone", z.Zone, "status", z.Status, "nodes", z.Nodes, "live_nodes", z.Live, "replicas", z.Replicas, "leases", z.Leases); err != nil {
			return err
		}
	}
	return nil
}

func atollNodes(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	nodes, err := s.q.Cluster.Nodes(s.ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		var diskFree any
		if n.DiskFree > 0 {
			diskFree = n.DiskFree
		}
		if err := s.row("node_id", n.ID, "region", n.Region, "zone", n.Zone, "address", n.Address, "sql_address", n.SQLAddr, "status", n.Status,
			"is_live", n.Live, "boot", n.Boot, "started_at", n.Started, "replicas", n.Replicas, "leases", n.Leases, "bytes", n.Bytes, "version", n.Version, "disk_free", diskFree, "is_self", n.Self, "attributes", n.Attributes); err != nil {
			return err
		}
	}
	return nil
}

func atollRanges(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	ranges, err := s.q.Cluster.Ranges(s.ctx)
	if err != nil {
		return err
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var nodes []int64
		var zones []string
		var holder, leaseZone, problem any
		var problems []string
		for _, p := range r.Replicas {
			nodes = append(nodes, int64(p.Node))
			zones = append(zones, p.Zone)
			if p.Node == r.Leaseholder {
				holder, leaseZone = p.Node, p.Zone
			}
			if p.Problem != "" {
				problems = append(problems, fmt.Sprintf("replica %d on node %d %s and is being replaced", p.ID, p.Node, p.Problem))
			}
		}
		if len(problems) > 0 {
			problem = strings.Join(problems, "; ")
		}
		var name any
		if n := snap.tableOfKey(r.Start); n != "" {
			name = n
		}
		if err := s.row("range_id", r.ID, "start_key", keys.Key(r.Start).Pretty(), "end_key", keys.Key(r.End).Pretty(), "table_name", name, "generation", r.Generation,
			"leaseholder", holder, "lease_zone", leaseZone, "replicas", nodes, "zones", zones, "bytes", r.Bytes, "problem", problem, "batches_per_second", r.BatchesPerSecond); err != nil {
			return err
		}
	}
	return nil
}

func atollReplicas(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	ranges, err := s.q.Cluster.Ranges(s.ctx)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		for _, p := range r.Replicas {
			typ := "non-voter"
			switch {
			case p.Witness && p.Voter:
				typ = "witness"
			case p.Witness:
				typ = "new witness"
			case p.Voter:
				typ = "voter"
			}
			if err := s.row("range_id", r.ID, "replica_id", p.ID, "node_id", p.Node, "zone", p.Zone, "type", typ,
				"has_lease", p.Node == r.Leaseholder, "problem", orNull(p.Problem)); err != nil {
				return err
			}
		}
	}
	return nil
}

func atollEvents(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	all, err := s.q.Cluster.Events(s.ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		var rangeID, other any
		if e.Range != 0 {
			rangeID = e.Range
		}
		if e.Other != 0 {
			other = e.Other
		}
		if err := s.row("happened_at", e.At, "node_id", e.Node, "kind", e.Kind, "range_id", rangeID, "other_node", other, "event", e.What, "cause", orNull(e.Cause)); err != nil {
			return err
		}
	}
	return nil
}

func atollViolations(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	all, err := s.q.Cluster.Violations(s.ctx)
	if err != nil {
		return err
	}
	for _, v := range all {
		if err := s.row("range_id", v.Range, "leaseholder", v.Leaseholder, "status", v.Status, "since", v.Since, "reason", v.Reason); err != nil {
			return err
		}
	}
	return nil
}

func atollJobs(s *scan) error {
	if s.q.Cluster == nil {
		return nil
	}
	all, err := s.q.Cluster.Jobs(s.ctx)
	if err != nil {
		return err
	}
	number := func(n int64) any {
		if n == 0 {
			return nil
		}
		return n
	}
	for _, j := range all {
		var started any
		if !j.Started.IsZero() {
			started = j.Started
		}
		if err := s.row("kind", j.Kind, "node_id", j.Node, "range_id", number(j.Range), "other_node", number(int64(j.Other)), "job", j.What, "started_at", started,
			"done_bytes", j.Done, "total_bytes", number(j.Total), "seconds_left", number(int64(j.Left.Seconds()))); err != nil {
			return err
		}
	}
	return nil
}

// orNull is NULL for a text that is empty.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// tableOfKey names the table that a range begins in; empty for none of this database's.
func (s *snapshot) tableOfKey(key []byte) string {
	if len(key) < 5 || key[0] != 0x04 {
		return ""
	}
	id := catalog.ID(key[1])<<24 | catalog.ID(key[2])<<16 | catalog.ID(key[3])<<8 | catalog.ID(key[4])
	if d, ok := s.byID[id]; ok && d.Head().Database == s.db {
		return s.schemaName(d.Head().Schema) + "." + d.Head().Name
	}
	return ""
}

// needSuperuser guards the relations that hold password verifiers.
func (s *scan) needSuperuser(snap *snapshot) error {
	if r, ok := snap.byID[s.q.User].(*catalog.Role); s.q.User == 0 || ok && r.Superuser {
		return nil
	}
	return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied for table %s", s.t.name)
}
