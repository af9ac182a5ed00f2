package catalog

import (
	"context"
	"time"

	"github.com/atolldb/atoll/node/sql/types"
)

// VirtualTable is a relation whose rows are computed: pg_catalog, information_schema and
// atoll. Package pgcatalog has them all.
type VirtualTable interface {
	// ID is PostgreSQL's OID of the relation where it is fixed.
	ID() ID
	Schema() string
	Name() string
	Columns() []Column
	// Rows emits the rows in no order. It may leave out rows that contradict q.Equal, and
	// need not. emit keeps no row: the slice is reused.
	Rows(ctx context.Context, q *VirtualQuery, emit func(row []types.Datum) error) error
}

// VirtualQuery is what a virtual table's rows depend on.
type VirtualQuery struct {
	Catalog *Collection
	Path    Path
	User    ID // the current role
	// Settings lists the session's settings for pg_settings; nil: none.
	Settings func() []Setting
	// Sessions lists the node's sessions for pg_stat_activity; nil: none.
	Sessions func() []SessionInfo
	Cluster  ClusterInfo // nil: the atoll views are empty
	// Equal holds conditions "column = value" that the rows must meet, by ColumnID. They
	// only save work: the caller filters.
	Equal map[ColumnID]types.Datum
	// Memo belongs to package pgcatalog: what the relations of one statement share. A new
	// statement takes a new VirtualQuery.
	Memo any
}

// Setting is a row of pg_settings.
type Setting struct {
	Name, Value, Unit, Category, Description string
	Type                                     string // bool, enum, integer, real, string
	Min, Max, BootValue, ResetValue, Source  string
	Enum                                     []string
}

// SessionInfo is a row of pg_stat_activity.
type SessionInfo struct {
	PID                                             int32
	Database, User                                  string
	Application, Client, State, Query               string
	BackendStart, TxnStart, QueryStart, StateChange time.Time
}

// ClusterInfo answers the atoll views. The server implements it.
type ClusterInfo interface {
	Zones(ctx context.Context) ([]ZoneInfo, error)
	Nodes(ctx context.Context) ([]NodeInfo, error)
	// Ranges lists all ranges by start key.
	Ranges(ctx context.Context) ([]RangeInfo, error)
	// Events lists what happened, oldest first.
	Events(ctx context.Context) ([]EventInfo, error)
	// Violations lists the ranges that are not placed as their rule wants, by ID.
	Violations(ctx context.Context) ([]ViolationInfo, error)
	// Jobs lists what is under way, the oldest first.
	Jobs(ctx context.Context) ([]JobInfo, error)
}

// JobInfo is a row of atoll.jobs.
type JobInfo struct {
	Kind        string // copy, decommission
	Node        int32  // that does it, or that it is about
	Range       int64  // 0: none
	Other       int32  // the node that gets a copy; 0: none
	What        string
	Started     time.Time     // zero: unknown
	Done, Total int64         // bytes; Total is an estimate, 0 if there is none
	Left        time.Duration // about; 0: unknown
}

// ViolationInfo is a row of atoll.placement_violations.
type ViolationInfo struct {
	Range       int64
	Leaseholder int32
	Status      string // stuck, being mended
	Since       time.Time
	Reason      string
}

// EventInfo is a row of atoll.events.
type EventInfo struct {
	At          time.Time
	Node        int32  // took part, and wrote it down
	Kind        string // lease, replica, split, node, diary
	Range       int64  // 0: none
	Other       int32  // another node that it concerns; 0: none
	What, Cause string
}

// ZoneInfo is a row of atoll.zones.
type ZoneInfo struct {
	Region, Zone string
	Status       string // healthy, degraded, down
	Nodes, Live  int
	Replicas     int
	Leases       int
}

// NodeInfo is a row of atoll.nodes.
type NodeInfo struct {
	ID               int32
	Region, Zone     string
	Address, SQLAddr string
	Status           string // live, suspect, down, draining, decommissioned
	Live             bool
	Boot             int64
	Started          time.Time
	Replicas, Leases int
	Bytes            int64
	Version          string
	DiskFree         int64 // bytes; 0: unknown
	Self             bool  // it is the node that answers
	Attributes       string
}

// RangeInfo is a row of atoll.ranges.
type RangeInfo struct {
	ID          int64
	Start, End  []byte // keys
	Generation  int64
	Leaseholder int32 // 0: none known
	Replicas    []RangeReplica
	Bytes       int64
	// BatchesPerSecond is what it has served lately: requests of SQL statements, a few at a time.
	BatchesPerSecond int64
}

// RangeReplica is one replica of a range.
type RangeReplica struct {
	Node  int32
	ID    int64
	Voter bool // or a witness that votes
	// Witness: it keeps the log's tail, and none of the data.
	Witness bool
	Zone    string
	// Problem says why the replica is not trusted and gets replaced; empty: it is trusted.
	Problem string
}
