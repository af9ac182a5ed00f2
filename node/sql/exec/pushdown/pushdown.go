// Package pushdown holds filters that a gateway sends with a scan, so that rows that cannot
// pass never leave the leaseholder.
//
// A filter may only drop rows for which the gateway's own condition is certainly false or
// NULL: the gateway evaluates it again over what comes back. So whatever a leaseholder
// cannot decide (an overflow, an unknown column) keeps the row, and the gateway reports the
// error that PostgreSQL would.
//
// # Format
//
// Version byte 0x01, then uvarints and length-prefixed bytes:
//
//	prefix length (bytes of the key before its columns)
//	number of slots
//	1 if kept rows' values hold nothing but the value columns below, else 0
//	key columns:   count, then for each: type OID, modifier+1, direction, slot+1 (0: skip)
//	value columns: count, then for each: column ID, slot
//	missing:       a row value (package rowenc) with the defaults of columns that old rows lack
//	constants:     a row value with the constants as columns 1, 2, 3 ...
//	program:       the condition in prefix order, one byte per node, with uvarint operands;
//	               empty: every row passes
package pushdown

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/rowenc"
	"github.com/atolldb/atoll/node/sql/types"
)

const (
	version = 0x01
	// MaxBytes bounds a specification.
	MaxBytes = 64 << 10
	maxSlots = 1664
	maxConst = 4096
	maxDepth = 64
)

// Nodes of the program.
const (
	opSlot    = 1  // slot
	opConst   = 2  // index
	opCompare = 3  // CmpOp, char(n) flag, left, right
	opAnd     = 4  // count, conditions
	opOr      = 5  // count, conditions
	opNot     = 6  // condition
	opIsNull  = 7  // negated, operand
	opIn      = 8  // negated, char(n) flag, operand, count, items
	opIntOp   = 9  // '+', '-' or '*', bits of the result's type, left, right
	opIsBool  = 10 // wanted (0 false, 1 true, 2 unknown), negated, operand
)

// KeyColumn is a column of the scanned index's key, in order.
type KeyColumn struct {
	Type       types.OID
	Mod        int32
	Descending bool
	Slot       int // -1: not wanted
}

// ValueColumn is a column that entries hold in their value.
type ValueColumn struct {
	ID      int16
	Slot    int
	Missing types.Datum
}

// Spec is a filter before it is encoded. Cond is over slots and expressions without slots,
// which Const turns into values; what it contains beside the nodes above makes Encode fail.
type Spec struct {
	PrefixLen int
	Slots     int
	Key       []KeyColumn
	Value     []ValueColumn
	// Project drops all other columns from the values of kept rows.
	Project bool
	Cond    expr.Expr // nil: every row passes
	// Const evaluates an expression that refers to no slot.
	Const func(expr.Expr) (types.Datum, error)
}

// ErrUnsupported is returned for conditions that a leaseholder does not evaluate.
var ErrUnsupported = errors.New("pushdown: condition cannot be evaluated at the leaseholder")

// Encode serializes a filter.
func Encode(s *Spec) ([]byte, error) {
	e := &encoder{s: s}
	if s.Cond != nil {
		if err := e.node(s.Cond, 0); err != nil {
			return nil, err
		}
	}
	b := []byte{version}
	b = binary.AppendUvarint(b, uint64(s.PrefixLen))
	b = binary.AppendUvarint(b, uint64(s.Slots))
	b = binary.AppendUvarint(b, flag(s.Project))
	b = binary.AppendUvarint(b, uint64(len(s.Key)))
	for _, k := range s.Key {
		b = binary.AppendUvarint(b, uint64(k.Type))
		b = binary.AppendUvarint(b, uint64(k.Mod+1))
		b = binary.AppendUvarint(b, flag(k.Descending))
		b = binary.AppendUvarint(b, uint64(k.Slot+1))
	}
	missing := rowenc.BeginRow(nil)
	prev := int16(0)
	b = binary.AppendUvarint(b, uint64(len(s.Value)))
	var err error
	for _, v := range s.Value {
		b = binary.AppendUvarint(b, uint64(v.ID))
		b = binary.AppendUvarint(b, uint64(v.Slot))
		if missing, err = rowenc.AppendColumn(missing, prev, v.ID, v.Missing); err != nil {
			return nil, err
		}
		prev = v.ID
	}
	b = appendBytes(b, missing)
	consts := rowenc.BeginRow(nil)
	for i, d := range e.consts {
		if consts, err = rowenc.AppendColumn(consts, int16(i), int16(i+1), d); err != nil {
			return nil, err
		}
	}
	b = appendBytes(b, consts)
	b = appendBytes(b, e.prog)
	if len(b) > MaxBytes {
		return nil, ErrUnsupported
	}
	return b, nil
}

func flag(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

type encoder struct {
	s      *Spec
	prog   []byte
	consts []types.Datum
}

func (e *encoder) op(op byte, args ...uint64) {
	e.prog = append(e.prog, op)
	for _, a := range args {
		e.prog = binary.AppendUvarint(e.prog, a)
	}
}

func hasSlot(x expr.Expr) bool {
	found := false
	expr.Walk(x, func(n expr.Expr) bool {
		switch n.(type) {
		case *expr.Slot, *expr.Subquery:
			found = true
		}
		return !found
	})
	return found
}

// plain says whether a type's values mean the same everywhere and compare by types.Compare.
func plain(t types.OID) bool {
	switch types.KindOf(t) {
	case types.KindBool, types.KindInt, types.KindFloat, types.KindTimestamp, types.KindDate, types.KindTime,
		types.KindString, types.KindBytes, types.KindUUID, types.KindNumeric:
		return true
	}
	return false
}

func (e *encoder) node(x expr.Expr, depth int) error {
	if depth >= maxDepth || len(e.prog) > MaxBytes {
		return ErrUnsupported
	}
	if !hasSlot(x) {
		if expr.IsVolatile(x) || len(e.consts) >= maxConst {
			return ErrUnsupported
		}
		v, err := e.s.Const(x)
		if err != nil || !plain(x.Type()) {
			return ErrUnsupported // the gateway reports the error, if a row gets there
		}
		e.op(opConst, uint64(len(e.consts)))
		e.consts = append(e.consts, v)
		return nil
	}
	switch v := x.(type) {
	case *expr.Slot:
		if !plain(v.Type()) {
			return ErrUnsupported
		}
		e.op(opSlot, uint64(v.Index))
		return nil
	case *expr.Relabel:
		if (v.Typ == types.OIDBPChar) != (v.Arg.Type() == types.OIDBPChar) {
			return ErrUnsupported
		}
		return e.node(v.Arg, depth+1)
	case *expr.Compare:
		e.op(opCompare, uint64(v.Op), flag(v.L.Type() == types.OIDBPChar))
		return e.nodes(depth, v.L, v.R)
	case *expr.And:
		e.op(opAnd, uint64(len(v.Args)))
		return e.nodes(depth, v.Args...)
	case *expr.Or:
		e.op(opOr, uint64(len(v.Args)))
		return e.nodes(depth, v.Args...)
	case *expr.Not:
		e.op(opNot)
		return e.node(v.Arg, depth+1)
	case *expr.IsNull:
		e.op(opIsNull, flag(v.Neg))
		return e.node(v.Arg, depth+1)
	case *expr.BoolTest:
		want := uint64(2)
		if !v.Want.IsNull() {
			want = flag(v.Want.Bool())
		}
		e.op(opIsBool, want, flag(v.Neg))
		return e.node(v.Arg, depth+1)
	case *expr.InList:
		if !v.Eq {
			return ErrUnsupported
		}
		e.op(opIn, flag(v.Neg), flag(v.L.Type() == types.OIDBPChar))
		if err := e.node(v.L, depth+1); err != nil {
			return err
		}
		e.prog = binary.AppendUvarint(e.prog, uint64(len(v.List)))
		return e.nodes(depth, v.List...)
	case *expr.Call:
		return e.call(v, depth)
	}
	return ErrUnsupported
}

func (e *encoder) nodes(depth int, l ...expr.Expr) error {
	for _, x := range l {
		if err := e.node(x, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// call encodes integer arithmetic.
func (e *encoder) call(v *expr.Call, depth int) error {
	if !v.Op || len(v.Args) != 2 || len(v.Name) != 1 {
		return ErrUnsupported
	}
	bits := intBits(v.Typ)
	if bits == 0 || intBits(v.Args[0].Type()) == 0 || intBits(v.Args[1].Type()) == 0 {
		return ErrUnsupported
	}
	switch v.Name[0] {
	case '+', '-', '*':
		e.op(opIntOp, uint64(v.Name[0]), uint64(bits))
		return e.nodes(depth, v.Args...)
	}
	return ErrUnsupported
}

func intBits(t types.OID) int {
	switch t {
	case types.OIDInt2:
		return 16
	case types.OIDInt4:
		return 32
	case types.OIDInt8:
		return 64
	}
	return 0
}

// Filter is a compiled filter. It is used by one goroutine.
type Filter struct {
	prefix  int
	keys    []KeyColumn
	keyMax  int
	values  *rowenc.Decoder
	cond    node // nil: every row passes
	row     []types.Datum
	project bool
	cols    []rowenc.Column
	chunk   []byte // where projected values go, many to an allocation
}

// chunkBytes is how much memory projected values take at a time.
const chunkBytes = 16 << 10

// node is a compiled part of the program. The result is undecided if ok is false.
type node interface {
	eval(row []types.Datum) (v types.Datum, ok bool)
}

// Compile parses a specification. It comes from another node, maybe of another version.
func Compile(spec []byte) (*Filter, error) {
	if len(spec) == 0 || len(spec) > MaxBytes {
		return nil, fmt.Errorf("pushdown: specification of %d bytes, at most %d", len(spec), MaxBytes)
	}
	if spec[0] != version {
		return nil, fmt.Errorf("pushdown: format version %d is not known, this node reads version %d", spec[0], version)
	}
	d := &decoder{b: spec[1:]}
	f := &Filter{prefix: d.limited(1 << 16)}
	d.slots = d.limited(maxSlots)
	f.project = d.limited(1) == 1
	for n := d.limited(64); n > 0 && d.err == nil; n-- {
		k := KeyColumn{Type: types.OID(d.uint(math.MaxUint32)), Mod: int32(d.uint(math.MaxInt32)) - 1, Descending: d.limited(1) == 1, Slot: d.limited(d.slots) - 1}
		f.keys = append(f.keys, k)
		if k.Slot >= 0 {
			f.keyMax = len(f.keys)
		}
	}
	var cols []rowenc.Column
	for n := d.limited(maxSlots); n > 0 && d.err == nil; n-- {
		c := rowenc.Column{ID: int16(d.limited(math.MaxInt16)), Slot: d.slot()}
		if c.ID == 0 || len(cols) > 0 && c.ID <= cols[len(cols)-1].ID {
			d.fail("column IDs do not ascend")
		}
		cols = append(cols, c)
	}
	missing, consts := d.bytes(), d.bytes()
	prog := d.bytes()
	if d.err != nil {
		return nil, d.err
	}
	if err := f.columns(cols, missing); err != nil {
		return nil, err
	}
	var err error
	if d.consts, err = constants(consts); err != nil {
		return nil, err
	}
	d.b = prog
	if f.cols = cols; len(prog) > 0 {
		f.cond = d.node(0)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("the program goes on after its end")
	}
	f.row = make([]types.Datum, d.slots)
	return f, d.err
}

// columns sets the decoders up.
func (f *Filter) columns(cols []rowenc.Column, missing []byte) error {
	if len(cols) > 0 {
		def := make([]rowenc.Column, len(cols))
		vals := make([]types.Datum, len(cols))
		for i, c := range cols {
			def[i] = rowenc.Column{ID: c.ID, Slot: i}
		}
		if err := rowenc.NewDecoder(def).Decode(missing, vals); err != nil {
			return fmt.Errorf("pushdown: defaults: %w", err)
		}
		for i := range cols {
			cols[i].Missing = vals[i]
		}
		f.values = rowenc.NewDecoder(cols)
	}
	return nil
}

// constants decodes a row of constants.
func constants(b []byte) ([]types.Datum, error) {
	const unset = math.MinInt64 + 1 // no constant is a time of this value
	mark := types.NewTime(unset)
	n := min(maxConst, len(b)) // a constant takes a byte at least
	cols := make([]rowenc.Column, n)
	for i := range cols {
		cols[i] = rowenc.Column{ID: int16(i + 1), Slot: i, Missing: mark}
	}
	out := make([]types.Datum, n)
	if err := rowenc.NewDecoder(cols).Decode(b, out); err != nil {
		return nil, fmt.Errorf("pushdown: constants: %w", err)
	}
	for i := range out {
		if out[i] == mark {
			return out[:i], nil
		}
	}
	return out, nil
}

// Next reports whether a row may pass. out is nil if the value stays as it is stored.
func (f *Filter) Next(key, value []byte) (keep bool, out []byte, err error) {
	if len(key) < f.prefix {
		return true, nil, nil
	}
	clear(f.row)
	b := key[f.prefix:]
	for i := 0; f.cond != nil && i < f.keyMax && len(b) > 0; i++ {
		k := &f.keys[i]
		dir := encoding.Ascending
		if k.Descending {
			dir = encoding.Descending
		}
		d, rest, err := rowenc.DecodeKey(b, k.Type, k.Mod, dir)
		if err != nil {
			return true, nil, nil
		}
		if b = rest; k.Slot >= 0 {
			f.row[k.Slot] = d
		}
	}
	if f.values != nil {
		if err := f.values.Decode(value, f.row); err != nil {
			return true, nil, nil // the gateway reports what is wrong with the row
		}
	}
	if f.cond != nil {
		v, ok := f.cond.eval(f.row)
		if ok && (v.IsNull() || v.Kind() != types.KindBool || !v.Bool()) {
			return false, nil, nil
		}
	}
	if f.project {
		out = f.projected()
	}
	return true, out, nil
}

// projected encodes the wanted columns; nil if that fails, which leaves the value as it is.
func (f *Filter) projected() []byte {
	if cap(f.chunk)-len(f.chunk) < chunkBytes/8 {
		f.chunk = make([]byte, 0, chunkBytes)
	}
	start := len(f.chunk)
	b := rowenc.BeginRow(f.chunk)
	prev := int16(0)
	var err error
	for i := range f.cols {
		c := &f.cols[i]
		if b, err = rowenc.AppendColumn(b, prev, c.ID, f.row[c.Slot]); err != nil {
			return nil
		}
		prev = c.ID
	}
	if cap(b) == cap(f.chunk) {
		f.chunk = b
	}
	return b[start:len(b):len(b)]
}

// Compiler compiles filters for package eval. The server adapts it to eval.Pushdown, whose
// RowFilter a *Filter is: packages of sql do not import those below the transaction layer.
type Compiler struct{}

// Compile is the function Compile.
func (Compiler) Compile(spec []byte) (*Filter, error) { return Compile(spec) }
