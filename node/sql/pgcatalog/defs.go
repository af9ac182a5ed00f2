package pgcatalog

import (
	"strings"
	"sync"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/types"
)

// btreeClasses maps types to their default btree operator class.
var btreeClasses = sync.OnceValue(func() map[types.OID]int64 {
	m := map[types.OID]int64{}
	t := all()[catalog.CatalogSchema]["pg_opclass"]
	rows, err := t.static.load(t)
	if err != nil {
		panic(err) // the embedded file is part of the build
	}
	for _, r := range rows {
		if r[t.pos["opcmethod"]].Int() == 403 && r[t.pos["opcdefault"]].Bool() {
			m[types.OID(r[t.pos["opcintype"]].Int())] = r[t.pos["oid"]].Int()
		}
	}
	return m
})

// indexDef is pg_get_indexdef.
func (s *snapshot) indexDef(t *catalog.Table, ix *catalog.Index, column int, pretty bool, path catalog.Path) string {
	if column > 0 {
		if column > len(ix.Columns) {
			if i := column - len(ix.Columns) - 1; i < len(ix.Stored) {
				return catalog.QuoteIdent(t.ColumnByID(ix.Stored[i]).Name)
			}
			return ""
		}
		return catalog.QuoteIdent(t.ColumnByID(ix.Columns[column-1].Column).Name)
	}
	var b strings.Builder
	b.WriteString("CREATE ")
	if ix.Unique {
		b.WriteString("UNIQUE ")
	}
	b.WriteString("INDEX " + catalog.QuoteIdent(ix.Name) + " ON ")
	if !pretty || !s.visible(t.Schema, t.Name, path) {
		b.WriteString(catalog.QuoteIdent(s.schemaName(t.Schema)) + ".")
	}
	b.WriteString(catalog.QuoteIdent(t.Name) + " USING btree (")
	for i, c := range ix.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(catalog.QuoteIdent(t.ColumnByID(c.Column).Name))
		if c.OpClass != "" && strings.HasSuffix(c.OpClass, "_pattern_ops") {
			b.WriteString(" " + c.OpClass)
		}
		if c.Dir == catalog.Descending {
			b.WriteString(" DESC")
			if !c.NullsFirst {
				b.WriteString(" NULLS LAST")
			}
		} else if c.NullsFirst {
			b.WriteString(" NULLS FIRST")
		}
	}
	b.WriteByte(')')
	if len(ix.Stored) > 0 {
		b.WriteString(" INCLUDE (" + columnList(t, ix.Stored) + ")")
	}
	if len(ix.Options) > 0 {
		b.WriteString(" WITH (" + optionList(ix.Options) + ")")
	}
	return b.String()
}

// optionList prints options as pg_get_indexdef does: values quoted.
func optionList(opts []string) string {
	out := make([]string, 0, len(opts))
	for _, o := range opts {
		n, v, _ := strings.Cut(o, "=")
		out = append(out, n+"='"+strings.ReplaceAll(v, "'", "''")+"'")
	}
	return strings.Join(out, ", ")
}

func columnList(t *catalog.Table, ids []catalog.ColumnID) string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		if c := t.ColumnByID(id); c != nil {
			names = append(names, catalog.QuoteIdent(c.Name))
		}
	}
	return strings.Join(names, ", ")
}

// constraintDef is pg_get_constraintdef.
func (s *snapshot) constraintDef(t *catalog.Table, c *catalog.Constraint, pretty bool, path catalog.Path) string {
	var b strings.Builder
	switch c.Kind {
	case catalog.PrimaryKeyConstraint, catalog.UniqueConstraint:
		b.WriteString(map[catalog.ConstraintKind]string{catalog.PrimaryKeyConstraint: "PRIMARY KEY", catalog.UniqueConstraint: "UNIQUE"}[c.Kind])
		b.WriteString(" (" + columnList(t, c.Columns) + ")")
		if ix := t.IndexByID(c.Index); ix != nil && len(ix.Stored) > 0 {
			b.WriteString(" INCLUDE (" + columnList(t, ix.Stored) + ")")
		}
	case catalog.CheckConstraint:
		e := s.expr(c.Expr, path)
		outer := strings.HasPrefix(e, "(") && balanced(e)
		if pretty && outer {
			e = e[1 : len(e)-1]
		} else if !pretty && !outer {
			e = "(" + e + ")"
		}
		b.WriteString("CHECK (" + e + ")")
		if c.NoInherit {
			b.WriteString(" NO INHERIT")
		}
	case catalog.ForeignKeyConstraint:
		b.WriteString("FOREIGN KEY (" + columnList(t, c.Columns) + ") REFERENCES ")
		name, _ := s.relationText(c.RefTable, path)
		b.WriteString(name)
		if r, ok := s.byID[c.RefTable].(*catalog.Table); ok {
			b.WriteString("(" + columnList(r, c.RefColumns) + ")")
		}
		for _, a := range []struct {
			word string
			act  byte
		}{{" ON UPDATE ", c.OnUpdate}, {" ON DELETE ", c.OnDelete}} {
			if act := map[byte]string{'r': "RESTRICT", 'c': "CASCADE", 'n': "SET NULL", 'd': "SET DEFAULT"}[a.act]; act != "" {
				b.WriteString(a.word + act)
			}
		}
	}
	if !c.Validated {
		b.WriteString(" NOT VALID")
	}
	return b.String()
}

// balanced reports whether the parenthesis that e starts with ends at its end.
func balanced(e string) bool {
	depth := 0
	for i := 0; i < len(e); i++ {
		switch e[i] {
		case '\'':
			for i++; i < len(e) && e[i] != '\''; i++ {
			}
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i == len(e)-1
			}
		}
	}
	return false
}

// descriptions are PostgreSQL's comments on its own objects, by catalog and OID; class 0
// finds one of any catalog.
var descriptions = sync.OnceValue(func() map[[2]types.OID]string {
	m := map[[2]types.OID]string{}
	t := all()[catalog.CatalogSchema]["pg_description"]
	rows, err := t.static.load(t)
	if err != nil {
		panic(err) // the embedded file is part of the build
	}
	for _, r := range rows {
		if r[t.pos["objsubid"]].Int() != 0 {
			continue
		}
		class, obj := types.OID(r[t.pos["classoid"]].Int()), types.OID(r[t.pos["objoid"]].Int())
		text := r[t.pos["description"]].Str()
		m[[2]types.OID{class, obj}] = text
		m[[2]types.OID{0, obj}] = text
	}
	return m
})
