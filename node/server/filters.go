package server

import (
	"github.com/atolldb/atoll/node/replica/eval"
	"github.com/atolldb/atoll/node/sql/exec/pushdown"
)

// filters evaluates SQL's filters where the data is. It implements eval.Pushdown: SQL and
// replicas don't know each other.
type filters struct{}

// Compile implements eval.Pushdown.
func (filters) Compile(spec []byte) (eval.RowFilter, error) {
	f, err := pushdown.Compile(spec)
	if err != nil {
		return nil, err
	}
	return f, nil
}
