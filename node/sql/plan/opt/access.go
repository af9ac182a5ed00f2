package opt

import (
	"math"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// path is one way to read a table.
type path struct {
	index   *catalog.Index
	eq      []keyCond
	lower   *rangeCond
	upper   *rangeCond
	used    map[int]bool // conditions that the range stands for
	point   bool
	fetch   bool // rows come from the primary index
	reverse bool
	ordered bool
	rows    float64 // entries read
	out     float64 // rows that pass all conditions
	cost    float64
}

// keyCond is an equality on a key column.
type keyCond struct {
	vals  []expr.Expr
	array expr.Expr
	null  bool
	pred  int
}

type rangeCond struct {
	e         expr.Expr
	inclusive bool
	pred      int
}

// access chooses how to read a table under conditions.
func (b *builder) access(s *logical.Scan, preds []expr.Expr, need logical.Set, want *order) (physical.Node, bool, error) {
	best := b.bestPath(s, preds, need, want)
	n, err := b.scan(s, preds, best, need)
	if err != nil {
		return nil, false, err
	}
	return n, best.ordered, nil
}

func (b *builder) tableRows(t *catalog.Table) float64 {
	if b.opts.Stats != nil {
		if r := b.opts.Stats.Rows(t.ID); r > 0 {
			return r
		}
	}
	return defaultRows
}

func (b *builder) bestPath(s *logical.Scan, preds []expr.Expr, need logical.Set, want *order) *path {
	own := logical.ColSet(s)
	read := clone(need)
	freeOf(read, preds...)
	total := b.tableRows(s.Table)
	out := total * selectivity(preds)
	var best *path
	for _, ix := range s.Table.PublicIndexes() {
		p := b.match(s, ix, preds, own, total)
		p.fetch = !ix.Primary && (s.Lock.Strength != kv.LockNone || len(s.KeyCols) > 0 && need.Has(s.KeyCols[0].ID) || !covers(s, ix, read))
		p.cost = request + p.rows*scanRow
		if p.fetch {
			p.cost += p.rows*lookupRow + request*math.Ceil(p.rows/1000)
		}
		p.out = math.Max(math.Min(out, p.rows), 0.5)
		if p.point {
			p.out = math.Min(p.out, p.rows)
		}
		score := p.cost
		if want != nil {
			if len(want.keys) > 0 {
				p.ordered, p.reverse = p.order(s, want)
				if !p.ordered {
					score += sortCost(p.out)
				}
			}
			if want.limit > 0 && (p.ordered || len(want.keys) == 0) {
				score = request + (score-request)*math.Min(1, want.limit/math.Max(p.out, 1))
			}
		}
		p.cost = math.Max(score, 0)
		if best == nil || score < best.cost || score == best.cost && ix.Primary {
			best = p
		}
	}
	return best
}

// covers says whether an index's entries hold all columns that are read.
func covers(s *logical.Scan, ix *catalog.Index, read logical.Set) bool {
	for i, a := range s.Attrs {
		if read.Has(s.Columns[i].ID) && !ix.Covers(a.ID) {
			return false
		}
		// What an index entry's key loses (1.50 and 1.5) is in no value of the entry.
		if read.Has(s.Columns[i].ID) && lossy(a.Type.OID) && !ix.Primary {
			return false
		}
	}
	return true
}

// lossy says whether a key may hold less than the value (rowenc.NeedsValue).
func lossy(t types.OID) bool {
	switch types.KindOf(t) {
	case types.KindInt, types.KindBool, types.KindTimestamp, types.KindDate, types.KindTime, types.KindBytes, types.KindUUID:
		return false
	case types.KindString:
		return t == types.OIDBPChar
	}
	return true
}

// match finds the conditions that an index's key can serve.
func (b *builder) match(s *logical.Scan, ix *catalog.Index, preds []expr.Expr, own logical.Set, total float64) *path {
	p := &path{index: ix, used: map[int]bool{}, rows: total}
	keyCols := s.Table.KeyColumns(ix)
	for _, kc := range keyCols {
		id, typ, ok := columnOf(s, kc.Column)
		if !ok {
			break
		}
		if k, ok := equality(preds, id, typ, own); ok {
			p.eq = append(p.eq, k)
			p.used[k.pred] = true
			p.rows *= eqSelectivity * float64(max(1, len(k.vals)))
			if k.array != nil {
				p.rows *= 10
			}
			continue
		}
		for i, pr := range preds {
			op, e, ok := comparisonOn(pr, id, typ, own)
			if !ok {
				continue
			}
			switch {
			case (op == expr.GT || op == expr.GE) && p.lower == nil:
				p.lower = &rangeCond{e, op == expr.GE, i}
			case (op == expr.LT || op == expr.LE) && p.upper == nil:
				p.upper = &rangeCond{e, op == expr.LE, i}
			default:
				continue
			}
			p.used[i] = true
			p.rows *= rangeSelectivity
		}
		break
	}
	unique := ix.Primary || ix.Unique
	if unique && len(p.eq) >= len(ix.Columns) && len(ix.Columns) > 0 {
		p.point = true
		n := 1.0
		for _, k := range p.eq {
			if k.null {
				p.point = false // several rows may have NULL
			}
			n *= float64(max(1, len(k.vals)))
			if k.array != nil {
				n *= 10
			}
		}
		if p.point {
			p.rows = n
		}
	}
	p.rows = math.Max(p.rows, 1)
	return p
}

// columnOf returns the scan's column for a table column.
func columnOf(s *logical.Scan, id catalog.ColumnID) (expr.ColID, types.OID, bool) {
	for i, a := range s.Attrs {
		if a.ID == id {
			return s.Columns[i].ID, a.Type.OID, true
		}
	}
	return 0, 0, false
}

// comparisonOn takes a comparison apart into the column on one side and a value on the
// other that does not depend on the table.
func comparisonOn(e expr.Expr, id expr.ColID, typ types.OID, own logical.Set) (expr.CmpOp, expr.Expr, bool) {
	c, ok := e.(*expr.Compare)
	if !ok || c.Op == expr.NE {
		return 0, nil, false
	}
	try := func(l, r expr.Expr) bool {
		col, ok := expr.Strip(l).(*expr.Col)
		return ok && col.ID == id && sameKey(typ, l.Type()) && !expr.IsVolatile(r) && !logical.FreeExpr(r).Intersects(own)
	}
	if try(c.L, c.R) {
		return c.Op, c.R, true
	}
	if try(c.R, c.L) {
		return c.Op.Commute(), c.L, true
	}
	return 0, nil, false
}

// sameKey says whether values compared as type as are encoded as the column's type is. A
// char(n) column cast to text keeps its blanks, which its key does not have.
func sameKey(col, as types.OID) bool {
	return (col == types.OIDBPChar) == (as == types.OIDBPChar)
}

// equality finds a condition that fixes a column.
func equality(preds []expr.Expr, id expr.ColID, typ types.OID, own logical.Set) (keyCond, bool) {
	isCol := func(e expr.Expr) bool {
		c, ok := expr.Strip(e).(*expr.Col)
		return ok && c.ID == id && sameKey(typ, e.Type())
	}
	fixed := func(l ...expr.Expr) bool {
		for _, e := range l {
			if expr.IsVolatile(e) || logical.FreeExpr(e).Intersects(own) {
				return false
			}
		}
		return true
	}
	for i, p := range preds {
		if op, e, ok := comparisonOn(p, id, typ, own); ok && op == expr.EQ {
			return keyCond{vals: []expr.Expr{e}, pred: i}, true
		}
	}
	for i, p := range preds {
		switch v := p.(type) {
		case *expr.InList:
			if v.Eq && !v.Neg && isCol(v.L) && fixed(v.List...) && len(v.List) <= 5000 {
				return keyCond{vals: v.List, pred: i}, true
			}
		case *expr.AnyArray:
			if v.Eq && isCol(v.L) && fixed(v.R) {
				return keyCond{array: v.R, pred: i}, true
			}
		case *expr.IsNull:
			if !v.Neg && isCol(v.Arg) {
				return keyCond{null: true, pred: i}, true
			}
		case *expr.Col:
			if v.ID == id { // a boolean column as a condition
				return keyCond{vals: []expr.Expr{&expr.Const{Val: types.NewBool(true), Typ: types.OIDBool, TMod: -1}}, pred: i}, true
			}
		case *expr.Not:
			if c, ok := v.Arg.(*expr.Col); ok && c.ID == id {
				return keyCond{vals: []expr.Expr{&expr.Const{Val: types.NewBool(false), Typ: types.OIDBool, TMod: -1}}, pred: i}, true
			}
		}
	}
	return keyCond{}, false
}

// order says whether a path yields rows in an order, maybe backwards.
func (p *path) order(s *logical.Scan, want *order) (ok, reverse bool) {
	fixed := map[expr.ColID]bool{}
	cols := s.Table.FullKeyColumns(p.index)
	if p.index.Primary {
		cols = p.index.Columns
	}
	pos := 0
	for i := range p.eq {
		if len(p.eq[i].vals) != 1 && !p.eq[i].null {
			break
		}
		if id, _, ok := columnOf(s, cols[i].Column); ok {
			fixed[id] = true
		}
		pos++
	}
	first := true
	for _, w := range want.keys {
		if fixed[w.id] {
			continue
		}
		// A column fixed by equality may be skipped.
		if pos >= len(cols) {
			// All key columns are used up: rows are unique by now if the index is.
			return p.index.Primary || !p.index.Unique, reverse
		}
		id, _, ok := columnOf(s, cols[pos].Column)
		if !ok || id != w.id {
			return false, false
		}
		desc := cols[pos].Dir == catalog.Descending
		rev := desc != w.desc
		if first {
			reverse, first = rev, false
		} else if rev != reverse {
			return false, false
		}
		attr := s.Table.ColumnByID(cols[pos].Column)
		if nullable(attr, s.Table) && (cols[pos].NullsFirst != rev) != w.nullsFirst {
			return false, false
		}
		pos++
	}
	return true, reverse
}

func nullable(a *catalog.Column, t *catalog.Table) bool {
	return a != nil && !a.NotNull && !t.Primary.HasColumn(a.ID)
}

// scan builds the operator for a path.
func (b *builder) scan(s *logical.Scan, preds []expr.Expr, p *path, need logical.Set) (*physical.Scan, error) {
	var residual []expr.Expr
	n := &physical.Scan{Table: s.Table, Alias: s.Alias, Index: p.index, Reverse: p.reverse, Ordered: p.ordered, Primary: p.fetch, Lock: s.Lock}
	locked := s.Lock.Strength != kv.LockNone
	for i, pr := range preds {
		if !p.used[i] || locked && p.fetch {
			residual = append(residual, pr) // the locked row may be newer than the entry
		}
	}
	read := clone(need)
	freeOf(read, residual...)
	at := layout{}
	for i, a := range s.Attrs {
		if read.Has(s.Columns[i].ID) {
			at[s.Columns[i].ID] = len(n.Attrs)
			n.Attrs = append(n.Attrs, a)
			n.Cols = append(n.Cols, s.Columns[i])
		}
	}
	if len(s.KeyCols) > 0 && need.Has(s.KeyCols[0].ID) {
		n.Keys = true
		n.Cols = append(n.Cols, s.KeyCols...)
	}
	for _, k := range p.eq {
		vals, err := b.compileAll(k.vals, nil)
		if err != nil {
			return nil, err
		}
		e := physical.KeyEq{Vals: vals, Null: k.null}
		if k.array != nil {
			if e.Array, err = b.compile(k.array, nil); err != nil {
				return nil, err
			}
		}
		n.Range.Eq = append(n.Range.Eq, e)
	}
	bound := func(r *rangeCond) (*physical.Bound, error) {
		if r == nil {
			return nil, nil
		}
		e, err := b.compile(r.e, nil)
		return &physical.Bound{Expr: e, Inclusive: r.inclusive}, err
	}
	var err error
	if n.Range.Lower, err = bound(p.lower); err != nil {
		return nil, err
	}
	if n.Range.Upper, err = bound(p.upper); err != nil {
		return nil, err
	}
	n.Range.Point = p.point
	if n.Filter, err = b.compileAll(residual, at); err != nil {
		return nil, err
	}
	// EXPLAIN shows the conditions on the key as they were written.
	show := layout{}
	for i, c := range s.Columns {
		show[c.ID] = i
	}
	for i, pr := range preds {
		if p.used[i] && !expr.HasSubquery(pr) {
			c, err := b.compile(pr, show)
			if err != nil {
				return nil, err
			}
			n.Conds = append(n.Conds, c)
		}
	}
	n.Rows, n.Cost = math.Max(1, math.Round(p.out)), p.cost
	return n, nil
}

// lockRows puts the lock into the scan where that locks no row too many; otherwise rows are
// locked after all conditions held.
func (b *builder) lockRows(v *logical.LockRows, need logical.Set, want *order) (physical.Node, bool, error) {
	below := clone(need)
	for _, s := range v.Scans {
		below.Add(s.KeyCols...)
	}
	if len(v.Scans) == 1 {
		s := v.Scans[0]
		if preds, ok := onlyScan(v.In, s); ok {
			p := b.bestPath(s, preds, below, want)
			exact := len(p.used) == len(preds)
			if p.point && (p.rows == 1 || !hasSort(v.In)) || exact && !p.fetch && !hasSort(v.In) {
				s.Lock = v.Lock[0]
				return b.build(v.In, need, want)
			}
		}
	}
	in, ordered, err := b.build(v.In, below, want)
	if err != nil {
		return nil, false, err
	}
	n := &physical.LockRows{In: in, Base: like(in), Locks: v.Lock}
	at := layoutOf(in)
	for _, s := range v.Scans {
		k, ok := at[s.KeyCols[0].ID]
		if !ok {
			return nil, false, internal("the key of %s was lost on the way to its lock", s.Alias)
		}
		if at[s.KeyCols[1].ID] != k+1 || at[s.KeyCols[2].ID] != k+2 {
			// Bring the three columns together.
			cols := append([]logical.Column(nil), in.Info().Cols...)
			arranged, err := b.arrange(in, append(cols, s.KeyCols...))
			if err != nil {
				return nil, false, err
			}
			n.In, in = arranged, arranged
			n.Cols = arranged.Info().Cols
			k = len(cols)
			at = layoutOf(in)
		}
		n.Tables, n.Keys = append(n.Tables, s.Table), append(n.Keys, k)
	}
	n.Cost += request + n.Rows*lookupRow
	return n, ordered, nil
}

// hasSort says whether rows are put in order first: with a LIMIT above, a scan that locks as
// it reads would lock rows that nobody asked for.
func hasSort(n logical.Node) bool {
	if _, ok := n.(*logical.Sort); ok {
		return true
	}
	for _, in := range n.Inputs() {
		if hasSort(in) {
			return true
		}
	}
	return false
}

// onlyScan returns the conditions over a scan that is all there is below (beside filters,
// projections and sorts), if it is s.
func onlyScan(n logical.Node, s *logical.Scan) ([]expr.Expr, bool) {
	switch v := n.(type) {
	case *logical.Scan:
		return nil, v == s
	case *logical.Filter:
		if in, ok := v.In.(*logical.Scan); ok && in == s {
			return v.Preds, true
		}
	case *logical.Project:
		return onlyScan(v.In, s)
	case *logical.Sort:
		return onlyScan(v.In, s)
	}
	return nil, false
}
