package builtins

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func stringFuncs(*registry)    {}
func patternFuncs(*registry)   {}
func byteaFuncs(*registry)     {}
func arrayFuncs(*registry)     {}
func jsonFuncs(*registry)      {}
func sessionFuncs(*registry)   {}
func catalogFuncs(*registry)   {}
func miscFuncs(*registry)      {}
func jsonSets(*registry)       {}
func jsonAggregates(*registry) {}

func regexpSplitSet(*EvalContext, []types.Datum, func([]types.Datum) (bool, error)) error { return errPending() }
func regexpMatchesSet(*EvalContext, []types.Datum, func([]types.Datum) (bool, error)) error {
	return errPending()
}
func stringToTable(*EvalContext, []types.Datum, func([]types.Datum) (bool, error)) error { return errPending() }

type keyword struct {
	word, code     string
	bareLabel      bool
	desc, bareDesc string
}

func keywords() []keyword { return nil }

func toTimestamp(*EvalContext, string, string) (types.Datum, error) { return types.Null, errPending() }
func toDate(*EvalContext, string, string) (types.Datum, error)      { return types.Null, errPending() }

func errPending() error { return pgerror.New(pgerrcode.FeatureNotSupported, "function is not supported") }
