package expr

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// SubqueryKind says what a subquery's rows mean.
type SubqueryKind uint8

const (
	ScalarSubquery SubqueryKind = iota
	ExistsSubquery
	AnySubquery
	AllSubquery
	ArraySubquery
)

// Subquery is a subquery in an expression.
type Subquery struct {
	Kind SubqueryKind
	// Plan is a logical.Node until package opt replaces it by a physical one.
	Plan any
	// Number counts the statement's subqueries (EXPLAIN: SubPlan 1).
	Number int
	// Test holds the left operands of ANY and ALL; Cmp compares them with the subquery's
	// columns, in one row: test values first, then columns.
	Test []Expr
	Cmp  Expr
	// Hash: Cmp is plain equality of each pair, so that a set will do.
	Hash bool
	// Correlated subqueries run again for each outer row. Pass says which values of the
	// outer row go where in Ctx.Outer.
	Correlated bool
	Pass       []Pass
	Elem       types.OID // of an ArraySubquery
	Typ        types.OID
	TMod       int32
}

// Pass copies column From of a row to Ctx.Outer[To].
type Pass struct{ From, To int }

func (e *Subquery) Type() types.OID  { return e.Typ }
func (e *Subquery) Mod() int32       { return e.TMod }
func (e *Subquery) Children() []Expr { return e.Test }
func (e *Subquery) WithChildren(ch []Expr) Expr {
	n := *e
	n.Test = ch
	return &n
}

// Eval runs the subquery, or finds what it gave before when it depends on no outer row.
func (e *Subquery) Eval(c *Ctx, row []types.Datum) (types.Datum, error) {
	if e.Kind == AnySubquery || e.Kind == AllSubquery {
		return e.quantified(c, row)
	}
	if e.Correlated {
		return e.value(c, row)
	}
	v, err := c.Sub.Cached(e, func() (any, error) { return e.value(c, row) })
	if err != nil {
		return types.Null, err
	}
	return v.(types.Datum), nil
}

func (e *Subquery) value(c *Ctx, row []types.Datum) (types.Datum, error) {
	switch e.Kind {
	case ExistsSubquery:
		found := false
		err := c.Sub.RunSubquery(c, e, row, func([]types.Datum) (bool, error) { found = true; return false, nil })
		return types.NewBool(found), err
	case ArraySubquery:
		arr := &types.Array{Elem: e.Elem}
		err := c.Sub.RunSubquery(c, e, row, func(r []types.Datum) (bool, error) {
			arr.Values = append(arr.Values, r[0])
			return true, nil
		})
		if len(arr.Values) > 0 {
			arr.Dims = []types.ArrayDim{{Len: int32(len(arr.Values)), Lower: 1}}
		}
		return types.NewArray(arr), err
	}
	out, n := types.Null, 0
	err := c.Sub.RunSubquery(c, e, row, func(r []types.Datum) (bool, error) {
		if n++; n > 1 {
			return false, pgerror.New(pgerrcode.CardinalityViolation, "more than one row returned by a subquery used as an expression")
		}
		out = r[0]
		return true, nil
	})
	return out, err
}

// rowSet is a subquery's rows, kept for IN.
type rowSet struct {
	rows    [][]types.Datum
	keys    map[string]struct{}
	hasNull bool
}

func (e *Subquery) quantified(c *Ctx, row []types.Datum) (types.Datum, error) {
	n := len(e.Test)
	pair := make([]types.Datum, n, 2*n)
	testNull := false
	for i, t := range e.Test {
		v, err := t.Eval(c, row)
		if err != nil {
			return types.Null, err
		}
		pair[i] = v
		testNull = testNull || v.IsNull()
	}
	all := e.Kind == AllSubquery
	null, decided := false, false
	try := func(r []types.Datum) (bool, error) {
		ok, err := e.Cmp.Eval(c, append(pair[:n], r[:n]...))
		if err != nil {
			return false, err
		}
		if ok.IsNull() {
			null = true
		} else if ok.Bool() != all {
			decided = true
			return false, nil
		}
		return true, nil
	}
	if e.Correlated {
		if err := c.Sub.RunSubquery(c, e, row, try); err != nil {
			return types.Null, err
		}
	} else {
		v, err := c.Sub.Cached(e, func() (any, error) { return e.collect(c, row) })
		if err != nil {
			return types.Null, err
		}
		set := v.(*rowSet)
		if set.keys != nil && !testNull {
			if _, ok := set.keys[string(AppendHashKeys(nil, pair[:n]))]; ok {
				return types.NewBool(true), nil
			}
			if !set.hasNull {
				return types.NewBool(false), nil
			}
		}
		for _, r := range set.rows {
			if more, err := try(r); err != nil {
				return types.Null, err
			} else if !more {
				break
			}
		}
	}
	switch {
	case decided:
		return types.NewBool(!all), nil
	case null:
		return types.Null, nil
	}
	return types.NewBool(all), nil
}

// collect keeps a subquery's rows, with a set of them if equality is all that is asked.
func (e *Subquery) collect(c *Ctx, row []types.Datum) (any, error) {
	set := &rowSet{}
	if e.Hash && e.Kind == AnySubquery {
		set.keys = map[string]struct{}{}
	}
	n := len(e.Test)
	var buf []byte
	err := c.Sub.RunSubquery(c, e, row, func(r []types.Datum) (bool, error) {
		null := false
		for _, v := range r[:n] {
			null = null || v.IsNull()
		}
		if set.keys != nil && !null {
			buf = AppendHashKeys(buf[:0], r[:n])
			if _, ok := set.keys[string(buf)]; ok {
				return true, nil
			}
			set.keys[string(buf)] = struct{}{}
		}
		set.hasNull = set.hasNull || null
		set.rows = append(set.rows, append([]types.Datum(nil), r[:n]...))
		return true, nil
	})
	return set, err
}
