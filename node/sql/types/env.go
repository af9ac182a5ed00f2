package types

import (
	"time"
	_ "time/tzdata" // sessions set TimeZone on machines that have no zone files
)

// Env is what reading and printing values depends on beside the value: the session's
// settings. A nil *Env means the defaults. It must not change while it is in use.
type Env struct {
	Location         *time.Location // TimeZone; nil is UTC
	Now              time.Time      // start of the transaction: 'now' and 'today' mean it. Zero: time.Now()
	ExtraFloatDigits int            // extra_float_digits; above 0 means shortest-exact
	ByteaEscape      bool           // bytea_output = escape
	IntervalISO      bool           // IntervalStyle = iso_8601; otherwise postgres
	Names            NameResolver   // for regclass and its like; nil prints and reads digits only
}

// NameResolver turns OIDs of catalog objects into names and back, for the reg* types.
// The type says what kind of object: OIDRegClass, OIDRegType, OIDRegProc ...; OIDOID stands
// for databases.
type NameResolver interface {
	// ObjectName prints as PostgreSQL's output function does: quoted, and with its schema
	// if the search path would not find it. ok is false for an OID that names nothing.
	ObjectName(reg OID, object OID) (name string, ok bool)
	// ObjectOID looks an unparsed name up: 42P01 for a relation that is not there, 42704 for a type ...
	ObjectOID(reg OID, name string) (OID, error)
}

var defaultEnv = Env{ExtraFloatDigits: 1}

// DefaultEnv returns PostgreSQL's default settings with TimeZone UTC.
func DefaultEnv() *Env {
	e := defaultEnv
	return &e
}

func (e *Env) orDefault() *Env {
	if e == nil {
		return &defaultEnv
	}
	return e
}

func (e *Env) location() *time.Location {
	if e == nil || e.Location == nil {
		return time.UTC
	}
	return e.Location
}

func (e *Env) now() time.Time {
	if e == nil || e.Now.IsZero() {
		return time.Now()
	}
	return e.Now
}
