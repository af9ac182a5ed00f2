package builtins

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// EvalContext is what functions may ask for beside their arguments. It serves one
// statement, in one goroutine at a time. Functions fail with a clear error where a part that
// they need is nil.
type EvalContext struct {
	Ctx context.Context
	// Env has the time zone and the formats; Env.Now is the transaction's start.
	Env       *types.Env
	Statement time.Time // start of the statement; zero: as Env.Now
	Rand      *rand.Rand
	Session   Session
	Catalog   Catalog
	Sequences Sequences
}

// Identity says who and where a session is.
type Identity struct {
	User, SessionUser, Database string
	BackendPID                  int32
	// ServerAddr and ClientAddr are host:port, empty for none.
	ServerAddr, ClientAddr string
	Started                time.Time // of the session
	ServerStarted          time.Time
}

// Session is what functions ask of the session.
type Session interface {
	Identity() Identity
	// SearchPath returns the schemas that exist in search_path; with implicit, pg_catalog too.
	SearchPath(implicit bool) []string
	// Setting returns a setting as SHOW prints it; ok is false for an unknown one.
	Setting(name string) (value string, ok bool)
	// SetSetting is SET (or SET LOCAL) and returns the new value.
	SetSetting(name, value string, local bool) (string, error)
	// TxnID is a 64-bit number of the current transaction, for txid_current.
	TxnID() int64
}

// Definition says what pg_get_...def prints.
type Definition uint8

const (
	IndexDef       Definition = iota + 1 // pg_get_indexdef; column above 0: that column only
	ConstraintDef                        // pg_get_constraintdef
	ViewDef                              // pg_get_viewdef
	FunctionDef                          // pg_get_functiondef
	TriggerDef                           // pg_get_triggerdef
	RuleDef                              // pg_get_ruledef
	PartKeyDef                           // pg_get_partkeydef
	StatisticsDef                        // pg_get_statisticsobjdef
	SerialSequence                       // pg_get_serial_sequence of column number Column
)

// Catalog is what functions ask of the system catalog, as the current transaction sees it.
type Catalog interface {
	// Visible is pg_table_is_visible and its like: reg is OIDRegClass, OIDRegType, OIDRegProc,
	// OIDRegOperator, OIDRegCollation ...; exists is false for an OID that names nothing (NULL).
	Visible(reg, object types.OID) (visible, exists bool)
	// Definition prints an object; ok is false for an OID that names nothing (NULL).
	Definition(kind Definition, object types.OID, column int, pretty bool) (text string, ok bool, err error)
	// Comment is obj_description(object, class), col_description and shobj_description.
	Comment(class, object types.OID, column int) (text string, ok bool)
	// HasPrivilege answers has_table_privilege and its like. class is the reg type of the
	// object (OIDRegClass, OIDRegNamespace, OIDRegRole; types.OIDOID for databases), column 0 for
	// the object as a whole, -1 for any column. privilege may list several: any of them suffices.
	HasPrivilege(role, class, object types.OID, column int, privilege string) (has, exists bool, err error)
	// Column finds a column's number by name; 42703 if there is none.
	Column(table types.OID, name string) (int, error)
	// Size is the disk space of a relation (OIDRegClass) or a database (OIDOID) in bytes.
	Size(class, object types.OID, indexesToo bool) (bytes int64, exists bool, err error)
}

// Sequences is what nextval and its like ask for.
type Sequences interface {
	NextVal(ctx context.Context, sequence types.OID) (int64, error)
	CurrVal(ctx context.Context, sequence types.OID) (int64, error)
	SetVal(ctx context.Context, sequence types.OID, value int64, called bool) error
	LastVal(ctx context.Context) (int64, error)
	// Peek returns the last value that was handed out to anybody; called is false if none was.
	Peek(ctx context.Context, sequence types.OID) (value int64, called bool, err error)
}

func (c *EvalContext) env() *types.Env {
	if c == nil || c.Env == nil {
		return types.DefaultEnv()
	}
	return c.Env
}

func (c *EvalContext) location() *time.Location {
	if e := c.env(); e.Location != nil {
		return e.Location
	}
	return time.UTC
}

// txnTime is now().
func (c *EvalContext) txnTime() time.Time {
	if e := c.env(); !e.Now.IsZero() {
		return e.Now
	}
	return time.Now()
}

func (c *EvalContext) statementTime() time.Time {
	if c.Statement.IsZero() {
		return c.txnTime()
	}
	return c.Statement
}

func (c *EvalContext) float64() float64 {
	if c.Rand != nil {
		return c.Rand.Float64()
	}
	return rand.Float64()
}

func (c *EvalContext) context() context.Context {
	if c.Ctx != nil {
		return c.Ctx
	}
	return context.Background()
}

func (c *EvalContext) session() (Session, error) {
	if c.Session == nil {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "functions that ask the session are not supported here")
	}
	return c.Session, nil
}

func (c *EvalContext) catalog() (Catalog, error) {
	if c.Catalog == nil {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "functions that ask the system catalog are not supported here")
	}
	return c.Catalog, nil
}

func (c *EvalContext) names() (types.NameResolver, error) {
	if n := c.env().Names; n != nil {
		return n, nil
	}
	return nil, pgerror.New(pgerrcode.FeatureNotSupported, "functions that ask the system catalog are not supported here")
}
