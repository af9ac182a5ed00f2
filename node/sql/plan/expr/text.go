package expr

import (
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/sql/types"
)

// Text prints an expression as EXPLAIN and pg_get_expr do. Column names are as the binder
// found them; see TextColumns for bare ones.
func Text(e Expr, env *types.Env) string { return (&printer{env: env}).expr(e) }

// TextColumns is Text with column names cut to their last part, as a stored definition has
// them.
func TextColumns(e Expr, env *types.Env) string { return (&printer{env: env, bare: true}).expr(e) }

type printer struct {
	env  *types.Env
	bare bool
}

func (p *printer) col(c *Col) string {
	if p.bare {
		if i := strings.LastIndexByte(c.Name, '.'); i >= 0 {
			return c.Name[i+1:]
		}
	}
	return c.Name
}

func (p *printer) list(l []Expr) string {
	out := make([]string, len(l))
	for i, e := range l {
		out[i] = p.expr(e)
	}
	return strings.Join(out, ", ")
}

// Quote quotes a string literal.
func Quote(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

func (p *printer) literal(c *Const) string {
	t := types.FormatType(c.Typ, c.TMod)
	if c.Val.IsNull() {
		return "NULL::" + t
	}
	text := types.Text(c.Typ, c.Val, p.env)
	switch c.Typ {
	case types.OIDInt4:
		if strings.HasPrefix(text, "-") {
			return "'" + text + "'::integer"
		}
		return text
	case types.OIDBool:
		if c.Val.Bool() {
			return "true"
		}
		return "false"
	case types.OIDNumeric:
		if c.TMod < 0 && strings.ContainsRune(text, '.') && !strings.HasPrefix(text, "-") {
			return text
		}
	case types.OIDUnknown:
		return Quote(text)
	}
	return Quote(text) + "::" + t
}

func (p *printer) expr(e Expr) string {
	switch v := e.(type) {
	case nil:
		return ""
	case *Const:
		return p.literal(v)
	case *Param:
		return fmt.Sprintf("$%d", v.Number)
	case *Col:
		return p.col(v)
	case *Slot:
		return p.col(v.Col)
	case *Outer:
		return p.col(v.Col)
	case *Relabel:
		return "(" + p.expr(v.Arg) + ")::" + types.FormatType(v.Typ, v.TMod)
	case *Compare:
		return "(" + p.expr(v.L) + " " + v.Op.String() + " " + p.expr(v.R) + ")"
	case *Call:
		return p.call(v)
	case *And:
		return p.join(v.Args, " AND ")
	case *Or:
		return p.join(v.Args, " OR ")
	case *Not:
		return "(NOT " + p.expr(v.Arg) + ")"
	case *IsNull:
		if v.Neg {
			return "(" + p.expr(v.Arg) + " IS NOT NULL)"
		}
		return "(" + p.expr(v.Arg) + " IS NULL)"
	case *BoolTest:
		what := "UNKNOWN"
		if !v.Want.IsNull() {
			what = map[bool]string{true: "TRUE", false: "FALSE"}[v.Want.Bool()]
		}
		if v.Neg {
			what = "NOT " + what
		}
		return "(" + p.expr(v.Arg) + " IS " + what + ")"
	case *DistinctFrom:
		if v.Neg {
			return "(NOT (" + p.expr(v.L) + " IS DISTINCT FROM " + p.expr(v.R) + "))"
		}
		return "(" + p.expr(v.L) + " IS DISTINCT FROM " + p.expr(v.R) + ")"
	case *InList:
		if v.Neg {
			return "(" + p.expr(v.L) + " <> ALL (ARRAY[" + p.list(v.List) + "]))"
		}
		return "(" + p.expr(v.L) + " = ANY (ARRAY[" + p.list(v.List) + "]))"
	case *AnyArray:
		q := "ANY"
		if v.All {
			q = "ALL"
		}
		return "(" + p.expr(v.L) + " " + v.Op + " " + q + " (" + p.expr(v.R) + "))"
	}
	return p.form(e)
}

func (p *printer) join(l []Expr, sep string) string {
	out := make([]string, len(l))
	for i, e := range l {
		out[i] = p.expr(e)
	}
	return "(" + strings.Join(out, sep) + ")"
}

func (p *printer) call(v *Call) string {
	switch {
	case v.Op && len(v.Args) == 2:
		return "(" + p.expr(v.Args[0]) + " " + v.Name + " " + p.expr(v.Args[1]) + ")"
	case v.Op:
		return "(" + v.Name + " " + p.expr(v.Args[0]) + ")"
	case v.Cast != NotCast:
		return "(" + p.expr(v.Args[0]) + ")::" + types.FormatType(v.Typ, v.TMod)
	}
	return v.Name + "(" + p.list(v.Args) + ")"
}

func (p *printer) form(e Expr) string {
	switch v := e.(type) {
	case *Coalesce:
		return "COALESCE(" + p.list(v.Args) + ")"
	case *MinMax:
		if v.Least {
			return "LEAST(" + p.list(v.Args) + ")"
		}
		return "GREATEST(" + p.list(v.Args) + ")"
	case *NullIf:
		return "NULLIF(" + p.expr(v.L) + ", " + p.expr(v.R) + ")"
	case *Array:
		return "ARRAY[" + p.list(v.Elems) + "]"
	case *Row:
		return "ROW(" + p.list(v.Args) + ")"
	case *RowCompare:
		return "(ROW(" + p.list(v.L) + ") " + v.Op.String() + " ROW(" + p.list(v.R) + "))"
	case *Field:
		return "(" + p.expr(v.Arg) + ")." + v.Name
	case *RowID:
		return "rowid()"
	case *Subquery:
		if v.Correlated {
			return fmt.Sprintf("(SubPlan %d)", v.Number)
		}
		return fmt.Sprintf("(InitPlan %d)", v.Number)
	case *Subscript:
		var b strings.Builder
		b.WriteString(p.expr(v.Arg))
		for i := range v.Upper {
			b.WriteByte('[')
			if v.Slice {
				b.WriteString(p.expr(v.Lower[i]) + ":")
			}
			b.WriteString(p.expr(v.Upper[i]) + "]")
		}
		return b.String()
	case *Case:
		var b strings.Builder
		b.WriteString("CASE")
		for i := 0; i < len(v.When); i += 2 {
			fmt.Fprintf(&b, " WHEN %s THEN %s", p.expr(v.When[i]), p.expr(v.When[i+1]))
		}
		p.end(&b, v.Else)
		return b.String()
	case *SimpleCase:
		var b strings.Builder
		b.WriteString("CASE " + p.expr(v.Operand))
		for i := range v.Values {
			fmt.Fprintf(&b, " WHEN %s THEN %s", p.expr(v.Values[i]), p.expr(v.Results[i]))
		}
		p.end(&b, v.Else)
		return b.String()
	}
	return "?"
}

func (p *printer) end(b *strings.Builder, e Expr) {
	if e != nil {
		b.WriteString(" ELSE " + p.expr(e))
	}
	b.WriteString(" END")
}
