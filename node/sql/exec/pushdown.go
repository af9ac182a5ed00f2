package exec

import (
	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/sql/exec/pushdown"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/physical"
	"github.com/atolldb/atoll/node/sql/types"
)

// pushdownOf returns the serialized filter and projection of a scan; nil if there is none
// that a leaseholder could evaluate. Conditions that it can't evaluate are left out: the scan
// applies all of them again.
func pushdownOf(rt *runtime, n *physical.Scan) []byte {
	r, err := readerOf(n)
	if err != nil {
		return nil
	}
	s := &pushdown.Spec{PrefixLen: len(r.ix.Prefix()), Slots: len(n.Attrs), Const: func(e expr.Expr) (types.Datum, error) { return e.Eval(&rt.x, nil) }}
	inKey := map[int]bool{}
	for i, kc := range n.Table.KeyColumns(n.Index) {
		oid, dir, _ := r.ix.KeyColumn(i)
		k := pushdown.KeyColumn{Type: oid, Mod: -1, Descending: dir == encoding.Descending, Slot: -1}
		for slot, a := range n.Attrs {
			if a.ID == kc.Column {
				k.Mod, k.Slot = a.Type.Mod, slot
				inKey[slot] = true
			}
		}
		s.Key = append(s.Key, k)
	}
	lossy := false                 // a wanted key column may have to come from the value
	for slot, a := range n.Attrs { // Attrs are in column order
		if inKey[slot] {
			lossy = lossy || lossyKey(a.Type.OID)
			continue
		}
		if !n.Index.Primary {
			return nil // values of secondary indexes are rare enough to leave alone
		}
		s.Value = append(s.Value, pushdown.ValueColumn{ID: int16(a.ID), Slot: slot, Missing: r.codec.Missing(a.ID)})
	}
	s.Project = n.Index.Primary && !lossy && len(s.Value) < len(n.Table.ValueColumns(n.Index))
	var conds []expr.Expr
	for _, c := range n.Filter {
		s.Cond = c
		if usesLossyKey(c, n, inKey) {
			continue
		}
		if _, err := pushdown.Encode(s); err == nil {
			conds = append(conds, c)
		}
	}
	if len(conds) == 0 && !s.Project {
		return nil
	}
	s.Cond = expr.Conjunction(conds)
	spec, err := pushdown.Encode(s)
	if err != nil {
		return nil
	}
	return spec
}

// usesLossyKey says whether a condition reads a key column whose value may be more than its
// key shows. Equal values have equal keys, so that only equality of the value's form could
// differ; but there is no need to reason.
func usesLossyKey(c expr.Expr, n *physical.Scan, inKey map[int]bool) bool {
	found := false
	expr.Walk(c, func(e expr.Expr) bool {
		if s, ok := e.(*expr.Slot); ok && s.Index < len(n.Attrs) && inKey[s.Index] {
			found = found || lossyKey(n.Attrs[s.Index].Type.OID)
		}
		return !found
	})
	return found
}

// lossyKey says whether rowenc.NeedsValue can be true for a type.
func lossyKey(t types.OID) bool {
	switch types.KindOf(t) {
	case types.KindInt, types.KindBool, types.KindTimestamp, types.KindDate, types.KindTime, types.KindBytes, types.KindUUID:
		return false
	case types.KindString:
		return t == types.OIDBPChar
	}
	return true
}
