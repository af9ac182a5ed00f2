package ddl

import (
	"context"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

// Peek returns the last value that was handed out to anybody (pg_sequence_last_value).
func (q *Sequences) Peek(ctx context.Context, id types.OID) (value int64, called bool, err error) {
	s, err := q.sequence(ctx, id, catalog.PrivUsage|catalog.PrivSelect)
	if err != nil {
		return 0, false, err
	}
	return catalog.SequenceValue(ctx, q.Session.Catalog().Txn(), s)
}
