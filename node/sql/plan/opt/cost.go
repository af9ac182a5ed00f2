package opt

import (
	"math"

	"github.com/atolldb/atoll/node/sql/plan/expr"
)

// Costs, in units of reading one row in a long scan. A request to a leaseholder costs a
// round trip, which a batch of keys shares.
const (
	cpuTuple    = 0.1
	cpuOperator = 0.02
	scanRow     = 1.0
	request     = 20.0
	lookupRow   = 2.0
	// defaultRows is the size of a table that nothing is known of.
	defaultRows = 10000.0
)

func sortCost(rows float64) float64 {
	return rows * math.Log2(math.Max(2, rows)) * cpuTuple
}

// selectivity guesses which part of the rows satisfies conditions.
func selectivity(preds []expr.Expr) float64 {
	s := 1.0
	for _, p := range preds {
		s *= selectivityOf(p)
	}
	return s
}

const (
	eqSelectivity    = 0.005
	rangeSelectivity = 0.33
)

func selectivityOf(e expr.Expr) float64 {
	switch v := e.(type) {
	case *expr.Compare:
		switch v.Op {
		case expr.EQ:
			return eqSelectivity
		case expr.NE:
			return 1 - eqSelectivity
		}
		return rangeSelectivity
	case *expr.And:
		return selectivity(v.Args)
	case *expr.Or:
		s := 0.0
		for _, a := range v.Args {
			s += selectivityOf(a)
		}
		return math.Min(1, s)
	case *expr.Not:
		return math.Max(0.01, 1-selectivityOf(v.Arg))
	case *expr.InList:
		s := math.Min(1, eqSelectivity*float64(len(v.List)))
		if v.Neg {
			return 1 - s
		}
		return s
	case *expr.AnyArray:
		return math.Min(1, eqSelectivity*10)
	case *expr.IsNull:
		if v.Neg {
			return 0.995
		}
		return 0.005
	case *expr.Subquery:
		return 0.5
	case *expr.Const:
		if v.Val.IsNull() || !v.Val.Bool() {
			return 0.001
		}
		return 1
	}
	return 0.33
}
