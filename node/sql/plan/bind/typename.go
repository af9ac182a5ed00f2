package bind

import (
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// TypeName resolves a type name with its modifiers. Errors carry no position: the caller
// knows the statement. Package ddl uses it for column types.
func TypeName(n *ast.TypeName) (types.OID, int32, error) {
	if n.TypeOid != 0 && len(n.Names) == 0 {
		return types.OID(n.TypeOid), n.Typemod, nil
	}
	parts := names(n.Names)
	if n.Setof {
		return 0, -1, pgerror.New(pgerrcode.FeatureNotSupported, "SETOF is not supported here")
	}
	if n.PctType {
		return 0, -1, pgerror.New(pgerrcode.FeatureNotSupported, "%%TYPE references are not supported")
	}
	if len(parts) == 0 || len(parts) > 3 {
		return 0, -1, pgerror.New(pgerrcode.SyntaxError, "improper qualified name (too many dotted names): %s", strings.Join(parts, "."))
	}
	name := parts[len(parts)-1]
	ty, ok := types.LookupName(name)
	if len(parts) >= 2 && parts[len(parts)-2] != "pg_catalog" {
		ok = false
	}
	if !ok {
		return 0, -1, pgerror.New(pgerrcode.UndefinedObject, "type \"%s\" does not exist", strings.Join(parts, "."))
	}
	mod := int32(-1)
	if len(n.Typmods) > 0 {
		var mods []int32
		for _, m := range n.Typmods {
			c := m.GetAConst()
			if c == nil || c.GetIval() == nil && c.GetVal() != nil {
				return 0, -1, pgerror.New(pgerrcode.SyntaxError, "type modifiers must be simple constants or identifiers")
			}
			mods = append(mods, c.GetIval().GetIval())
		}
		var err error
		if mod, err = types.EncodeTypmod(ty.OID, mods); err != nil {
			return 0, -1, err
		}
	}
	oid := ty.OID
	if len(n.ArrayBounds) > 0 {
		if ty.Array == 0 {
			return 0, -1, pgerror.New(pgerrcode.UndefinedObject, "could not find array type for data type %s", typeName(oid))
		}
		oid = ty.Array
	}
	return oid, mod, nil
}

func (b *Binder) typeName(n *ast.TypeName) (types.OID, int32, error) {
	oid, mod, err := TypeName(n)
	if pe, ok := err.(*pgerror.Error); ok && pe.Position == 0 {
		pe.Position = b.st.Position(n.Location)
	}
	return oid, mod, err
}
