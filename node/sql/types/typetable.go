package types

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
)

// Type is a row of pg_type. The built-in ones come from PostgreSQL 15's catalog, so that
// clients that look types up by OID, length or category see what they know.
type Type struct {
	OID       OID
	Name      string // pg_type.typname: int4, _int4
	Len       int16  // bytes; -1 varlena, -2 C string
	ByVal     bool
	Class     byte // typtype: b base, p pseudo, r range, m multirange, e enum, c composite, d domain
	Category  byte // typcategory: N numeric, S string, D date/time ...
	Preferred bool // preferred in its category
	Delim     byte // between array elements: ',' or ';' (box)
	Elem      OID  // element type of arrays (and of fixed-length subscriptables such as name)
	Array     OID  // type of arrays of it, or 0
	Input     string
	Output    string
	Receive   string
	Send      string
	ModIn     string // "-": takes no modifier
	ModOut    string
	Align     byte
	Storage   byte
	Collation OID // 0: not collatable; 100 default; 950 C
}

// IsArray says whether it is an array type proper: int2vector and oidvector, whose values
// are Arrays too (with lower bound 0), are not.
func (t *Type) IsArray() bool { return t.Category == 'A' && t.Class == 'b' && t.Storage != 'p' }

// IsVector says whether it is int2vector or oidvector.
func (t *Type) IsVector() bool { return t.OID == OIDInt2Vector || t.OID == OIDOIDVector }

// IsPseudo says whether no column can have the type.
func (t *Type) IsPseudo() bool { return t.Class == 'p' }

//go:embed pg_type.tsv
var typeRows string

var (
	allTypes    = parseTypeTable()
	typesByOID  = indexTypes(allTypes, func(t *Type) OID { return t.OID })
	typesByName = indexTypes(allTypes, func(t *Type) string { return t.Name })
)

func parseTypeTable() []*Type {
	lines := strings.Split(strings.TrimSuffix(typeRows, "\n"), "\n")
	out := make([]*Type, 0, len(lines))
	for _, line := range lines {
		f := strings.Split(line, "\t")
		if len(f) != 19 {
			panic(fmt.Sprintf("pg_type.tsv: %d fields, want 19: %q", len(f), line))
		}
		n := func(i int) int64 {
			v, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				panic(fmt.Sprintf("pg_type.tsv: %q: %v", line, err))
			}
			return v
		}
		out = append(out, &Type{
			OID: OID(n(0)), Name: f[1], Len: int16(n(2)), ByVal: f[3] == "t", Class: f[4][0],
			Category: f[5][0], Preferred: f[6] == "t", Delim: f[7][0], Elem: OID(n(8)), Array: OID(n(9)),
			Input: f[10], Output: f[11], Receive: f[12], Send: f[13], ModIn: f[14], ModOut: f[15],
			Align: f[16][0], Storage: f[17][0], Collation: OID(n(18)),
		})
	}
	return out
}

func indexTypes[K comparable](all []*Type, key func(*Type) K) map[K]*Type {
	m := make(map[K]*Type, len(all))
	for _, t := range all {
		m[key(t)] = t
	}
	return m
}

// All returns the built-in types in OID order. Nobody may change them.
func All() []*Type { return allTypes }

// Lookup returns the built-in type with an OID.
func Lookup(oid OID) (*Type, bool) {
	t, ok := typesByOID[oid]
	return t, ok
}

// MustLookup REQUIRES a built-in type's OID.
func MustLookup(oid OID) *Type {
	t, ok := typesByOID[oid]
	if !ok {
		panic(fmt.Sprintf("no built-in type has OID %d", oid))
	}
	return t
}

// LookupName returns the built-in type called by its pg_type name (int4, _int4) as the
// parser hands type names over, or by a SQL name (integer, "timestamp with time zone").
func LookupName(name string) (*Type, bool) {
	if t, ok := typesByName[name]; ok {
		return t, true
	}
	if alias, ok := sqlNames[name]; ok {
		t, ok := typesByName[alias]
		return t, ok
	}
	return nil, false
}

// sqlNames are the spellings that PostgreSQL's grammar turns into pg_type names.
var sqlNames = map[string]string{
	"boolean": "bool", "smallint": "int2", "integer": "int4", "int": "int4", "bigint": "int8",
	"real": "float4", "float": "float8", "double precision": "float8", "decimal": "numeric", "dec": "numeric",
	"character varying": "varchar", "char varying": "varchar", "character": "bpchar", "national character": "bpchar",
	"nchar": "bpchar", "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz",
	"time without time zone": "time", "time with time zone": "timetz", "bit varying": "varbit",
	// The serial types are not types: CREATE TABLE expands them. They are no aliases here.
}

// formatNames are what format_type prints where it is not typname.
var formatNames = map[OID]string{
	OIDBool: "boolean", OIDInt2: "smallint", OIDInt4: "integer", OIDInt8: "bigint", OIDFloat4: "real",
	OIDFloat8: "double precision", OIDVarChar: "character varying", OIDBPChar: "character", OIDBit: "bit",
	OIDVarBit: "bit varying", OIDTimestamp: "timestamp without time zone", OIDTimestampTZ: "timestamp with time zone",
	OIDTime: "time without time zone", OIDTimeTZ: "time with time zone", OIDChar: `"char"`, OIDAny: `"any"`,
}

// FormatType is format_type(oid, typmod) for built-in types: character varying(10),
// timestamp(3) without time zone, integer[]. A typmod of -1 is none. An unknown OID prints "???".
func FormatType(oid OID, typmod int32) string {
	if oid == 0 {
		return "-"
	}
	t, ok := typesByOID[oid]
	if !ok {
		return "???"
	}
	if t.IsArray() {
		return FormatType(t.Elem, typmod) + "[]"
	}
	name := formatNames[oid]
	if name == "" {
		name = t.Name
	}
	if oid == OIDBPChar && typmod < 0 {
		return "bpchar" // character would mean character(1)
	}
	if oid == OIDBit && typmod < 0 {
		return `"bit"`
	}
	if typmod < 0 || t.ModOut == "-" {
		return name
	}
	mod := FormatTypmod(oid, typmod)
	if base, tail, ok := strings.Cut(name, " with"); ok { // time and timestamp carry it inside
		return base + mod + " with" + tail
	}
	return name + mod
}

// TypeName is FormatType without a modifier: the name that error messages use.
func TypeName(oid OID) string {
	if oid == OIDBPChar {
		return "character"
	}
	if t, ok := typesByOID[oid]; ok && t.IsArray() && t.Elem == OIDBPChar {
		return "character[]"
	}
	return FormatType(oid, -1)
}
