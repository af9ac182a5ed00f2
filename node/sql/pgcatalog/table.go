package pgcatalog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

//go:embed data/*.gz
var data embed.FS

// table is one virtual relation.
type table struct {
	schema, name string
	id           catalog.ID
	kind         byte // pg_class.relkind
	cols         []catalog.Column
	pos          map[string]int
	static       *staticRows
	rows         func(*scan) error // nil: no rows beside the static ones
}

var _ catalog.VirtualTable = (*table)(nil)

func (t *table) ID() catalog.ID            { return t.id }
func (t *table) Schema() string            { return t.schema }
func (t *table) Name() string              { return t.name }
func (t *table) Columns() []catalog.Column { return t.cols }

// Rows implements catalog.VirtualTable.
func (t *table) Rows(ctx context.Context, q *catalog.VirtualQuery, emit func([]types.Datum) error) error {
	s := &scan{ctx: ctx, q: q, t: t, emit: emit, buf: make([]types.Datum, len(t.cols))}
	if t.static != nil {
		rows, err := t.static.load(t)
		if err != nil {
			return err
		}
		for _, r := range rows {
			copy(s.buf, r)
			if err := emit(s.buf); err != nil {
				return err
			}
		}
	}
	if t.rows == nil {
		return nil
	}
	return t.rows(s)
}

// staticRows are PostgreSQL's own rows of a catalog, read on first use.
type staticRows struct {
	file string
	once sync.Once
	rows [][]types.Datum
	err  error
}

func (r *staticRows) load(t *table) ([][]types.Datum, error) {
	r.once.Do(func() {
		r.err = lines(r.file, func(f []string) error {
			if len(f) != len(t.cols) {
				return fmt.Errorf("pgcatalog: a row of %s has %d fields, not %d", r.file, len(f), len(t.cols))
			}
			row := make([]types.Datum, len(f))
			for i, v := range f {
				if v == `\N` {
					continue
				}
				d, err := parse(t.cols[i].Type.OID, v)
				if err != nil {
					return fmt.Errorf("pgcatalog: column %s of %s: %w", t.cols[i].Name, r.file, err)
				}
				row[i] = d
			}
			r.rows = append(r.rows, row)
			return nil
		})
	})
	return r.rows, r.err
}

// parse reads a field in COPY's text format.
func parse(oid types.OID, v string) (types.Datum, error) {
	if strings.Contains(v, `\`) {
		v = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\r`, "\r").Replace(v)
	}
	switch oid {
	case types.OIDOID, types.OIDRegProc, types.OIDRegType, types.OIDXID:
		n, err := strconv.ParseUint(v, 10, 32)
		return types.NewInt(int64(n)), err
	case oidChar:
		return types.NewString(v), nil
	}
	return types.ParseText(oid, -1, v, nil)
}

const (
	oidChar     types.OID = 18   // "char"
	oidNodeTree types.OID = 194  // pg_node_tree
	oidACLArray types.OID = 1034 // aclitem[]
)

// lines calls f for every line of a compressed tab-separated file.
func lines(file string, f func([]string) error) error {
	raw, err := data.ReadFile("data/" + file)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	sc := bufio.NewScanner(z)
	sc.Buffer(make([]byte, 1<<16), 1<<20)
	for sc.Scan() {
		if err := f(strings.Split(sc.Text(), "\t")); err != nil {
			return err
		}
	}
	return sc.Err()
}

// all holds every virtual relation by schema and name.
var all = sync.OnceValue(func() map[string]map[string]*table {
	m := map[string]map[string]*table{}
	add := func(schema, name string, id catalog.ID, kind byte) *table {
		if m[schema] == nil {
			m[schema] = map[string]*table{}
		}
		t := m[schema][name]
		if t == nil {
			t = &table{schema: schema, name: name, id: id, kind: kind, pos: map[string]int{}}
			m[schema][name] = t
		}
		return t
	}
	column := func(t *table, name string, oid types.OID, mod int32, notNull bool) {
		t.pos[name] = len(t.cols)
		t.cols = append(t.cols, catalog.Column{ID: catalog.ColumnID(len(t.cols) + 1), Name: name, Type: catalog.TypeRef{OID: oid, Mod: mod},
			NotNull: notNull, State: catalog.StatePublic, StatTarget: -1})
	}
	err := lines("columns.tsv.gz", func(f []string) error {
		if len(f) != 8 {
			return fmt.Errorf("pgcatalog: columns.tsv.gz has a line of %d fields", len(f))
		}
		id, err := strconv.Atoi(f[2])
		if err != nil {
			return err
		}
		typ, err := strconv.Atoi(f[5])
		if err != nil {
			return err
		}
		mod, err := strconv.Atoi(f[6])
		if err != nil {
			return err
		}
		column(add(f[0], f[1], catalog.ID(id), f[3][0]), f[4], types.OID(typ), int32(mod), f[7] == "t")
		return nil
	})
	if err != nil {
		panic(err) // the embedded file is part of the build
	}
	for i, v := range atollViews {
		t := add(catalog.AtollSchema, v.name, catalog.AtollSchemaID+1+catalog.ID(i), 'v')
		for _, c := range v.columns {
			column(t, c.name, c.typ, -1, false)
		}
		t.rows = v.rows
	}
	for name, t := range m[catalog.CatalogSchema] {
		if _, err := data.ReadFile("data/" + name + ".tsv.gz"); err == nil {
			t.static = &staticRows{file: name + ".tsv.gz"}
		}
		t.rows = catalogRows[name]
	}
	for name, t := range m[catalog.InfoSchema] {
		t.rows = infoRows[name]
	}
	return m
})

// byID holds every virtual relation by OID.
var byID = sync.OnceValue(func() map[catalog.ID]*table {
	m := map[catalog.ID]*table{}
	for _, ts := range all() {
		for _, t := range ts {
			m[t.id] = t
		}
	}
	return m
})

// Lookup returns a virtual relation, or nil.
func Lookup(schema, name string) catalog.VirtualTable {
	if t := all()[schema][name]; t != nil {
		return t
	}
	return nil
}

func init() {
	catalog.VirtualExists = func(schema, name string) bool { return all()[schema][name] != nil }
}

// scan is one evaluation of a virtual relation.
type scan struct {
	ctx  context.Context
	q    *catalog.VirtualQuery
	t    *table
	emit func([]types.Datum) error
	buf  []types.Datum
}

// row emits one row: pairs of column name and value. Columns that are not named are NULL.
func (s *scan) row(pairs ...any) error {
	clear(s.buf)
	for i := 0; i+1 < len(pairs); i += 2 {
		name := pairs[i].(string)
		p, ok := s.t.pos[name]
		if !ok {
			panic("pgcatalog: " + s.t.name + " has no column " + name) // a bug; a test runs every relation
		}
		s.buf[p] = s.datum(pairs[i+1], s.t.cols[p].Type.OID)
	}
	return s.emit(s.buf)
}

// datum turns a Go value into the column's type.
func (s *scan) datum(v any, oid types.OID) types.Datum {
	switch v := v.(type) {
	case nil:
		return types.Null
	case types.Datum:
		return v
	case string:
		return types.NewString(v)
	case bool:
		if oid == types.OIDVarChar || oid == types.OIDText { // information_schema's yes_or_no
			return types.NewString(map[bool]string{true: "YES", false: "NO"}[v])
		}
		return types.NewBool(v)
	case int:
		return number(int64(v), oid)
	case int16:
		return number(int64(v), oid)
	case int32:
		return number(int64(v), oid)
	case int64:
		return number(v, oid)
	case catalog.ID:
		return number(int64(v), oid)
	case types.OID:
		return number(int64(v), oid)
	case catalog.ColumnID:
		return number(int64(v), oid)
	case byte:
		return types.NewString(string(rune(v)))
	case time.Time:
		if v.IsZero() {
			return types.Null
		}
		return types.NewTimestamp(v.UnixMicro() - epoch2000)
	case []string:
		if v == nil {
			return types.Null
		}
		return textArray(v, oid)
	case []int64:
		return intVector(v, oid)
	}
	panic(fmt.Sprintf("pgcatalog: no datum for %T", v)) // a bug
}

// epoch2000 is 2000-01-01 in microseconds since 1970.
const epoch2000 = 946684800_000_000

func number(v int64, oid types.OID) types.Datum {
	switch oid {
	case types.OIDVarChar, types.OIDText, types.OIDName:
		return types.NewString(strconv.FormatInt(v, 10))
	case types.OIDFloat4, types.OIDFloat8:
		return types.NewFloat(float64(v))
	}
	return types.NewInt(v)
}

func textArray(v []string, oid types.OID) types.Datum {
	elem := types.OIDText
	if t, ok := types.Lookup(oid); ok && t.Elem != 0 {
		elem = t.Elem
	}
	a := &types.Array{Elem: elem}
	for _, e := range v {
		a.Values = append(a.Values, types.NewString(e))
	}
	if len(v) > 0 {
		a.Dims = []types.ArrayDim{{Len: int32(len(v)), Lower: 1}}
	}
	return types.NewArray(a)
}

// intVector makes an int2vector, oidvector or array of numbers.
func intVector(v []int64, oid types.OID) types.Datum {
	a := &types.Array{Elem: types.OIDInt2}
	lower := int32(1)
	if t, ok := types.Lookup(oid); ok {
		a.Elem = t.Elem
		if t.IsVector() {
			lower = 0
		}
	}
	for _, e := range v {
		a.Values = append(a.Values, types.NewInt(e))
	}
	if len(v) > 0 || lower == 0 {
		a.Dims = []types.ArrayDim{{Len: int32(len(v)), Lower: lower}}
	}
	return types.NewArray(a)
}
