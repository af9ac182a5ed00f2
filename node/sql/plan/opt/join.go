package opt

import (
	"math"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/plan/physical"
)

// join plans a join, with conditions from above if it is an inner one.
func (b *builder) join(v *logical.Join, preds []expr.Expr, need logical.Set) (physical.Node, error) {
	if v.Kind == logical.Inner {
		items, all := flatten(v, nil, append([]expr.Expr(nil), preds...))
		return b.joinInner(items, all, need)
	}
	below := clone(need)
	freeOf(below, v.On...)
	if v.Lateral {
		for id := range logical.Free(v.R) {
			below[id] = struct{}{}
		}
	}
	l, _, err := b.build(v.L, below, nil)
	if err != nil {
		return nil, err
	}
	j := &joiner{b: b, kind: v.Kind, l: l, lcols: physCols(l), item: v.R, preds: v.On, need: below, lateral: v.Lateral}
	return j.best()
}

func physCols(n physical.Node) logical.Set {
	s := logical.Set{}
	s.Add(n.Info().Cols...)
	return s
}

// flatten takes a tree of inner joins apart.
func flatten(n logical.Node, items []logical.Node, preds []expr.Expr) ([]logical.Node, []expr.Expr) {
	switch v := n.(type) {
	case *logical.Join:
		if v.Kind == logical.Inner {
			preds = append(preds, v.On...)
			items, preds = flatten(v.L, items, preds)
			return flatten(v.R, items, preds)
		}
	case *logical.Filter:
		if in, ok := v.In.(*logical.Join); ok && in.Kind == logical.Inner {
			stay := false
			for _, p := range v.Preds {
				stay = stay || expr.IsVolatile(p)
			}
			if !stay {
				return flatten(in, items, append(preds, v.Preds...))
			}
		}
	}
	return append(items, n), preds
}

// joinInner orders an inner join greedily: the smallest input first, then always the one
// that is cheapest to add.
func (b *builder) joinInner(items []logical.Node, preds []expr.Expr, need logical.Set) (physical.Node, error) {
	all := clone(need)
	freeOf(all, preds...)
	cols := make([]logical.Set, len(items))
	deps := make([]logical.Set, len(items))
	made := logical.Set{}
	for i, it := range items {
		cols[i] = logical.ColSet(it)
		for id := range cols[i] {
			made[id] = struct{}{}
		}
	}
	for i, it := range items {
		deps[i] = logical.Set{}
		for id := range logical.Free(it) {
			if made.Has(id) {
				deps[i][id] = struct{}{}
				all[id] = struct{}{}
			}
		}
	}
	first, rows := -1, math.Inf(1)
	for i, it := range items {
		if r := b.estimate(it); len(deps[i]) == 0 && r < rows {
			first, rows = i, r
		}
	}
	if first < 0 {
		return nil, internal("a join whose inputs all depend on each other")
	}
	left, _, err := b.build(items[first], all, nil)
	if err != nil {
		return nil, err
	}
	done := map[int]bool{first: true}
	have := clone(cols[first])
	used := make([]bool, len(preds))
	for len(done) < len(items) {
		var best *joiner
		bestAt := -1
		for i, it := range items {
			if done[i] || !have.Contains(deps[i]) {
				continue
			}
			j := &joiner{b: b, kind: logical.Inner, l: left, lcols: have, item: it, need: all, lateral: len(deps[i]) > 0}
			both := clone(have)
			for id := range cols[i] {
				both[id] = struct{}{}
			}
			for k, p := range preds {
				free := local(logical.FreeExpr(p), made)
				if !used[k] && both.Contains(free) && free.Intersects(cols[i]) {
					j.preds, j.which = append(j.preds, p), append(j.which, k)
				}
			}
			j.choose()
			if best == nil || j.cost < best.cost {
				best, bestAt = j, i
			}
		}
		if best == nil {
			return nil, internal("a join whose inputs depend on each other")
		}
		if left, err = best.make(); err != nil {
			return nil, err
		}
		done[bestAt] = true
		for id := range cols[bestAt] {
			have[id] = struct{}{}
		}
		for _, k := range best.which {
			used[k] = true
		}
	}
	var rest []expr.Expr
	for k, p := range preds {
		if !used[k] {
			rest = append(rest, p)
		}
	}
	return b.filterOver(left, rest)
}

// local keeps the columns of this query level.
func local(s, made logical.Set) logical.Set {
	out := logical.Set{}
	for id := range s {
		if made.Has(id) {
			out[id] = struct{}{}
		}
	}
	return out
}

// estimate guesses how many rows a logical node yields.
func (b *builder) estimate(n logical.Node) float64 {
	switch v := n.(type) {
	case *logical.Scan:
		return b.tableRows(v.Table)
	case *logical.Filter:
		if s, ok := v.In.(*logical.Scan); ok {
			return b.bestPath(s, v.Preds, logical.Set{}, nil).out
		}
		return math.Max(1, b.estimate(v.In)*selectivity(v.Preds))
	case *logical.Values:
		return float64(len(v.Rows))
	case *logical.Limit:
		r := b.estimate(v.In)
		if c, ok := v.Count.(*expr.Const); ok && !c.Val.IsNull() {
			r = math.Min(r, float64(c.Val.Int()))
		}
		return r
	case *logical.Agg:
		if len(v.Keys) == 0 {
			return 1
		}
		return math.Min(200, b.estimate(v.In))
	case *logical.Join:
		if v.Kind == logical.Semi || v.Kind == logical.Anti {
			return math.Max(1, b.estimate(v.L)/2)
		}
		return math.Max(b.estimate(v.L), b.estimate(v.R))
	case *logical.VirtualScan, *logical.CTEScan:
		return 1000
	}
	for _, in := range n.Inputs() {
		return b.estimate(in)
	}
	return 1000
}

// method is how a join is done.
type method uint8

const (
	byLoop   method = iota // the right side again for each left row, or from memory
	byIndex                // the right side's index, looked up for each left row
	byLookup               // a unique key of the right side, many left rows at once
	byHash
)

// joiner plans one join of a physical left side with a logical right side.
type joiner struct {
	b       *builder
	kind    logical.JoinKind
	l       physical.Node
	lcols   logical.Set
	item    logical.Node
	preds   []expr.Expr
	which   []int
	need    logical.Set
	lateral bool

	method method
	cost   float64
	rows   float64
	path   *path
	scan   *logical.Scan
	own    []expr.Expr // the scan's own conditions, then preds
	pairs  []pair
}

// pair is an equality between the sides.
type pair struct {
	l, r expr.Expr
	pred int
}

// best chooses and makes.
func (j *joiner) best() (physical.Node, error) {
	j.choose()
	return j.make()
}

// choose finds the cheapest method.
func (j *joiner) choose() {
	b := j.b
	lrows, lcost := j.l.Info().Rows, j.l.Info().Cost
	rrows := b.estimate(j.item)
	rcols := logical.ColSet(j.item)
	for i, p := range j.preds {
		c, ok := p.(*expr.Compare)
		if !ok || c.Op != expr.EQ {
			continue
		}
		lf, rf := logical.FreeExpr(c.L), logical.FreeExpr(c.R)
		if expr.HasSubquery(p) {
			continue
		}
		switch {
		case lf.Intersects(rcols) && !lf.Intersects(j.lcols) && !rf.Intersects(rcols):
			j.pairs = append(j.pairs, pair{c.R, c.L, i})
		case rf.Intersects(rcols) && !rf.Intersects(j.lcols) && !lf.Intersects(rcols):
			j.pairs = append(j.pairs, pair{c.L, c.R, i})
		}
	}
	j.rows = lrows * rrows * selectivity(j.preds)
	if len(j.pairs) > 0 {
		j.rows = lrows * rrows / math.Max(1, math.Max(lrows, rrows))
	}
	j.rows = math.Max(1, j.rows)
	switch j.kind {
	case logical.Left, logical.Full:
		j.rows = math.Max(j.rows, lrows)
	case logical.Semi, logical.Anti:
		j.rows = math.Max(1, lrows/2)
	}
	// In memory, or again and again if it depends on the left row.
	rcost := rrows*scanRow + request
	j.method = byLoop
	j.cost = lcost + rcost + lrows*rrows*cpuOperator
	if j.lateral {
		j.cost = lcost + lrows*rcost
		return
	}
	if len(j.pairs) > 0 || j.kind == logical.Full && j.constant() {
		if c := lcost + rcost + (lrows+rrows)*cpuTuple; c < j.cost || j.kind == logical.Full {
			j.method, j.cost = byHash, c
		}
	}
	if j.kind == logical.Full {
		return
	}
	j.scan, j.own = nil, nil
	switch v := j.item.(type) {
	case *logical.Scan:
		j.scan = v
	case *logical.Filter:
		if s, ok := v.In.(*logical.Scan); ok {
			j.scan, j.own = s, append(j.own, v.Preds...)
		}
	}
	if j.scan == nil {
		return
	}
	mine := len(j.own)
	j.own = append(j.own, j.preds...)
	p := b.bestPath(j.scan, j.own, j.need, nil)
	joined := false
	for i := range p.used {
		joined = joined || i >= mine
	}
	if !joined {
		return
	}
	if c, ok := j.lookupCost(p, mine, lrows, lcost); ok && j.kind != logical.Anti {
		if c < j.cost {
			j.method, j.cost, j.path = byLookup, c, p
		}
		return
	}
	if c := lcost + lrows*p.cost; c < j.cost {
		j.method, j.cost, j.path = byIndex, c, p
		if j.kind != logical.Semi && j.kind != logical.Anti {
			j.rows = math.Max(1, lrows*p.out)
		}
	}
}

// constant says whether the conditions refer to neither side: a FULL JOIN on such is one in
// which all rows have the same hash key, as PostgreSQL merges without a merge condition.
func (j *joiner) constant() bool {
	for _, p := range j.preds {
		if f := logical.FreeExpr(p); f.Intersects(j.lcols) || f.Intersects(logical.ColSet(j.item)) {
			return false
		}
	}
	return true
}

// lookupCost says what fetching by a unique key costs, if the path is one with one value for
// each key column.
func (j *joiner) lookupCost(p *path, _ int, lrows, lcost float64) (float64, bool) {
	if !p.point {
		return 0, false
	}
	for _, k := range p.eq {
		if len(k.vals) != 1 || k.array != nil || expr.HasSubquery(k.vals[0]) {
			return 0, false
		}
	}
	per := lookupRow
	if p.fetch {
		per *= 2
	}
	return lcost + lrows*per + request*math.Ceil(lrows/1000), true
}

// make builds the join.
func (j *joiner) make() (physical.Node, error) {
	switch j.method {
	case byHash:
		return j.hash()
	case byLookup:
		return j.lookup()
	}
	return j.loop()
}

// estimates fills in what a join yields, and returns where the columns of both sides are in
// the row that its conditions see: a semi or anti join yields the left ones only.
func (j *joiner) estimates(n *physical.Base, l, r physical.Node) layout {
	both := append(append([]logical.Column(nil), l.Info().Cols...), r.Info().Cols...)
	at := layout{}
	for i, c := range both {
		if _, dup := at[c.ID]; !dup {
			at[c.ID] = i
		}
	}
	n.Cols = both
	if j.kind == logical.Semi || j.kind == logical.Anti {
		n.Cols = l.Info().Cols
	}
	n.Rows, n.Cost = math.Round(j.rows), j.cost
	n.Startup = l.Info().Startup
	return at
}

func (j *joiner) hash() (physical.Node, error) {
	b := j.b
	r, _, err := b.build(j.item, j.need, nil)
	if err != nil {
		return nil, err
	}
	n := &physical.HashJoin{Kind: j.kind, L: j.l, R: r}
	lk, rk := make([]expr.Expr, 0, len(j.pairs)), make([]expr.Expr, 0, len(j.pairs))
	used := map[int]bool{}
	for _, p := range j.pairs {
		lk, rk = append(lk, p.l), append(rk, p.r)
		used[p.pred] = true
	}
	// The smaller side goes into memory.
	if j.kind == logical.Inner && j.l.Info().Rows < r.Info().Rows {
		n.L, n.R = r, j.l
		lk, rk = rk, lk
	}
	if n.LKeys, err = b.compileAll(lk, layoutOf(n.L)); err != nil {
		return nil, err
	}
	if n.RKeys, err = b.compileAll(rk, layoutOf(n.R)); err != nil {
		return nil, err
	}
	both := j.estimates(&n.Base, n.L, n.R)
	n.Startup = n.R.Info().Cost
	n.Residual, err = b.compileAll(j.rest(used), both)
	return n, err
}

// rest returns the join conditions that are not in used.
func (j *joiner) rest(used map[int]bool) []expr.Expr {
	var out []expr.Expr
	for i, p := range j.preds {
		if !used[i] {
			out = append(out, p)
		}
	}
	return out
}

// lookup fetches right rows by a unique key.
func (j *joiner) lookup() (physical.Node, error) {
	b := j.b
	mine := len(j.own) - len(j.preds)
	// The scan itself only knows its own row: conditions on both sides are checked after.
	var selfPreds []expr.Expr
	p := *j.path
	p.used = map[int]bool{}
	for i, pr := range j.own {
		if i < mine {
			if j.path.used[i] {
				p.used[len(selfPreds)] = true
			}
			selfPreds = append(selfPreds, pr)
		}
	}
	keys := p.eq
	p.eq = nil
	need := clone(j.need)
	freeOf(need, j.preds...)
	s, err := b.scan(j.scan, selfPreds, &p, need)
	if err != nil {
		return nil, err
	}
	s.Range.Point = true
	if j.kind == logical.Semi {
		j.kind = logical.Inner // a unique key matches once at most
	}
	n := &physical.LookupJoin{Kind: j.kind, L: j.l, Scan: s}
	at := layoutOf(j.l)
	used := map[int]bool{}
	for _, k := range keys {
		e, err := b.compile(k.vals[0], at)
		if err != nil {
			return nil, err
		}
		n.Key = append(n.Key, e)
		if k.pred >= mine {
			used[k.pred-mine] = true
		}
	}
	s.Rows, s.Cost = 1, lookupRow
	j.rows = math.Max(1, math.Min(j.rows, j.l.Info().Rows))
	if j.kind == logical.Left {
		j.rows = j.l.Info().Rows
	}
	both := j.estimates(&n.Base, j.l, s)
	n.On, err = b.compileAll(j.rest(used), both)
	return n, err
}

// loop runs the right side for each left row, or once if it does not depend on it.
func (j *joiner) loop() (physical.Node, error) {
	b := j.b
	if j.kind == logical.Full {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "FULL JOIN is only supported with merge-joinable or hash-joinable join conditions")
	}
	n := &physical.NestLoop{Kind: j.kind, L: j.l}
	used := map[int]bool{}
	fr, err := b.inFrame(layoutOf(j.l), func() error {
		if j.method == byIndex {
			// All of the join's conditions go into the inner scan.
			s, err := b.scan(j.scan, j.own, j.path, j.need)
			n.R = s
			for i := range j.preds {
				used[i] = true
			}
			return err
		}
		r, _, err := b.build(j.item, j.need, nil)
		n.R = r
		return err
	})
	if err != nil {
		return nil, err
	}
	n.Pass = fr.pass
	both := j.estimates(&n.Base, j.l, n.R)
	n.On, err = b.compileAll(j.rest(used), both)
	return n, err
}
