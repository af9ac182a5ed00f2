// Package builtins holds PostgreSQL's functions, operators, casts and aggregates: the
// catalog rows of PostgreSQL 15 (pg_proc, pg_operator, pg_cast, pg_aggregate) as tables,
// and Go implementations bound to them by pg_proc.prosrc.
//
// The tables are complete, so that overload resolution and the system catalogs see what
// PostgreSQL's would; a function without an implementation has a nil Fn, and the caller
// refuses it with 0A000.
package builtins

import (
	_ "embed"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/atolldb/atoll/node/sql/types"
)

// Eval computes a function over its arguments. It keeps neither the slice nor, unless the
// values are immutable by nature, what the arguments point at. The caller has answered NULL
// for a strict function with a NULL argument.
type Eval func(ctx *EvalContext, args []types.Datum) (types.Datum, error)

// Proc is a row of pg_proc in schema pg_catalog.
type Proc struct {
	OID        types.OID
	Name       string
	Kind       byte // f function, a aggregate, w window function, p procedure
	Result     types.OID
	RetSet     bool
	Strict     bool
	Volatility byte // i immutable, s stable, v volatile
	Parallel   byte
	Leakproof  bool
	Defaults   int       // how many of the last Args may be left out
	Variadic   types.OID // element type of the last argument (OIDAny for VARIADIC "any"); 0: not variadic
	Args       []types.OID
	AllArgs    []types.OID // with OUT arguments; nil if there are none
	ArgModes   string      // one byte for each of AllArgs: i o b v t
	ArgNames   []string
	Lang       string // internal, c, sql
	Src        string // prosrc of internal functions
	Cost       float64
	Rows       float64
	Support    string   // pg_proc.prosupport, "-" for none
	DefaultsAt []string // expressions of the last Defaults arguments

	impl *impl
}

// Operator is a row of pg_operator.
type Operator struct {
	OID                 types.OID
	Name                string
	Kind                byte // b binary, l prefix
	CanMerge, CanHash   bool
	Left, Right, Result types.OID // Left is 0 for a prefix operator
	Commutator, Negator types.OID // 0: none
	Proc                *Proc
	Restrict, Join      string // selectivity estimators, "-" for none
	Strategy            int    // its place in the default btree family: 1 <, 2 <=, 3 =, 4 >=, 5 >; 0: none
	Family              types.OID
}

// Cast is a row of pg_cast.
type Cast struct {
	OID            types.OID
	Source, Target types.OID
	Proc           *Proc // nil for methods b and i
	Context        byte  // i implicit, a assignment, e explicit
	Method         byte  // f function, b binary-coercible, i through the text form
}

// Aggregate is a row of pg_aggregate; its Proc has Kind 'a'.
type Aggregate struct {
	Proc       *Proc
	Kind       byte // n normal, o ordered-set, h hypothetical-set
	DirectArgs int
	TransFn    string
	FinalFn    string
	SortOp     types.OID
	TransType  types.OID
	InitVal    string
}

//go:embed pg_proc.tsv
var procRows string

//go:embed pg_operator.tsv
var operatorRows string

//go:embed pg_cast.tsv
var castRows string

//go:embed pg_aggregate.tsv
var aggregateRows string

type castKey struct{ source, target types.OID }

type tables struct {
	procs      []*Proc
	procByOID  map[types.OID]*Proc
	procByName map[string][]*Proc
	ops        []*Operator
	opByOID    map[types.OID]*Operator
	opByName   map[string][]*Operator
	casts      []*Cast
	castByKey  map[castKey]*Cast
	aggs       []*Aggregate
	aggByOID   map[types.OID]*Aggregate
}

var (
	loadOnce sync.Once
	loaded   *tables
)

// load parses the tables when they are first asked for: a process that runs no SQL pays nothing.
func load() *tables {
	loadOnce.Do(func() { loaded = parseTables() })
	return loaded
}

func parseTables() *tables {
	t := &tables{
		procByOID: map[types.OID]*Proc{}, procByName: map[string][]*Proc{},
		opByOID: map[types.OID]*Operator{}, opByName: map[string][]*Operator{},
		castByKey: map[castKey]*Cast{}, aggByOID: map[types.OID]*Aggregate{},
	}
	impls := newRegistry()
	eachRow("pg_proc.tsv", procRows, 21, func(r row) {
		p := &Proc{
			OID: r.oid(0), Name: r.f[1], Kind: r.f[2][0], Result: r.oid(3), RetSet: r.f[4] == "t", Strict: r.f[5] == "t",
			Volatility: r.f[6][0], Parallel: r.f[7][0], Leakproof: r.f[8] == "t", Defaults: int(r.oid(9)), Variadic: r.oid(10),
			Args: r.oids(11), AllArgs: r.oids(12), ArgModes: r.f[13], Lang: r.f[15], Src: r.f[16], Support: r.f[19],
		}
		if r.f[14] != "" {
			p.ArgNames = strings.Split(r.f[14], ",")
		}
		if r.f[20] != "" {
			p.DefaultsAt = strings.Split(r.f[20], "|")
		}
		p.Cost, _ = strconv.ParseFloat(r.f[17], 64)
		p.Rows, _ = strconv.ParseFloat(r.f[18], 64)
		p.impl = impls.find(p)
		t.procs = append(t.procs, p)
		t.procByOID[p.OID] = p
		t.procByName[p.Name] = append(t.procByName[p.Name], p)
	})
	impls.checkUsed()
	eachRow("pg_operator.tsv", operatorRows, 15, func(r row) {
		o := &Operator{
			OID: r.oid(0), Name: r.f[1], Kind: r.f[2][0], CanMerge: r.f[3] == "t", CanHash: r.f[4] == "t",
			Left: r.oid(5), Right: r.oid(6), Result: r.oid(7), Commutator: r.oid(8), Negator: r.oid(9),
			Proc: t.procByOID[r.oid(10)], Restrict: r.f[11], Join: r.f[12], Strategy: int(r.oid(13)), Family: r.oid(14),
		}
		t.ops = append(t.ops, o)
		t.opByOID[o.OID] = o
		t.opByName[o.Name] = append(t.opByName[o.Name], o)
	})
	eachRow("pg_cast.tsv", castRows, 6, func(r row) {
		c := &Cast{OID: r.oid(0), Source: r.oid(1), Target: r.oid(2), Proc: t.procByOID[r.oid(3)], Context: r.f[4][0], Method: r.f[5][0]}
		t.casts = append(t.casts, c)
		t.castByKey[castKey{c.Source, c.Target}] = c
	})
	eachRow("pg_aggregate.tsv", aggregateRows, 8, func(r row) {
		a := &Aggregate{Proc: t.procByOID[r.oid(0)], Kind: r.f[1][0], DirectArgs: int(r.oid(2)), TransFn: r.f[3],
			FinalFn: r.f[4], SortOp: r.oid(5), TransType: r.oid(6), InitVal: r.f[7]}
		t.aggs = append(t.aggs, a)
		t.aggByOID[a.Proc.OID] = a
	})
	return t
}

// row is a line of a table. A malformed one is a bug in the program.
type row struct {
	file string
	f    []string
}

func eachRow(file, data string, fields int, f func(row)) {
	for _, line := range strings.Split(strings.TrimSuffix(data, "\n"), "\n") {
		r := row{file, strings.Split(line, "\t")}
		if len(r.f) != fields {
			panic(fmt.Sprintf("%s: %d fields, want %d: %q", file, len(r.f), fields, line))
		}
		f(r)
	}
}

func (r row) oid(i int) types.OID {
	v, err := strconv.ParseUint(r.f[i], 10, 32)
	if err != nil {
		panic(fmt.Sprintf("%s: field %d: %v", r.file, i, err))
	}
	return types.OID(v)
}

func (r row) oids(i int) []types.OID {
	if r.f[i] == "" {
		return nil
	}
	var out []types.OID
	for _, s := range strings.Fields(r.f[i]) {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			panic(fmt.Sprintf("%s: field %d: %v", r.file, i, err))
		}
		out = append(out, types.OID(v))
	}
	return out
}

// What the functions below return belongs to the tables: nobody may change it.

// Procs returns all functions in OID order.
func Procs() []*Proc { return load().procs }

// ProcByOID returns a function.
func ProcByOID(oid types.OID) (*Proc, bool) {
	p, ok := load().procByOID[oid]
	return p, ok
}

// ProcsByName returns the overloads of a function name.
func ProcsByName(name string) []*Proc { return load().procByName[name] }

// Operators returns all operators in OID order.
func Operators() []*Operator { return load().ops }

// OperatorByOID returns an operator.
func OperatorByOID(oid types.OID) (*Operator, bool) {
	o, ok := load().opByOID[oid]
	return o, ok
}

// OperatorsByName returns the overloads of an operator name. The parser's != is <>.
func OperatorsByName(name string) []*Operator {
	if name == "!=" {
		name = "<>"
	}
	return load().opByName[name]
}

// Casts returns all casts of pg_cast, by source and target.
func Casts() []*Cast { return load().casts }

// FindCast returns pg_cast's row for two types. Not everything that can be cast is in it:
// arrays by their elements, and strings through the text form, are rules.
func FindCast(source, target types.OID) (*Cast, bool) {
	c, ok := load().castByKey[castKey{source, target}]
	return c, ok
}

// Aggregates returns all aggregates.
func Aggregates() []*Aggregate { return load().aggs }

// AggregateByOID returns the aggregate of a pg_proc OID.
func AggregateByOID(oid types.OID) (*Aggregate, bool) {
	a, ok := load().aggByOID[oid]
	return a, ok
}

// Fn returns the implementation for actual argument types (after polymorphic types and
// VARIADIC were resolved: a variadic array counts as one argument, VARIADIC "any" as many)
// and result type; nil if there is none.
func (p *Proc) Fn(args []types.OID, result types.OID) Eval {
	switch {
	case p.impl == nil:
		return nil
	case p.impl.eval != nil:
		return p.impl.eval
	case p.impl.bind != nil:
		return p.impl.bind(args, result)
	}
	return nil
}

// Signature prints name(type, type) as error messages do.
func Signature(name string, args []types.OID) string {
	var b strings.Builder
	b.WriteString(name)
	b.WriteByte('(')
	for i, a := range args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(types.TypeName(a))
	}
	b.WriteByte(')')
	return b.String()
}

// impl is how a function is computed: one of eval, bind, set or agg.
type impl struct {
	eval Eval
	bind func(args []types.OID, result types.OID) Eval
	set  SetFn
	agg  func(args []types.OID, result types.OID) func() Accumulator
}

// registry maps pg_proc.prosrc, or name(type,type) for functions that are not internal, to
// implementations.
type registry struct {
	m    map[string]*impl
	used map[string]bool
}

func newRegistry() *registry {
	r := &registry{m: map[string]*impl{}, used: map[string]bool{}}
	for _, add := range []func(*registry){
		compareFuncs, intFuncs, floatFuncs, numericFuncs, stringFuncs, patternFuncs, byteaFuncs, castFuncs,
		datetimeFuncs, arrayFuncs, jsonFuncs, sessionFuncs, catalogFuncs, miscFuncs, setFuncs, aggregateFuncs,
	} {
		add(r)
	}
	return r
}

func (r *registry) add(key string, i *impl) {
	if _, ok := r.m[key]; ok {
		panic("builtins: two implementations of " + key)
	}
	r.m[key] = i
}

// fn registers an implementation under one or more keys.
func (r *registry) fn(e Eval, keys ...string) {
	for _, k := range keys {
		r.add(k, &impl{eval: e})
	}
}

// bind registers an implementation that depends on the argument types.
func (r *registry) bind(b func(args []types.OID, result types.OID) Eval, keys ...string) {
	for _, k := range keys {
		r.add(k, &impl{bind: b})
	}
}

func (r *registry) find(p *Proc) *impl {
	key := p.Src
	if p.Lang != "internal" || p.Kind == 'a' {
		names := make([]string, len(p.Args))
		for i, a := range p.Args {
			names[i] = strconv.Itoa(int(a))
			if t, ok := types.Lookup(a); ok {
				names[i] = t.Name
			}
		}
		key = p.Name + "(" + strings.Join(names, ",") + ")"
	}
	i, ok := r.m[key]
	if !ok && p.Kind == 'a' {
		key = p.Name + "(*)" // an aggregate that one implementation serves for every type
		i, ok = r.m[key]
	}
	if ok {
		r.used[key] = true
	}
	return i
}

// checkUsed finds implementations whose key no function has: a misspelling.
func (r *registry) checkUsed() {
	var stray []string
	for k := range r.m {
		if !r.used[k] {
			stray = append(stray, k)
		}
	}
	if len(stray) > 0 {
		sort.Strings(stray)
		panic("builtins: implementations of functions that pg_proc does not have: " + strings.Join(stray, ", "))
	}
}
