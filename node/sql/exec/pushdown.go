package exec

import "github.com/atolldb/atoll/node/sql/plan/physical"

// pushdownOf returns the serialized filter of a scan; nil if it can't be pushed down.
func pushdownOf(*runtime, *physical.Scan) []byte { return nil }
