package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/plan/logical"
)

type lockedScan struct {
	scan *logical.Scan
	lock logical.Lock
}

// lockedScans finds the tables that FOR UPDATE and its like lock.
func (b *Binder) lockedScans(q *selectBody) ([]lockedScan, error) {
	var out []lockedScan
	for _, n := range q.s.LockingClause {
		lc := n.GetLockingClause()
		name, lock := "UPDATE", logical.Lock{Strength: kv.LockExclusive}
		switch lc.Strength {
		case ast.LockClauseStrength_LCS_FORNOKEYUPDATE:
			name = "NO KEY UPDATE"
		case ast.LockClauseStrength_LCS_FORSHARE:
			name, lock.Strength = "SHARE", kv.LockShared
		case ast.LockClauseStrength_LCS_FORKEYSHARE:
			name, lock.Strength = "KEY SHARE", kv.LockShared
		}
		switch lc.WaitPolicy {
		case ast.LockWaitPolicy_LockWaitSkip:
			lock.Wait = kv.WaitSkipLocked
		case ast.LockWaitPolicy_LockWaitError:
			lock.Wait = kv.WaitError
		}
		what := ""
		switch {
		case len(q.s.DistinctClause) > 0:
			what = "DISTINCT clause"
		case len(q.s.GroupClause) > 0:
			what = "GROUP BY clause"
		case q.having != nil:
			what = "HAVING clause"
		case len(q.lv.aggs) > 0:
			what = "aggregate functions"
		case len(q.lv.wins) > 0:
			what = "window functions"
		case len(q.lv.srfs) > 0:
			what = "set-returning functions in the target list"
		}
		if what != "" {
			return nil, b.errorf(-1, pgerrcode.FeatureNotSupported, "FOR %s is not allowed with %s", name, what)
		}
		if err := b.lockItems(q, lc, name, lock, &out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *Binder) lockItems(q *selectBody, lc *ast.LockingClause, name string, lock logical.Lock, out *[]lockedScan) error {
	add := func(s *logical.Scan) {
		b.keyColumns(s)
		for i := range *out {
			if (*out)[i].scan == s {
				(*out)[i].lock.Strength = max((*out)[i].lock.Strength, lock.Strength)
				(*out)[i].lock.Wait = max((*out)[i].lock.Wait, lock.Wait)
				return
			}
		}
		*out = append(*out, lockedScan{s, lock})
	}
	if len(lc.LockedRels) == 0 {
		for _, it := range q.sc.items {
			if it.scan != nil {
				add(it.scan)
			} else if hasScan(it, q) {
				return b.unsupported(-1, "FOR %s over a subquery in FROM", name)
			}
		}
		return nil
	}
	for _, r := range lc.LockedRels {
		rv := r.GetRangeVar()
		found := false
		for _, it := range q.sc.items {
			if it.alias != rv.Relname || it.relHidden {
				continue
			}
			found = true
			if it.scan == nil {
				return b.errorf(rv.Location, pgerrcode.FeatureNotSupported, "FOR %s cannot be applied to \"%s\": it is not a table", name, rv.Relname)
			}
			add(it.scan)
		}
		if !found {
			return b.errorf(rv.Location, pgerrcode.UndefinedTable, "relation \"%s\" in FOR %s clause not found in FROM clause", rv.Relname, name)
		}
	}
	return nil
}

// hasScan says whether a FROM item without a scan of its own reads a stored table.
func hasScan(it *nsItem, q *selectBody) bool {
	ids := logical.Set{}
	for _, c := range it.cols {
		ids[c.ID] = struct{}{}
	}
	found := false
	var walk func(n logical.Node)
	walk = func(n logical.Node) {
		if _, ok := n.(*logical.Scan); ok {
			direct := false
			for _, o := range q.sc.items {
				direct = direct || o.scan == n
			}
			found = found || !direct
		}
		for _, in := range n.Inputs() {
			walk(in)
		}
	}
	walk(q.node)
	return found && it.alias != ""
}
