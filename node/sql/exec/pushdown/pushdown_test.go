package pushdown

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/rowenc"
	"github.com/atolldb/atoll/node/sql/types"
)

func slot(i int, t types.OID) expr.Expr {
	return &expr.Slot{Index: i, Col: &expr.Col{Typ: t, TMod: -1}}
}
func lit(t types.OID, v types.Datum) expr.Expr { return &expr.Const{Val: v, Typ: t, TMod: -1} }

// spec is over a table (a int8 primary key, b text, c int4 missing 7).
func spec(cond expr.Expr) *Spec {
	return &Spec{PrefixLen: 2, Slots: 3, Cond: cond,
		Key:   []KeyColumn{{Type: types.OIDInt8, Mod: -1, Slot: 0}},
		Value: []ValueColumn{{ID: 2, Slot: 1}, {ID: 3, Slot: 2, Missing: types.NewInt(7)}},
		Const: func(e expr.Expr) (types.Datum, error) { return e.Eval(&expr.Ctx{}, nil) }}
}

func entry(t testing.TB, a int64, vals ...types.Datum) (key, value []byte) {
	key, err := rowenc.AppendKey([]byte("pp"), types.OIDInt8, types.NewInt(a), encoding.Ascending, false)
	require.NoError(t, err)
	ids := []int16{2, 3}
	value, err = rowenc.AppendRow(nil, ids[:len(vals)], vals)
	require.NoError(t, err)
	return key, value
}

func TestFilter(t *testing.T) {
	a, b, c := slot(0, types.OIDInt8), slot(1, types.OIDText), slot(2, types.OIDInt4)
	one, x := lit(types.OIDInt4, types.NewInt(1)), lit(types.OIDText, types.NewString("x"))
	big := lit(types.OIDInt4, types.NewInt(math.MaxInt32))
	plus := &expr.Call{Name: "+", Op: true, Typ: types.OIDInt4, Args: []expr.Expr{c, big}}
	for _, tc := range []struct {
		name string
		cond expr.Expr
		keep []bool // rows (1, 'x', 1), (2, NULL, NULL), (3, 'y', missing)
	}{
		{"key", &expr.Compare{Op: expr.GE, L: a, R: lit(types.OIDInt8, types.NewInt(2))}, []bool{false, true, true}},
		{"text", &expr.Compare{Op: expr.EQ, L: b, R: x}, []bool{true, false, false}},
		{"null", &expr.IsNull{Arg: b}, []bool{false, true, false}},
		{"missing", &expr.Compare{Op: expr.EQ, L: c, R: lit(types.OIDInt4, types.NewInt(7))}, []bool{false, false, true}},
		{"or", &expr.Or{Args: []expr.Expr{&expr.Compare{Op: expr.EQ, L: c, R: one}, &expr.IsNull{Arg: c}}}, []bool{true, true, false}},
		{"not", &expr.Not{Arg: &expr.Compare{Op: expr.EQ, L: c, R: one}}, []bool{false, false, true}},
		{"in", &expr.InList{L: b, List: []expr.Expr{x, lit(types.OIDText, types.NewString("z"))}, Eq: true}, []bool{true, false, false}},
		{"notin", &expr.InList{L: b, List: []expr.Expr{x}, Eq: true, Neg: true}, []bool{false, false, true}},
		{"undecided", &expr.Compare{Op: expr.LT, L: plus, R: one}, []bool{true, false, true}}, // overflow: the gateway's error
		{"istrue", &expr.BoolTest{Arg: &expr.Compare{Op: expr.EQ, L: b, R: x}, Want: types.NewBool(true), Neg: true}, []bool{false, true, true}},
	} {
		enc, err := Encode(spec(tc.cond))
		require.NoError(t, err, tc.name)
		f, err := Compile(enc)
		require.NoError(t, err, tc.name)
		rows := [][]types.Datum{{types.NewString("x"), types.NewInt(1)}, {types.Null, types.Null}, {types.NewString("y")}}
		for i, r := range rows {
			key, value := entry(t, int64(i+1), r...)
			keep, _, err := f.Next(key, value)
			require.NoError(t, err)
			require.Equal(t, tc.keep[i], keep, "%s row %d", tc.name, i)
		}
	}
	sp := spec(nil)
	sp.Project, sp.Value = true, sp.Value[1:]
	enc, err := Encode(sp)
	require.NoError(t, err)
	f, err := Compile(enc)
	require.NoError(t, err)
	key, value := entry(t, 1, types.NewString("long text that nobody asked for"), types.NewInt(5))
	keep, out, err := f.Next(key, value)
	require.NoError(t, err)
	require.True(t, keep)
	want, err := rowenc.AppendRow(nil, []int16{3}, []types.Datum{types.NewInt(5)})
	require.NoError(t, err)
	require.Equal(t, want, out)
	_, err = Encode(spec(&expr.Compare{Op: expr.EQ, L: b, R: &expr.Subquery{}}))
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = Compile([]byte{9})
	require.ErrorContains(t, err, "version 9")
}

func FuzzCompile(f *testing.F) {
	a, b := slot(0, types.OIDInt8), slot(1, types.OIDText)
	for _, c := range []expr.Expr{
		&expr.Compare{Op: expr.GE, L: a, R: lit(types.OIDInt8, types.NewInt(2))},
		&expr.And{Args: []expr.Expr{&expr.IsNull{Arg: b}, &expr.InList{L: b, List: []expr.Expr{lit(types.OIDText, types.NewString("z"))}, Eq: true}}},
	} {
		enc, err := Encode(spec(c))
		require.NoError(f, err)
		key, value := entry(f, 1, types.NewString("x"))
		f.Add(enc, key, value)
	}
	f.Fuzz(func(t *testing.T, s, key, value []byte) {
		c, err := Compile(s)
		if err != nil {
			return
		}
		if _, _, err := c.Next(key, value); err != nil {
			t.Fatal(err)
		}
	})
}
