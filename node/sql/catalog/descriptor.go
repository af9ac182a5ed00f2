// Package catalog holds the descriptors of SQL objects (databases, schemas, tables with
// their columns, indexes and constraints, sequences, roles), how they are stored in the
// key space, and how a node caches them under leases (SAFETY S27).
//
// # How a table's rows lie in the key space
//
// One key per row and index. K(...) is the order-preserving encoding of the values, each in
// its column's direction; V(...) the row value codec, tagged with column IDs:
//
//	primary index         Prefix K(key columns)                  -> V(all other columns)
//	secondary, not unique Prefix K(key columns, suffix columns)  -> V(stored columns)
//	secondary, unique     Prefix K(key columns)                  -> V(suffix, stored columns)
//	  with a NULL among the key columns:
//	                      Prefix K(key columns, suffix columns)  -> V(stored columns)
//
// Suffix columns are the primary key's columns that are not among the index's own key
// columns. A table without a primary key has a hidden column RowIDColumn and a hidden
// primary index over it.
//
// A descriptor that came out of this package's caches is shared: nobody may change it.
// Clone one to change it.
package catalog

import (
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/types"
)

// ID names an object for ever. It is the object's PostgreSQL OID: below FirstUserID for
// what PostgreSQL has at a fixed OID, from FirstUserID on for everything made later. IDs are
// unique in the whole cluster, over all kinds.
type ID uint32

// FirstUserID is PostgreSQL's FirstNormalObjectId.
const FirstUserID ID = 16384

// PostgreSQL's fixed OIDs.
const (
	TemplateDatabaseID ID = 1     // template1
	SuperuserID        ID = 10    // role postgres
	CatalogSchemaID    ID = 11    // pg_catalog
	PublicSchemaID     ID = 2200  // public, in database postgres
	Template0ID        ID = 4     // template0
	PostgresDatabaseID ID = 5     // postgres
	InfoSchemaID       ID = 13207 // as initdb numbers it; PostgreSQL does not fix it
	AtollSchemaID      ID = 14000 // Atoll's own views; their OIDs follow
	ToastSchemaID      ID = 99
)

// Names of the virtual schemas, which have no descriptor.
const (
	CatalogSchema = "pg_catalog"
	InfoSchema    = "information_schema"
	AtollSchema   = "atoll"
)

// ColumnID is a column's attnum. It is never reused within a table.
type ColumnID int16

// RowIDColumn is the ID of the hidden key column of a table without a primary key: an int8
// that the executor fills from NewRowID. It is above every possible attnum (PostgreSQL
// allows 1,600 columns).
const RowIDColumn ColumnID = 30000

// RowIDName is the hidden column's name. It can't be selected by name.
const RowIDName = "rowid"

// MaxColumns is PostgreSQL's limit.
const MaxColumns = 1600

// MaxIndexColumns is PostgreSQL's INDEX_MAX_KEYS.
const MaxIndexColumns = 32

// MaxNameLen is PostgreSQL's NAMEDATALEN-1, in bytes; longer names are cut.
const MaxNameLen = 63

// Kind says what a descriptor describes.
type Kind uint8

const (
	KindDatabase Kind = 1 + iota
	KindSchema
	KindTable
	KindSequence
	KindView // reserved
	KindRole
	KindType // reserved
	// KindIndex names no descriptor of its own: an index lives in its table's. It is the
	// kind of a namespace entry.
	KindIndex
)

// State is how far an index, column or constraint has come (SAFETY S27). At most two
// consecutive versions of a descriptor are in use, so that neighbouring states may meet.
type State uint8

const (
	// StateDeleteOnly: writers remove its entries, and add none.
	StateDeleteOnly State = 1 + iota
	// StateWriteOnly: writers maintain it as if it were public; readers don't use it.
	StateWriteOnly
	// StateBackfill is StateWriteOnly while old rows are being brought in.
	StateBackfill
	// StatePublic: in use.
	StatePublic
)

// Readable reports whether readers may use an element in this state.
func (s State) Readable() bool { return s == StatePublic }

// Writable reports whether writers add entries or values.
func (s State) Writable() bool { return s >= StateWriteOnly }

// DescState is the state of a whole descriptor.
type DescState uint8

const (
	DescPublic DescState = 1 + iota
	// DescOffline: being changed as a whole; statements on it fail with 55006.
	DescOffline
	// DescDropped: gone for everybody; its data waits for removal.
	DescDropped
)

// Header is what all descriptors have.
type Header struct {
	ID      ID
	Version uint64 // 1 at birth, +1 with every committed change
	// ModTime is the clock reading of the newest change, before its commit. The version
	// itself is valid from its commit timestamp on, which the store knows (Stored.Since).
	ModTime  hlc.Timestamp
	Name     string
	Database ID // 0 for a database or a role
	Schema   ID // 0 for a database, schema or role
	Owner    ID
	State    DescState
	ACL      []ACLItem // empty: the owner's defaults
	// Lock is set while State is DescOffline: who holds the object.
	Lock *SchemaLock
}

// SchemaLock says which transaction holds an object for itself. The lock ends with the
// holder's commit or rollback; once the holder's lease session has expired, anybody may
// make the object public again.
type SchemaLock struct {
	Node    keys.NodeID
	Session uint64 // the node's lease session
	Holder  uint64 // distinguishes transactions of one session
}

// Descriptor is *Database, *Schema, *Table, *Sequence, *Role or *View.
type Descriptor interface {
	Head() *Header
	Kind() Kind
	// Copy returns a deep copy without what Derived remembers.
	Copy() Descriptor
}

// Head returns h itself.
func (h *Header) Head() *Header { return h }

// TypeRef is a type with its modifier (-1: none), as in pg_attribute.
type TypeRef struct {
	OID types.OID
	Mod int32
}

// Database is a database.
type Database struct {
	Header
	IsTemplate bool
	AllowConn  bool
	ConnLimit  int32
	Settings   []string // ALTER DATABASE SET: name=value
}

// Schema is a schema of one database.
type Schema struct{ Header }

// Persistence is pg_class.relpersistence.
type Persistence byte

const (
	Permanent Persistence = 'p'
	Unlogged  Persistence = 'u' // accepted; stored like a permanent table
)

// Table is a table with its indexes and constraints.
type Table struct {
	Header
	Persistence Persistence
	Columns     []Column // in attnum order; the hidden rowid column, if any, is last
	// Primary is the index that holds the rows. It is never dropped, only replaced.
	Primary Index
	// Indexes are the secondary indexes, in any state.
	Indexes     []Index
	Constraints []Constraint
	NextColumn  ColumnID
	NextStorage uint32   // next Index.Storage
	Options     []string // WITH (...), shown in pg_class.reloptions; no effect
	// Garbage lists index storages that nothing refers to any more (TRUNCATE, DROP INDEX,
	// ADD PRIMARY KEY), to be cleared.
	Garbage []uint32

	memo sync.Map
}

// IdentityKind is pg_attribute.attidentity; zero means none.
type IdentityKind byte

const (
	NoIdentity        IdentityKind = 0
	IdentityAlways    IdentityKind = 'a'
	IdentityByDefault IdentityKind = 'd'
)

// Column is a column.
type Column struct {
	ID      ColumnID
	Name    string
	Type    TypeRef
	NotNull bool // enforced on every write
	// NullsUnproven: NotNull holds for new rows only, old ones are not checked yet: the
	// planner must not conclude anything from NotNull.
	NullsUnproven bool
	Hidden        bool // rowid: not in *, not by name
	State         State
	// Default is the expression as SQL text in its canonical form (pg_get_expr), empty for
	// none. Names in it are schema-qualified where PostgreSQL would.
	Default string
	// Identity: then Default is empty and Sequence is set.
	Identity IdentityKind
	// Sequence is the sequence that the column owns (serial, identity); 0 for none.
	Sequence ID
	// Generated is a stored generation expression; reserved.
	Generated string
	// HasMissing: the column was added later, and a row whose stored value lacks it holds
	// Missing (the type's text form). Without HasMissing it is NULL then. A stored NULL must
	// therefore be written as such, never left out.
	HasMissing bool
	Missing    string
	Collation  string // empty: the database's ("C")
	StatTarget int32
	ACL        []ACLItem
}

// Direction is the order of one index column.
type Direction uint8

const (
	Ascending Direction = iota
	Descending
)

// IndexColumn is one key column of an index.
type IndexColumn struct {
	Column ColumnID
	Dir    Direction
	// NullsFirst: where NULLs come. PostgreSQL's defaults: last when ascending, first when
	// descending.
	NullsFirst bool
	// OpClass is the operator class as the user named it; empty for the default.
	OpClass string
}

// Index is a primary or secondary index.
type Index struct {
	ID      ID // pg_class OID; 0 for the hidden rowid index
	Name    string
	Unique  bool
	Primary bool
	State   State
	// Storage is the index part of the key prefix. It changes when the data does as a whole.
	Storage uint32
	Columns []IndexColumn
	// Suffix are the primary key columns that are not among Columns, in primary key order
	// (empty for the primary index).
	Suffix []ColumnID
	// Stored are INCLUDE columns.
	Stored []ColumnID
	// Constraint says that the index belongs to a constraint of the same name.
	Constraint bool
	// NullsNotDistinct and Predicate are reserved.
	NullsNotDistinct bool
	Predicate        string
	Options          []string
}

// ConstraintKind is pg_constraint.contype.
type ConstraintKind byte

const (
	PrimaryKeyConstraint ConstraintKind = 'p'
	UniqueConstraint     ConstraintKind = 'u'
	CheckConstraint      ConstraintKind = 'c'
	ForeignKeyConstraint ConstraintKind = 'f'
)

// Constraint is a table constraint. NOT NULL is a flag of the column, as in PostgreSQL 15.
type Constraint struct {
	ID      ID
	Name    string
	Kind    ConstraintKind
	Columns []ColumnID // the columns of the key, or that a check mentions
	Index   ID         // of a primary key, unique or foreign key (the referenced one)
	Expr    string     // of a check: canonical SQL text
	State   State      // a check in StateWriteOnly is enforced on writes, not yet validated
	NoInherit,
	Validated,
	Deferrable,
	Deferred bool
	// Foreign keys. Enforcement is reserved.
	RefTable                      ID
	RefColumns                    []ColumnID
	OnUpdate, OnDelete, MatchType byte // pg_constraint.confupdtype, confdeltype, confmatchtype
}

// Sequence is a sequence's definition. Its value is not part of it: see SequenceKey.
type Sequence struct {
	Header
	Type      types.OID // int2, int4, int8
	Start     int64
	Increment int64
	Min, Max  int64
	Cache     int64
	Cycle     bool
	// OwnerTable and OwnerColumn are set by serial, identity and OWNED BY.
	OwnerTable  ID
	OwnerColumn ColumnID
	Identity    bool   // internal dependency: can't be dropped by itself
	Storage     uint32 // part of the value's key: changes when the sequence restarts
	// Base: the newest value handed out is Base plus the integer at SequenceKey (absent: 0).
	// It is Start-Increment, as they were when Storage was chosen.
	Base int64
}

// View is reserved.
type View struct {
	Header
	Columns []Column
	Query   string
}

// Role is a user or group.
type Role struct {
	Header
	Superuser, Inherit, CreateRole, CreateDB, Login, Replication, BypassRLS bool
	ConnLimit                                                               int32
	// Verifier is the SCRAM-SHA-256 verifier as PostgreSQL stores it; empty: no password.
	Verifier   string
	ValidUntil int64 // microseconds since 2000-01-01; 0: for ever
	MemberOf   []Membership
	Settings   []string // ALTER ROLE SET: name=value
}

// Membership is a granted role.
type Membership struct {
	Role, Grantor ID
	Admin         bool
}

func (*Database) Kind() Kind { return KindDatabase }
func (*Schema) Kind() Kind   { return KindSchema }
func (*Table) Kind() Kind    { return KindTable }
func (*Sequence) Kind() Kind { return KindSequence }
func (*View) Kind() Kind     { return KindView }
func (*Role) Kind() Kind     { return KindRole }

// ColumnByName returns the public, visible column of that name, or nil.
func (t *Table) ColumnByName(name string) *Column {
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Name == name && !c.Hidden && c.State == StatePublic {
			return c
		}
	}
	return nil
}

// ColumnByID returns the column in any state, or nil.
func (t *Table) ColumnByID(id ColumnID) *Column {
	if i := int(id) - 1; i >= 0 && i < len(t.Columns) && t.Columns[i].ID == id {
		return &t.Columns[i] // nothing was dropped before it
	}
	for i := range t.Columns {
		if t.Columns[i].ID == id {
			return &t.Columns[i]
		}
	}
	return nil
}

// VisibleColumns returns the columns of SELECT *, in order.
func (t *Table) VisibleColumns() []*Column {
	return t.filterColumns(func(c *Column) bool { return !c.Hidden && c.State.Readable() })
}

// ReadableColumns returns the public columns, the hidden one included.
func (t *Table) ReadableColumns() []*Column {
	return t.filterColumns(func(c *Column) bool { return c.State.Readable() })
}

// WritableColumns returns the columns that an INSERT must give a value: public and
// write-only ones, the hidden one included. An INSERT evaluates defaults of all of them.
func (t *Table) WritableColumns() []*Column {
	return t.filterColumns(func(c *Column) bool { return c.State.Writable() })
}

func (t *Table) filterColumns(keep func(*Column) bool) []*Column {
	out := make([]*Column, 0, len(t.Columns))
	for i := range t.Columns {
		if keep(&t.Columns[i]) {
			out = append(out, &t.Columns[i])
		}
	}
	return out
}

// HasRowID reports whether rows are keyed by the hidden column.
func (t *Table) HasRowID() bool {
	return len(t.Primary.Columns) == 1 && t.Primary.Columns[0].Column == RowIDColumn
}

// IndexPrefix returns the key prefix of an index's entries.
func (t *Table) IndexPrefix(ix *Index) keys.Key {
	return keys.IndexPrefix(uint32(t.ID), ix.Storage)
}

// IndexSpan returns the span that holds an index's entries.
func (t *Table) IndexSpan(ix *Index) keys.Span {
	p := t.IndexPrefix(ix)
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

// Span returns the span that holds all of the table's data.
func (t *Table) Span() keys.Span {
	p := keys.TablePrefix(uint32(t.ID))
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

// PublicIndexes returns the indexes that readers may use, the primary first.
func (t *Table) PublicIndexes() []*Index {
	return t.filterIndexes(State.Readable)
}

// WritableIndexes returns the indexes that writers maintain, the primary first.
func (t *Table) WritableIndexes() []*Index {
	return t.filterIndexes(State.Writable)
}

// DeletableIndexes returns the indexes from which writers remove entries (delete-only ones
// too), the primary first.
func (t *Table) DeletableIndexes() []*Index {
	return t.filterIndexes(func(State) bool { return true })
}

func (t *Table) filterIndexes(keep func(State) bool) []*Index {
	out := make([]*Index, 0, 1+len(t.Indexes))
	out = append(out, &t.Primary)
	for i := range t.Indexes {
		if keep(t.Indexes[i].State) {
			out = append(out, &t.Indexes[i])
		}
	}
	return out
}

// IndexByName returns the index in any state, or nil. The hidden index has no name.
func (t *Table) IndexByName(name string) *Index {
	for _, ix := range t.filterIndexes(func(State) bool { return true }) {
		if ix.Name == name && ix.ID != 0 {
			return ix
		}
	}
	return nil
}

// IndexByID returns the index in any state, or nil.
func (t *Table) IndexByID(id ID) *Index {
	for _, ix := range t.filterIndexes(func(State) bool { return true }) {
		if ix.ID == id && id != 0 {
			return ix
		}
	}
	return nil
}

// KeyColumns returns the columns in an entry's key: the index's own, then, unless the index
// is unique, the suffix (ascending, NULLs cannot occur). A unique index's entry with a NULL
// among its own columns has the suffix in its key as well: see FullKeyColumns.
func (t *Table) KeyColumns(ix *Index) []IndexColumn {
	if ix.Unique || ix.Primary {
		return ix.Columns
	}
	return t.FullKeyColumns(ix)
}

// FullKeyColumns returns the index's own columns and the suffix.
func (t *Table) FullKeyColumns(ix *Index) []IndexColumn {
	if len(ix.Suffix) == 0 {
		return ix.Columns
	}
	out := make([]IndexColumn, 0, len(ix.Columns)+len(ix.Suffix))
	out = append(out, ix.Columns...)
	for _, id := range ix.Suffix {
		out = append(out, IndexColumn{Column: id})
	}
	return out
}

// ValueColumns returns the columns in an entry's value: everything else for the primary
// index; suffix (of a unique index, when it is not in the key) and stored columns for others.
func (t *Table) ValueColumns(ix *Index) []ColumnID {
	if !ix.Primary {
		var out []ColumnID
		if ix.Unique {
			out = append(out, ix.Suffix...)
		}
		return append(out, ix.Stored...)
	}
	out := make([]ColumnID, 0, len(t.Columns))
	for i := range t.Columns {
		if !ix.HasColumn(t.Columns[i].ID) {
			out = append(out, t.Columns[i].ID)
		}
	}
	return out
}

// HasColumn reports whether the column is one of the index's own key columns.
func (ix *Index) HasColumn(id ColumnID) bool {
	for _, c := range ix.Columns {
		if c.Column == id {
			return true
		}
	}
	return false
}

// Covers reports whether an entry holds the column, in its key or its value.
func (ix *Index) Covers(id ColumnID) bool {
	if ix.Primary || ix.HasColumn(id) {
		return true
	}
	for _, c := range ix.Suffix {
		if c == id {
			return true
		}
	}
	for _, c := range ix.Stored {
		if c == id {
			return true
		}
	}
	return false
}

// Checks returns the check constraints that a write must satisfy.
func (t *Table) Checks() []*Constraint {
	var out []*Constraint
	for i := range t.Constraints {
		if c := &t.Constraints[i]; c.Kind == CheckConstraint && c.State.Writable() {
			out = append(out, c)
		}
	}
	return out
}

// ConstraintByName returns the constraint, or nil.
func (t *Table) ConstraintByName(name string) *Constraint {
	for i := range t.Constraints {
		if t.Constraints[i].Name == name {
			return &t.Constraints[i]
		}
	}
	return nil
}

// Derived returns what build made for key when it was first asked for, on this very version
// of the table: bound defaults and checks, decoders. build may run more than once at the
// same time; an error is not remembered.
func (t *Table) Derived(key any, build func() (any, error)) (any, error) {
	if v, ok := t.memo.Load(key); ok {
		return v, nil
	}
	v, err := build()
	if err != nil {
		return nil, err
	}
	v, _ = t.memo.LoadOrStore(key, v)
	return v, nil
}

// SequenceKey is the key of a sequence's value: see package ddl for its meaning.
func (s *Sequence) SequenceKey() keys.Key { return keys.IndexPrefix(uint32(s.ID), s.Storage) }

// ACLItem is one entry of an ACL (PostgreSQL's aclitem).
type ACLItem struct {
	Grantee ID // 0: PUBLIC
	Grantor ID
	Privs   Privilege
	Options Privilege // WITH GRANT OPTION
}

// Privilege is a set of privileges, with PostgreSQL's bits.
type Privilege uint32

const (
	PrivInsert Privilege = 1 << iota
	PrivSelect
	PrivUpdate
	PrivDelete
	PrivTruncate
	PrivReferences
	PrivTrigger
	PrivExecute
	PrivUsage
	PrivCreate
	PrivTemporary
	PrivConnect
)
