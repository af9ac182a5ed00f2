package bind

import (
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/plan/logical"
	"github.com/atolldb/atoll/node/sql/types"
)

// scope is the names that an expression of one query level sees.
type scope struct {
	parent *scope
	items  []*nsItem
}

// nsItem is a FROM item, or the merged columns of a JOIN USING (then alias is empty).
type nsItem struct {
	schema string // of a table without an alias
	alias  string
	cols   []nsCol
	// table is the name of the relation behind an alias, for hints.
	table string
	// relation is set for a stored table, scan for the node that reads it.
	relation *catalog.Table
	scan     *logical.Scan
	virtual  catalog.ID // the OID of a virtual table
	// function: the only column of a function's item is what the alias as a value means.
	function bool
	// hidden items can't be named at all: a FROM item before LATERAL applies.
	lateralOnly bool
	// colsHidden: columns are found by qualified names only (a joined item under an alias).
	relHidden bool
}

type nsCol struct {
	logical.Column
	// merged columns are not found by their plain name: the USING column stands for them.
	merged bool
	hidden bool // not part of *: rowid and the like
}

// newItem makes an item of columns.
func newItem(alias string, cols []logical.Column) *nsItem {
	it := &nsItem{alias: alias}
	for _, c := range cols {
		it.cols = append(it.cols, nsCol{Column: c})
	}
	return it
}

func (c *nsCol) ref(it *nsItem, loc int32) *expr.Col {
	r := c.Ref()
	r.Location = loc
	if it.alias != "" {
		r.Name = it.alias + "." + c.Name
	} else {
		r.Name = c.Name
	}
	return r
}

// column finds a column by its plain name, in this query level and then outwards.
func (b *Binder) column(s *scope, name string, loc int32) (expr.Expr, error) {
	for lv := s; lv != nil; lv = lv.parent {
		var found *expr.Col
		for _, it := range lv.items {
			for i := range it.cols {
				c := &it.cols[i]
				if c.Name != name || c.merged || c.hidden {
					continue
				}
				if it.lateralOnly {
					return nil, b.errorf(loc, pgerrcode.UndefinedColumn, "column \"%s\" does not exist", name).
						WithDetail("There is a column named \"%s\" in table \"%s\", but it cannot be referenced from this part of the query.", name, it.alias)
				}
				if found != nil {
					return nil, b.errorf(loc, pgerrcode.AmbiguousColumn, "column reference \"%s\" is ambiguous", name)
				}
				found = c.ref(it, loc)
			}
		}
		if found != nil {
			return found, nil
		}
		if name == "tableoid" && len(lv.items) == 1 {
			if e := systemColumn(lv.items[0], name); e != nil {
				return e, nil
			}
		}
	}
	return nil, nil
}

// item finds a FROM item by its alias.
func (b *Binder) item(s *scope, schema, alias string, loc int32) (*nsItem, error) {
	for lv := s; lv != nil; lv = lv.parent {
		var found *nsItem
		for _, it := range lv.items {
			if it.alias != alias || it.relHidden || it.alias == "" || schema != "" && it.schema != schema {
				continue
			}
			if it.lateralOnly {
				return nil, b.errorf(loc, pgerrcode.UndefinedTable, "invalid reference to FROM-clause entry for table \"%s\"", alias).
					WithDetail("There is an entry for table \"%s\", but it cannot be referenced from this part of the query.", alias)
			}
			if found != nil {
				return nil, b.errorf(loc, pgerrcode.AmbiguousAlias, "table reference \"%s\" is ambiguous", alias)
			}
			found = it
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

// missingFrom is the error for a table name that no FROM item has.
func (b *Binder) missingFrom(s *scope, alias string, loc int32) error {
	for lv := s; lv != nil; lv = lv.parent {
		for _, it := range lv.items {
			if it.table == alias && it.alias != alias {
				return b.errorf(loc, pgerrcode.UndefinedTable, "invalid reference to FROM-clause entry for table \"%s\"", alias).
					WithHint("Perhaps you meant to reference the table alias \"%s\".", it.alias)
			}
		}
	}
	return b.errorf(loc, pgerrcode.UndefinedTable, "missing FROM-clause entry for table \"%s\"", alias)
}

// columnRef resolves a.b.c.
func (b *Binder) columnRef(s *scope, parts []string, loc int32) (expr.Expr, error) {
	switch len(parts) {
	case 1:
		e, err := b.column(s, parts[0], loc)
		if err != nil || e != nil {
			return e, err
		}
		if it, err := b.item(s, "", parts[0], loc); err != nil {
			return nil, err
		} else if it != nil {
			return wholeRow(it), nil
		}
		return nil, b.errorf(loc, pgerrcode.UndefinedColumn, "column \"%s\" does not exist", parts[0])
	case 2, 3, 4:
		schema, alias, name := "", parts[len(parts)-2], parts[len(parts)-1]
		if len(parts) > 2 {
			schema = parts[len(parts)-3]
		}
		it, err := b.item(s, schema, alias, loc)
		if err != nil {
			return nil, err
		}
		if it == nil {
			// A record column: c.field.
			if e, err := b.column(s, alias, loc); err == nil && e != nil && len(parts) == 2 && e.Type() == types.OIDRecord {
				return nil, b.unsupported(loc, "selecting a field of an anonymous record")
			}
			return nil, b.missingFrom(s, alias, loc)
		}
		var found *expr.Col
		for i := range it.cols {
			if c := &it.cols[i]; c.Name == name && !c.hidden {
				if found != nil {
					return nil, b.errorf(loc, pgerrcode.AmbiguousColumn, "column reference \"%s\" is ambiguous", name)
				}
				found = c.ref(it, loc)
			}
		}
		if found == nil {
			if e := systemColumn(it, name); e != nil {
				return e, nil
			}
			return nil, b.errorf(loc, pgerrcode.UndefinedColumn, "column %s.%s does not exist", alias, name)
		}
		return found, nil
	}
	return nil, b.errorf(loc, pgerrcode.SyntaxError, "improper qualified name (too many dotted names)")
}

// systemColumn knows tableoid, which is constant here.
func systemColumn(it *nsItem, name string) expr.Expr {
	if name != "tableoid" {
		return nil
	}
	oid := it.virtual
	if it.relation != nil {
		oid = it.relation.ID
	}
	if oid != 0 {
		return &expr.Const{Val: types.NewInt(int64(oid)), Typ: types.OIDOID, TMod: -1, Location: -1}
	}
	return nil
}

// wholeRow is a reference to a FROM item as a record.
func wholeRow(it *nsItem) expr.Expr {
	r := &expr.Row{}
	for i := range it.cols {
		if c := &it.cols[i]; !c.hidden {
			r.Args = append(r.Args, c.ref(it, -1))
			r.Names = append(r.Names, c.Name)
		}
	}
	if len(r.Args) == 1 && it.function {
		return r.Args[0] // a function's alias names its only column
	}
	return r
}
