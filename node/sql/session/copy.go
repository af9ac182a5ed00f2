package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/copyfmt"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// copyBatchRows and copyBatchBytes bound how many rows COPY FROM hands on at once.
const (
	copyBatchRows  = 512
	copyBatchBytes = 512 << 10
)

// copyStatement is a COPY that was checked: from or to the client.
type copyStatement struct {
	st      *parser.Statement
	node    *ast.CopyStmt
	opts    copyfmt.Options
	table   *catalog.Table    // nil for COPY (query) TO
	columns []*catalog.Column // the listed ones, or all that are visible
	query   *prepared         // COPY TO
}

// bindCopy checks a COPY.
func (s *Session) bindCopy(ctx context.Context, st *parser.Statement, n *ast.CopyStmt) (*copyStatement, error) {
	if n.IsProgram || n.Filename != "" {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "COPY from or to a file on the server is not supported").
			WithHint(`Use COPY ... FROM STDIN or TO STDOUT; psql's \copy does.`)
	}
	if n.WhereClause != nil {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "COPY FROM ... WHERE is not supported")
	}
	c := &copyStatement{st: st, node: n}
	if n.Relation != nil {
		if err := s.bindCopyTable(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := c.options(); err != nil {
		return nil, err
	}
	if n.IsFrom {
		return c, nil
	}
	query := n.Query
	if query == nil {
		query = selectColumns(n.Relation, c.columns)
	}
	p, err := s.prepare(ctx, st.WithNode(query), nil)
	if err != nil {
		return nil, err
	}
	if p.cmd != nil || p.Columns() == nil {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "COPY query must have a RETURNING clause or be a SELECT")
	}
	c.query = p
	return c, nil
}

func (s *Session) bindCopyTable(ctx context.Context, c *copyStatement) error {
	rv := c.node.Relation
	view := s.catalogView()
	t, err := view.ResolveTable(ctx, s.catalogPath(), rv.Schemaname, rv.Relname, c.st.Position(rv.Location))
	if err != nil {
		return err
	}
	c.table = t
	if len(c.node.Attlist) == 0 {
		c.columns = t.VisibleColumns()
		return nil
	}
	seen := map[string]bool{}
	for _, a := range c.node.Attlist {
		name := a.GetString_().GetSval()
		col := t.ColumnByName(name)
		if col == nil || col.Hidden {
			return pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", name, t.Name)
		}
		if seen[name] {
			return pgerror.New(pgerrcode.DuplicateColumn, "column %q specified more than once", name)
		}
		seen[name] = true
		c.columns = append(c.columns, col)
	}
	return nil
}

// selectColumns is the query of COPY table TO.
func selectColumns(rv *ast.RangeVar, cols []*catalog.Column) *ast.Node {
	sel := &ast.SelectStmt{
		FromClause:  []*ast.Node{{Node: &ast.Node_RangeVar{RangeVar: rv}}},
		LimitOption: ast.LimitOption_LIMIT_OPTION_DEFAULT, Op: ast.SetOperation_SETOP_NONE,
	}
	for _, col := range cols {
		ref := &ast.ColumnRef{Location: -1, Fields: []*ast.Node{{Node: &ast.Node_String_{String_: &ast.String{Sval: col.Name}}}}}
		target := &ast.ResTarget{Location: -1, Val: &ast.Node{Node: &ast.Node_ColumnRef{ColumnRef: ref}}}
		sel.TargetList = append(sel.TargetList, &ast.Node{Node: &ast.Node_ResTarget{ResTarget: target}})
	}
	return &ast.Node{Node: &ast.Node_SelectStmt{SelectStmt: sel}}
}

// options reads WITH (...), in the old and the new form.
func (c *copyStatement) options() error {
	format := copyfmt.Text
	for _, o := range c.node.Options {
		if d := o.GetDefElem(); d.GetDefname() == "format" {
			switch v := strings.ToLower(constText(d.Arg)); v {
			case "text":
			case "csv":
				format = copyfmt.CSV
			case "binary":
				format = copyfmt.Binary
			default:
				return pgerror.New(pgerrcode.InvalidParameterValue, "COPY format %q not recognized", v)
			}
		}
	}
	c.opts = copyfmt.NewOptions(format)
	for _, o := range c.node.Options {
		if err := c.option(o.GetDefElem()); err != nil {
			return err
		}
	}
	return c.opts.Validate()
}

func (c *copyStatement) option(d *ast.DefElem) (err error) {
	switch d.GetDefname() {
	case "format":
	case "freeze", "encoding": // UTF8 only, and every row is visible once it is committed
	case "delimiter":
		c.opts.Delimiter, err = oneByte("delimiter", constText(d.Arg))
	case "null":
		c.opts.Null = constText(d.Arg)
	case "header":
		v := strings.ToLower(constText(d.Arg))
		if v == "match" {
			return pgerror.New(pgerrcode.FeatureNotSupported, "COPY HEADER MATCH is not supported")
		}
		c.opts.Header = d.Arg == nil || v == "true" || v == "on" || v == "1"
	case "quote":
		c.opts.Quote, err = oneByte("quote", constText(d.Arg))
	case "escape":
		c.opts.Escape, err = oneByte("escape", constText(d.Arg))
	case "force_quote":
		c.opts.ForceQuote, err = c.columnFlags(d)
	case "force_not_null":
		c.opts.ForceNotNull, err = c.columnFlags(d)
	case "force_null":
		c.opts.ForceNull, err = c.columnFlags(d)
	default:
		return pgerror.New(pgerrcode.SyntaxError, "option %q not recognized", d.GetDefname())
	}
	return err
}

func oneByte(option, v string) (byte, error) {
	if len(v) != 1 {
		return 0, pgerror.New(pgerrcode.FeatureNotSupported, "COPY %s must be a single one-byte character", option)
	}
	return v[0], nil
}

// columnFlags reads a list of column names, or *.
func (c *copyStatement) columnFlags(d *ast.DefElem) ([]bool, error) {
	flags := make([]bool, len(c.columns))
	if d.Arg.GetAStar() != nil {
		for i := range flags {
			flags[i] = true
		}
		return flags, nil
	}
	for _, n := range d.Arg.GetList().GetItems() {
		name, found := n.GetString_().GetSval(), false
		for i, col := range c.columns {
			if col.Name == name {
				flags[i], found = true, true
			}
		}
		if !found {
			return nil, pgerror.New(pgerrcode.UndefinedColumn, "column %q does not exist", name)
		}
	}
	return flags, nil
}

// wireColumns tells the client how many fields a row has.
func (c *copyStatement) wireColumns() []client.Column {
	if c.query != nil {
		return c.query.Columns()
	}
	return make([]client.Column, len(c.columns))
}

// copyFrom loads rows. The whole COPY is one statement: all rows or none.
func (s *Session) copyFrom(ctx context.Context, c *copyStatement, data client.CopyReader) (string, error) {
	ins, err := s.newInserter(ctx, c)
	if err != nil {
		return "", err
	}
	d := copyfmt.NewDecoder(c.opts, data.ReadCopyData)
	var rows [][]types.Datum
	size := 0
	flush := func() error {
		err := ins.Insert(ctx, rows)
		rows, size = rows[:0], 0
		return err
	}
	total := int64(0)
	for {
		fields, err := d.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", c.where(err, d.Line(), "")
		}
		row, n, err := s.copyRow(c, fields, d.Line())
		if err != nil {
			return "", err
		}
		rows, size, total = append(rows, row), size+n, total+1
		if len(rows) >= copyBatchRows || size >= copyBatchBytes {
			if err := flush(); err != nil {
				return "", c.where(err, d.Line(), "")
			}
		}
	}
	if err := flush(); err != nil {
		return "", c.where(err, d.Line(), "")
	}
	return fmt.Sprintf("COPY %d", total), nil
}

// copyRow turns fields into values.
func (s *Session) copyRow(c *copyStatement, fields []copyfmt.Field, line int64) ([]types.Datum, int, error) {
	if len(fields) > len(c.columns) {
		return nil, 0, c.where(pgerror.New(pgerrcode.BadCopyFileFormat, "extra data after last expected column"), line, "")
	}
	if len(fields) < len(c.columns) {
		return nil, 0, c.where(pgerror.New(pgerrcode.BadCopyFileFormat, "missing data for column %q", c.columns[len(fields)].Name), line, "")
	}
	row, size := make([]types.Datum, len(fields)), 0
	for i, f := range fields {
		if f.Null {
			continue
		}
		col := c.columns[i]
		size += len(f.Data)
		var err error
		if c.opts.Format == copyfmt.Binary {
			row[i], err = types.ParseBinary(col.Type.OID, col.Type.Mod, f.Data, s.env)
		} else {
			row[i], err = types.ParseText(col.Type.OID, col.Type.Mod, string(f.Data), s.env)
		}
		if err != nil {
			return nil, 0, c.where(err, line, col.Name)
		}
	}
	return row, size, nil
}

// where adds the line to an error, as PostgreSQL's CONTEXT does.
func (c *copyStatement) where(err error, line int64, column string) error {
	var pe *pgerror.Error
	if !errors.As(err, &pe) || pe.Detail != "" {
		return err
	}
	e := *pe
	e.Detail = fmt.Sprintf("COPY %s, line %d", c.node.GetRelation().GetRelname(), line)
	if column != "" {
		e.Detail += ", column " + column
	}
	return &e
}

// copyTo sends rows.
func (s *Session) copyTo(ctx context.Context, c *copyStatement, out client.CopyWriter) (string, error) {
	cols := c.query.Columns()
	if err := out.Begin(len(cols), c.opts.Format == copyfmt.Binary); err != nil {
		return "", err
	}
	names := make([]string, len(cols))
	for i, col := range cols {
		names[i] = col.Name
	}
	w := &copySink{s: s, c: c, out: out, cols: cols, fields: make([]copyfmt.Field, len(cols))}
	w.buf = copyfmt.AppendHeader(nil, &c.opts, names)
	if err := s.runInto(ctx, c.query, w); err != nil {
		return "", err
	}
	w.buf = copyfmt.AppendTrailer(w.buf, &c.opts)
	if err := w.flush(); err != nil {
		return "", err
	}
	return fmt.Sprintf("COPY %d", w.rows), nil
}

// copySink formats rows. It implements client.RowWriter.
type copySink struct {
	s      *Session
	c      *copyStatement
	out    client.CopyWriter
	cols   []client.Column
	fields []copyfmt.Field
	buf    []byte
	rows   int64
}

// Retract implements client.RowWriter: CopyData may have left.
func (w *copySink) Retract() bool { return false }

// WriteRow implements client.RowWriter.
func (w *copySink) WriteRow(row []types.Datum) error {
	for i, d := range row {
		f := &w.fields[i]
		f.Null = d.IsNull()
		if f.Null {
			continue
		}
		if w.c.opts.Format != copyfmt.Binary {
			f.Data = types.AppendText(f.Data[:0], w.cols[i].Type, d, w.s.env)
			continue
		}
		var err error
		if f.Data, err = types.AppendBinary(f.Data[:0], w.cols[i].Type, d, w.s.env); err != nil {
			return err
		}
	}
	w.rows++
	w.buf = copyfmt.AppendRow(w.buf, &w.c.opts, w.fields)
	// pg_dump and COPY's clients take one row per message at the least; a few more cost less.
	if len(w.buf) >= 8<<10 {
		return w.flush()
	}
	return nil
}

func (w *copySink) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.out.WriteCopyData(w.buf)
	w.buf = w.buf[:0]
	return err
}
