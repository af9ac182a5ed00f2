package expr

import (
	"github.com/atolldb/atoll/node/sql/types"
)

// CmpOp is a comparison.
type CmpOp uint8

const (
	EQ CmpOp = iota
	NE
	LT
	LE
	GT
	GE
)

func (o CmpOp) String() string { return [...]string{"=", "<>", "<", "<=", ">", ">="}[o] }

// Holds says whether a comparison result satisfies the operator.
func (o CmpOp) Holds(c int) bool {
	switch o {
	case EQ:
		return c == 0
	case NE:
		return c != 0
	case LT:
		return c < 0
	case LE:
		return c <= 0
	case GT:
		return c > 0
	}
	return c >= 0
}

// Commute returns the operator with its operands exchanged.
func (o CmpOp) Commute() CmpOp { return [...]CmpOp{EQ, NE, GT, GE, LT, LE}[o] }

// Compare is a comparison of two values of the same kind, in the type's default order.
type Compare struct {
	Op       CmpOp
	L, R     Expr
	Location int32
}

func (e *Compare) Type() types.OID  { return types.OIDBool }
func (e *Compare) Mod() int32       { return -1 }
func (e *Compare) Children() []Expr { return []Expr{e.L, e.R} }
func (e *Compare) WithChildren(ch []Expr) Expr {
	return &Compare{Op: e.Op, L: ch[0], R: ch[1], Location: e.Location}
}
func (e *Compare) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	l, err := e.L.Eval(c, row)
	if err != nil || l.IsNull() {
		return types.Null, err
	}
	r, err := e.R.Eval(c, row)
	if err != nil || r.IsNull() {
		return types.Null, err
	}
	if l.Kind() == types.KindInt && r.Kind() == types.KindInt {
		a, b := l.Int(), r.Int()
		switch e.Op {
		case EQ:
			return types.NewBool(a == b), nil
		case NE:
			return types.NewBool(a != b), nil
		case LT:
			return types.NewBool(a < b), nil
		case LE:
			return types.NewBool(a <= b), nil
		case GT:
			return types.NewBool(a > b), nil
		}
		return types.NewBool(a >= b), nil
	}
	return types.NewBool(e.Op.Holds(compareTyped(e.L.Type(), l, r))), nil
}

// compareTyped compares two values of one type; char(n) ignores trailing blanks.
func compareTyped(t types.OID, l, r types.Datum) int {
	if t == types.OIDBPChar {
		return types.Compare(trimBlanks(l), trimBlanks(r))
	}
	return types.Compare(l, r)
}

// CompareTyped orders two non-null values of type t.
func CompareTyped(t types.OID, l, r types.Datum) int { return compareTyped(t, l, r) }

func trimBlanks(d types.Datum) types.Datum {
	s := d.Str()
	n := len(s)
	for n > 0 && s[n-1] == ' ' {
		n--
	}
	return types.NewString(s[:n])
}

// And and Or are n-ary, with SQL's three-valued logic.
type (
	And struct{ Args []Expr }
	Or  struct{ Args []Expr }
	Not struct{ Arg Expr }
)

func (e *And) Type() types.OID             { return types.OIDBool }
func (e *And) Mod() int32                  { return -1 }
func (e *And) Children() []Expr            { return e.Args }
func (e *And) WithChildren(ch []Expr) Expr { return &And{Args: ch} }
func (e *And) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	null := false
	for _, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		if v.IsNull() {
			null = true
		} else if !v.Bool() {
			return v, nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.NewBool(true), nil
}

func (e *Or) Type() types.OID             { return types.OIDBool }
func (e *Or) Mod() int32                  { return -1 }
func (e *Or) Children() []Expr            { return e.Args }
func (e *Or) WithChildren(ch []Expr) Expr { return &Or{Args: ch} }
func (e *Or) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	null := false
	for _, a := range e.Args {
		v, err := a.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		if v.IsNull() {
			null = true
		} else if v.Bool() {
			return v, nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.NewBool(false), nil
}

func (e *Not) Type() types.OID             { return types.OIDBool }
func (e *Not) Mod() int32                  { return -1 }
func (e *Not) Children() []Expr            { return []Expr{e.Arg} }
func (e *Not) WithChildren(ch []Expr) Expr { return &Not{Arg: ch[0]} }
func (e *Not) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	v, err := e.Arg.Eval(c, row)
	if err != nil || v.IsNull() {
		return types.Null, err
	}
	return types.NewBool(!v.Bool()), nil
}

// IsNull is IS [NOT] NULL. Over a row value it looks at the fields, as SQL says.
type IsNull struct {
	Arg Expr
	Neg bool
}

func (e *IsNull) Type() types.OID             { return types.OIDBool }
func (e *IsNull) Mod() int32                  { return -1 }
func (e *IsNull) Children() []Expr            { return []Expr{e.Arg} }
func (e *IsNull) WithChildren(ch []Expr) Expr { return &IsNull{Arg: ch[0], Neg: e.Neg} }
func (e *IsNull) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	v, err := e.Arg.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	if v.Kind() == types.KindRecord {
		for _, f := range v.Record().Values {
			if f.IsNull() == e.Neg {
				return types.NewBool(false), nil
			}
		}
		return types.NewBool(true), nil
	}
	return types.NewBool(v.IsNull() != e.Neg), nil
}

// BoolTest is IS [NOT] TRUE, FALSE or UNKNOWN.
type BoolTest struct {
	Arg  Expr
	Want types.Datum // true, false or NULL
	Neg  bool
}

func (e *BoolTest) Type() types.OID  { return types.OIDBool }
func (e *BoolTest) Mod() int32       { return -1 }
func (e *BoolTest) Children() []Expr { return []Expr{e.Arg} }
func (e *BoolTest) WithChildren(ch []Expr) Expr {
	return &BoolTest{Arg: ch[0], Want: e.Want, Neg: e.Neg}
}
func (e *BoolTest) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	v, err := e.Arg.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	same := v.IsNull() == e.Want.IsNull() && (v.IsNull() || v.Bool() == e.Want.Bool())
	return types.NewBool(same != e.Neg), nil
}

// DistinctFrom is IS [NOT] DISTINCT FROM. Eq compares the two operands, which it finds in
// its row at 0 and 1.
type DistinctFrom struct {
	L, R Expr
	Eq   Expr
	Neg  bool
}

func (e *DistinctFrom) Type() types.OID  { return types.OIDBool }
func (e *DistinctFrom) Mod() int32       { return -1 }
func (e *DistinctFrom) Children() []Expr { return []Expr{e.L, e.R} }
func (e *DistinctFrom) WithChildren(ch []Expr) Expr {
	return &DistinctFrom{L: ch[0], R: ch[1], Eq: e.Eq, Neg: e.Neg}
}
func (e *DistinctFrom) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	l, err := e.L.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	r, err := e.R.Eval(c, row)
	if err != nil {
		return types.Null, err
	}
	distinct := l.IsNull() != r.IsNull()
	if !l.IsNull() && !r.IsNull() {
		pair := [2]types.Datum{l, r}
		eq, err := e.Eq.Eval(c, pair[:])
		if err != nil {
			return types.Null, err
		}
		distinct = eq.IsNull() || !eq.Bool()
	}
	return types.NewBool(distinct != e.Neg), nil
}

// Truthy evaluates a condition: NULL counts as false.
func Truthy(c *Ctx, e Expr, row []types.Datum) (bool, error) {
	v, err := e.Eval(c, row)
	if err != nil {
		return false, err
	}
	return !v.IsNull() && v.Bool(), nil
}
