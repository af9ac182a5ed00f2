package builtins

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func toCharFuncs(*registry) {}

func toTimestamp(*EvalContext, string, string) (types.Datum, error) { return types.Null, errPending() }
func toDate(*EvalContext, string, string) (types.Datum, error)      { return types.Null, errPending() }
func errPending() error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "function is not supported")
}
