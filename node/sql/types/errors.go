package types

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// errSyntax is what an input function says to text that it cannot read.
func errSyntax(typeName, s string) error {
	return pgerror.New(pgerrcode.InvalidTextRepresentation, "invalid input syntax for type %s: \"%s\"", typeName, s)
}

// errInputRange is what an integer or float input function says to a number that is too large.
func errInputRange(typeName, s string) error {
	return pgerror.New(pgerrcode.NumericValueOutOfRange, "value \"%s\" is out of range for type %s", s, typeName)
}

// ErrOutOfRange is what arithmetic and casts say: integer out of range.
func ErrOutOfRange(oid OID) error {
	return pgerror.New(pgerrcode.NumericValueOutOfRange, "%s out of range", TypeName(oid))
}

func errUnsupported(oid OID, what string) error {
	return pgerror.New(pgerrcode.FeatureNotSupported, "%s of type %s is not supported", what, TypeName(oid))
}

func errBinary(oid OID) error {
	return pgerror.New(pgerrcode.InvalidBinaryRepresentation, "incorrect binary data format for type %s", TypeName(oid))
}
