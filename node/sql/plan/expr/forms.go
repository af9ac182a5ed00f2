package expr

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func internalError(format string, args ...any) error {
	return pgerror.New(pgerrcode.InternalError, format, args...)
}

// Case is CASE WHEN. The binder turns a CASE with an operand into comparisons with it.
type Case struct {
	When []Expr // condition, result, condition, result ...
	Else Expr   // nil: NULL
	Typ  types.OID
	TMod int32
}

func (e *Case) Type() types.OID { return e.Typ }
func (e *Case) Mod() int32      { return e.TMod }
func (e *Case) Children() []Expr {
	out := append([]Expr(nil), e.When...)
	if e.Else != nil {
		out = append(out, e.Else)
	}
	return out
}
func (e *Case) WithChildren(ch []Expr) Expr {
	n := *e
	n.When = ch[:len(e.When)]
	if e.Else != nil {
		n.Else = ch[len(e.When)]
	}
	return &n
}
func (e *Case) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	for i := 0; i < len(e.When); i += 2 {
		ok, err := Truthy(c, e.When[i], row)
		if err != nil {
			return types.Null, err
		}
		if ok {
			return e.When[i+1].Eval(c, row)
		}
	}
	if e.Else == nil {
		return types.Null, nil
	}
	return e.Else.Eval(c, row)
}

// Coalesce returns its first argument that is not NULL.
type Coalesce struct {
	Args []Expr
	Typ  types.OID
	TMod int32
}

func (e *Coalesce) Type() types.OID  { return e.Typ }
func (e *Coalesce) Mod() int32       { return e.TMod }
func (e *Coalesce) Children() []Expr { return e.Args }
func (e *Coalesce) WithChildren(ch []Expr) Expr {
	return &Coalesce{Args: ch, Typ: e.Typ, TMod: e.TMod}
}
func (e *Coalesce) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	for _, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil || !v.IsNull() {
			return v, err
		}
	}
	return types.Null, nil
}

// MinMax is GREATEST or LEAST: NULLs are left out.
type MinMax struct {
	Args  []Expr
	Least bool
	Typ   types.OID
	TMod  int32
}

func (e *MinMax) Type() types.OID  { return e.Typ }
func (e *MinMax) Mod() int32       { return e.TMod }
func (e *MinMax) Children() []Expr { return e.Args }
func (e *MinMax) WithChildren(ch []Expr) Expr {
	return &MinMax{Args: ch, Least: e.Least, Typ: e.Typ, TMod: e.TMod}
}
func (e *MinMax) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	best := types.Null
	for _, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		if v.IsNull() {
			continue
		}
		if best.IsNull() || (compareTyped(e.Typ, v, best) < 0) == e.Least {
			best = v
		}
	}
	return best, nil
}

// NullIf returns NULL if Eq holds over its operands (its row's 0 and 1), else the first.
type NullIf struct {
	L, R Expr
	Eq   Expr
}

func (e *NullIf) Type() types.OID             { return e.L.Type() }
func (e *NullIf) Mod() int32                  { return e.L.Mod() }
func (e *NullIf) Children() []Expr            { return []Expr{e.L, e.R} }
func (e *NullIf) WithChildren(ch []Expr) Expr { return &NullIf{L: ch[0], R: ch[1], Eq: e.Eq} }
func (e *NullIf) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	l, err := e.L.Eval(c, row)
	if err != nil || l.IsNull() {
		return l, err
	}
	r, err := e.R.Eval(c, row)
	if err != nil || r.IsNull() {
		return l, err
	}
	pair := [2]types.Datum{l, r}
	eq, err := Truthy(c, e.Eq, pair[:])
	if err != nil {
		return types.Null, err
	}
	if eq {
		return types.Null, nil
	}
	return l, nil
}

// Array is ARRAY[...]. With Nested its elements are arrays, which become one with another
// dimension.
type Array struct {
	Elems  []Expr
	Elem   types.OID
	Typ    types.OID
	Nested bool
}

func (e *Array) Type() types.OID  { return e.Typ }
func (e *Array) Mod() int32       { return -1 }
func (e *Array) Children() []Expr { return e.Elems }
func (e *Array) WithChildren(ch []Expr) Expr {
	return &Array{Elems: ch, Elem: e.Elem, Typ: e.Typ, Nested: e.Nested}
}
func (e *Array) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	out := &types.Array{Elem: e.Elem}
	for i, x := range e.Elems {
		v, err := x.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		if !e.Nested {
			out.Values = append(out.Values, v)
			continue
		}
		var sub types.Array
		if !v.IsNull() {
			sub = *v.Array()
		}
		if i == 0 {
			out.Dims = append([]types.ArrayDim{{Len: int32(len(e.Elems)), Lower: 1}}, sub.Dims...)
		} else if !sameDims(out.Dims[1:], sub.Dims) {
			return types.Null, pgerror.New(pgerrcode.ArraySubscriptError,
				"multidimensional arrays must have array expressions with matching dimensions")
		}
		out.Values = append(out.Values, sub.Values...)
	}
	if len(out.Values) == 0 {
		out.Dims = nil
	} else if !e.Nested {
		out.Dims = []types.ArrayDim{{Len: int32(len(out.Values)), Lower: 1}}
	}
	return types.NewArray(out), nil
}

func sameDims(a, b []types.ArrayDim) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Len != b[i].Len {
			return false
		}
	}
	return true
}

// Subscript is a[i][j] or a slice a[l:u]. A nil bound of a slice means the array's own.
type Subscript struct {
	Arg          Expr
	Lower, Upper []Expr // Lower only for a slice
	Slice        bool
	Typ          types.OID
	TMod         int32
}

func (e *Subscript) Type() types.OID { return e.Typ }
func (e *Subscript) Mod() int32      { return e.TMod }
func (e *Subscript) Children() []Expr {
	out := []Expr{e.Arg}
	for _, l := range [][]Expr{e.Lower, e.Upper} {
		for _, x := range l {
			if x != nil {
				out = append(out, x)
			}
		}
	}
	return out
}
func (e *Subscript) WithChildren(ch []Expr) Expr {
	n := *e
	n.Arg, ch = ch[0], ch[1:]
	take := func(l []Expr) []Expr {
		out := append([]Expr(nil), l...)
		for i := range out {
			if out[i] != nil {
				out[i], ch = ch[0], ch[1:]
			}
		}
		return out
	}
	n.Lower = take(e.Lower)
	n.Upper = take(e.Upper)
	return &n
}

func (e *Subscript) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	v, err := e.Arg.Eval(c, row)
	if err != nil || v.IsNull() {
		return types.Null, err
	}
	arr := v.Array()
	lower, lnull, err := evalBounds(c, e.Lower, row)
	if err != nil {
		return types.Null, err
	}
	upper, unull, err := evalBounds(c, e.Upper, row)
	if err != nil || lnull || unull {
		return types.Null, err
	}
	if e.Slice {
		return slice(arr, e.Lower, e.Upper, lower, upper)
	}
	if len(upper) != len(arr.Dims) {
		return types.Null, nil
	}
	pos := 0
	for i, d := range arr.Dims {
		k := upper[i] - int64(d.Lower)
		if k < 0 || k >= int64(d.Len) {
			return types.Null, nil
		}
		pos = pos*int(d.Len) + int(k)
	}
	return arr.Values[pos], nil
}

func evalBounds(c *Ctx, l []Expr, row []types.Datum) (out []int64, null bool, err error) {
	out = make([]int64, len(l))
	for i, x := range l {
		if x == nil {
			continue
		}
		v, err := x.Eval(c, row)
		if err != nil {
			return nil, false, err
		}
		if v.IsNull() {
			return nil, true, nil
		}
		out[i] = v.Int()
	}
	return out, false, nil
}

// slice cuts a one-dimensional array; more dimensions are not supported.
func slice(arr *types.Array, le, ue []Expr, lower, upper []int64) (types.Datum, error) {
	empty := types.NewArray(&types.Array{Elem: arr.Elem})
	if len(arr.Dims) == 0 {
		return empty, nil
	}
	if len(arr.Dims) > 1 || len(lower) > 1 {
		return types.Null, pgerror.New(pgerrcode.FeatureNotSupported, "slices of multidimensional arrays are not supported")
	}
	d := arr.Dims[0]
	lo, hi := int64(d.Lower), int64(d.Lower)+int64(d.Len)-1
	if le[0] != nil {
		lo = max(lo, lower[0])
	}
	if ue[0] != nil {
		hi = min(hi, upper[0])
	}
	if lo > hi {
		return empty, nil
	}
	vals := arr.Values[lo-int64(d.Lower) : hi-int64(d.Lower)+1]
	return types.NewArray(&types.Array{Elem: arr.Elem, Values: vals, Dims: []types.ArrayDim{{Len: int32(len(vals)), Lower: 1}}}), nil
}

// Row is ROW(...).
type Row struct {
	Args []Expr
	// Names are the field names of a whole-row reference, for (x).field.
	Names []string
}

func (e *Row) Type() types.OID             { return types.OIDRecord }
func (e *Row) Mod() int32                  { return -1 }
func (e *Row) Children() []Expr            { return e.Args }
func (e *Row) WithChildren(ch []Expr) Expr { return &Row{Args: ch, Names: e.Names} }
func (e *Row) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	r := &types.Record{Types: make([]types.OID, len(e.Args)), Values: make([]types.Datum, len(e.Args))}
	for i, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		r.Types[i], r.Values[i] = a.Type(), v
	}
	return types.NewRecord(r), nil
}

// RowCompare compares rows by <, <=, > or >=. Eq[i] and Less[i] compare the operands (their
// row's 0 and 1).
type RowCompare struct {
	Op       CmpOp
	L, R     []Expr
	Eq, Less []Expr
}

func (e *RowCompare) Type() types.OID  { return types.OIDBool }
func (e *RowCompare) Mod() int32       { return -1 }
func (e *RowCompare) Children() []Expr { return append(append([]Expr(nil), e.L...), e.R...) }
func (e *RowCompare) WithChildren(ch []Expr) Expr {
	n := *e
	n.L, n.R = ch[:len(e.L)], ch[len(e.L):]
	return &n
}
func (e *RowCompare) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	for i := range e.L {
		l, err := e.L[i].Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		r, err := e.R[i].Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		if l.IsNull() || r.IsNull() {
			return types.Null, nil
		}
		pair := [2]types.Datum{l, r}
		eq, err := e.Eq[i].Eval(c, pair[:])
		if err != nil {
			return types.Null, err
		}
		if eq.IsNull() {
			return types.Null, nil
		}
		if eq.Bool() {
			continue
		}
		less, err := e.Less[i].Eval(c, pair[:])
		if err != nil || less.IsNull() {
			return types.Null, err
		}
		return types.NewBool(less.Bool() == (e.Op == LT || e.Op == LE)), nil
	}
	return types.NewBool(e.Op == LE || e.Op == GE), nil
}

// AnyArray is x op ANY (array), or ALL. Cmp compares its row's 0 (x) and 1 (an element).
type AnyArray struct {
	L, R Expr
	Cmp  Expr
	All  bool
	// Eq says that Cmp is equality within one type, so that an index can be used.
	Eq bool
	Op string
}

func (e *AnyArray) Type() types.OID  { return types.OIDBool }
func (e *AnyArray) Mod() int32       { return -1 }
func (e *AnyArray) Children() []Expr { return []Expr{e.L, e.R} }
func (e *AnyArray) WithChildren(ch []Expr) Expr {
	n := *e
	n.L, n.R = ch[0], ch[1]
	return &n
}
func (e *AnyArray) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	l, err := e.L.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	r, err := e.R.Eval(c, row)
	if err != nil || r.IsNull() {
		return types.Null, err
	}
	null := false
	pair := [2]types.Datum{l}
	for _, v := range r.Array().Values {
		pair[1] = v
		ok, err := e.Cmp.Eval(c, pair[:])
		if err != nil {
			return types.Null, err
		}
		if ok.IsNull() {
			null = true
		} else if ok.Bool() != e.All {
			return types.NewBool(!e.All), nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.NewBool(e.All), nil
}

// InList is x IN (...) or, with Neg, NOT IN. Cmp compares its row's 0 (x) and 1 (an item).
type InList struct {
	L    Expr
	List []Expr
	Cmp  Expr
	Neg  bool
	// Eq says that Cmp is equality within one type, so that an index can be used.
	Eq bool
}

func (e *InList) Type() types.OID  { return types.OIDBool }
func (e *InList) Mod() int32       { return -1 }
func (e *InList) Children() []Expr { return append([]Expr{e.L}, e.List...) }
func (e *InList) WithChildren(ch []Expr) Expr {
	n := *e
	n.L, n.List = ch[0], ch[1:]
	return &n
}
func (e *InList) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	l, err := e.L.Eval(c, row)
	if err != nil || l.IsNull() {
		return types.Null, err
	}
	null := false
	pair := [2]types.Datum{l}
	for _, x := range e.List {
		if pair[1], err = x.Eval(c, row); err != nil {
			return types.Null, err
		}
		ok, err := e.Cmp.Eval(c, pair[:])
		if err != nil {
			return types.Null, err
		}
		if ok.IsNull() {
			null = true
		} else if ok.Bool() {
			return types.NewBool(!e.Neg), nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.NewBool(e.Neg), nil
}

// Field is (record).f: the N-th field, counted from 0.
type Field struct {
	Arg  Expr
	N    int
	Typ  types.OID
	Name string
}

func (e *Field) Type() types.OID  { return e.Typ }
func (e *Field) Mod() int32       { return -1 }
func (e *Field) Children() []Expr { return []Expr{e.Arg} }
func (e *Field) WithChildren(ch []Expr) Expr {
	n := *e
	n.Arg = ch[0]
	return &n
}
func (e *Field) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	v, err := e.Arg.Eval(c, row)
	if err != nil || v.IsNull() {
		return types.Null, err
	}
	return v.Record().Values[e.N], nil
}

// SimpleCase is CASE operand WHEN value. Cmp[i] compares the operand and Values[i] (its
// row's 0 and 1).
type SimpleCase struct {
	Operand Expr
	Values  []Expr
	Cmp     []Expr
	Results []Expr
	Else    Expr // nil: NULL
	Typ     types.OID
	TMod    int32
}

func (e *SimpleCase) Type() types.OID { return e.Typ }
func (e *SimpleCase) Mod() int32      { return e.TMod }
func (e *SimpleCase) Children() []Expr {
	out := append([]Expr{e.Operand}, e.Values...)
	out = append(out, e.Results...)
	if e.Else != nil {
		out = append(out, e.Else)
	}
	return out
}
func (e *SimpleCase) WithChildren(ch []Expr) Expr {
	n, k := *e, len(e.Values)
	n.Operand, n.Values, n.Results = ch[0], ch[1:1+k], ch[1+k:1+2*k]
	if e.Else != nil {
		n.Else = ch[1+2*k]
	}
	return &n
}
func (e *SimpleCase) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	op, err := e.Operand.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	pair := [2]types.Datum{op}
	for i := range e.Values {
		if pair[1], err = e.Values[i].Eval(c, row); err != nil {
			return types.Null, err
		}
		ok, err := Truthy(c, e.Cmp[i], pair[:])
		if err != nil {
			return types.Null, err
		}
		if ok {
			return e.Results[i].Eval(c, row)
		}
	}
	if e.Else == nil {
		return types.Null, nil
	}
	return e.Else.Eval(c, row)
}

// RowID is the default of the hidden key column of a table without a primary key: a number
// that no other row of the cluster has, roughly ascending in time. Ctx.NewRowID makes it.
type RowID struct{}

func (e *RowID) Type() types.OID          { return types.OIDInt8 }
func (e *RowID) Mod() int32               { return -1 }
func (e *RowID) Children() []Expr         { return nil }
func (e *RowID) WithChildren([]Expr) Expr { return e }
func (e *RowID) Eval(c *Ctx, _ []types.Datum) (types.Datum, error) {
	if c.NewRowID == nil {
		return types.Null, internalError("no generator of row IDs")
	}
	return types.NewInt(c.NewRowID()), nil
}
