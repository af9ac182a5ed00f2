// Package pgdiff runs the same statements on Atoll and on PostgreSQL and compares all that a
// client sees: rows in text and binary, column names and types, command tags, and errors with
// their SQLSTATE, position and fields. Statements come from files (testdata) and from a
// seeded generator.
package pgdiff

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Mode is the way a statement goes through the protocol.
type Mode uint8

const (
	Simple Mode = iota
	ExtendedText
	ExtendedBinary
)

func (m Mode) String() string { return [...]string{"simple", "extended", "binary"}[m] }

// statementTimeout bounds one statement on one server that does not keep its statement_timeout.
const statementTimeout = 30 * time.Second

// Outcome is what a client sees of one statement (of the last one, in the simple protocol).
type Outcome struct {
	Columns []string // name, type OID, type modifier
	Rows    []string
	Tag     string
	Err     *pgconn.PgError
}

// Server is a connection to one of the two.
type Server struct {
	Name string
	dsn  string
	conn *pgconn.PgConn
}

// Dial connects, with settings that make output comparable.
func Dial(ctx context.Context, name, dsn string) (*Server, error) {
	s := &Server{Name: name, dsn: dsn}
	return s, s.Reset(ctx)
}

// Reset opens the connection anew.
func (s *Server) Reset(ctx context.Context) error {
	s.Close()
	cfg, err := pgconn.ParseConfig(s.dsn)
	if err != nil {
		return err
	}
	cfg.RuntimeParams["TimeZone"] = "Europe/Berlin"
	cfg.RuntimeParams["application_name"] = "pgdiff"
	cfg.RuntimeParams["statement_timeout"] = "10s"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	s.conn = conn
	return nil
}

// Close closes the connection.
func (s *Server) Close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}

// Run runs a statement. args are text values (nil: NULL) for $1, $2 ...; the simple protocol
// has none. An error that is not the server's answer (a lost connection, a timeout) is
// returned as such.
func (s *Server) Run(ctx context.Context, mode Mode, sql string, args ...[]byte) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var out Outcome
	var err error
	if mode == Simple {
		mrr := s.conn.Exec(ctx, sql)
		for mrr.NextResult() {
			out = read(mrr.ResultReader())
		}
		err = mrr.Close()
	} else {
		var formats []int16
		if mode == ExtendedBinary {
			formats = []int16{1}
		}
		rr := s.conn.ExecParams(ctx, sql, args, nil, nil, formats)
		out = read(rr)
		_, err = rr.Close()
	}
	if err != nil {
		out.Rows, out.Tag = nil, ""
		if errors.As(err, &out.Err) {
			return out, nil
		}
		return out, fmt.Errorf("%s: %s: %w", s.Name, sql, err)
	}
	return out, nil
}

func read(rr *pgconn.ResultReader) Outcome {
	var out Outcome
	for _, f := range rr.FieldDescriptions() {
		out.Columns = append(out.Columns, fmt.Sprintf("%s %d(%d)", f.Name, f.DataTypeOID, f.TypeModifier))
	}
	binary := len(rr.FieldDescriptions()) > 0 && rr.FieldDescriptions()[0].Format == 1
	for rr.NextRow() {
		var b strings.Builder
		for i, v := range rr.Values() {
			if i > 0 {
				b.WriteString(" | ")
			}
			switch {
			case v == nil:
				b.WriteString("NULL")
			case binary:
				fmt.Fprintf(&b, "%x", v)
			default:
				fmt.Fprintf(&b, "%q", v)
			}
		}
		out.Rows = append(out.Rows, b.String())
	}
	if tag, err := rr.Close(); err == nil {
		out.Tag = tag.String()
	}
	return out
}

// String shows an outcome in lines, with at most 20 rows.
func (o Outcome) String() string {
	if o.Err != nil {
		return "error " + errorFields(o.Err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s [%s]", o.Tag, strings.Join(o.Columns, ", "))
	for i, r := range o.Rows {
		if i == 20 {
			fmt.Fprintf(&b, "\n      ... %d rows", len(o.Rows))
			break
		}
		b.WriteString("\n      " + r)
	}
	return b.String()
}

func errorFields(e *pgconn.PgError) string {
	s := fmt.Sprintf("%s at %d: %s", e.Code, e.Position, e.Message)
	for _, f := range [][2]string{
		{"detail", e.Detail}, {"hint", e.Hint}, {"schema", e.SchemaName}, {"table", e.TableName}, {"column", e.ColumnName}, {"type", e.DataTypeName}, {"constraint", e.ConstraintName},
	} {
		if f[1] != "" {
			s += fmt.Sprintf(" %s=%q", f[0], f[1])
		}
	}
	return s
}

// Compare says what Difference looks at.
type Compare struct {
	// Ordered: the order of rows counts.
	Ordered bool
	// Loose: equal numbers may be written with more or fewer digits, and 0 with a sign: which
	// of several equal values stands for a group, or which row comes first, is not determined.
	// Which of several conflicts an error names is not either.
	Loose bool
	// NoMods: the columns' type modifiers do not. PostgreSQL shows those of the expressions
	// that are left after constants were folded.
	NoMods bool
}

var mods = regexp.MustCompile(`\([-0-9]+\)$`)

func withoutMods(columns []string) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = mods.ReplaceAllString(c, "")
	}
	return out
}

var (
	fractions = regexp.MustCompile(`\b(-?[0-9]+)\.([0-9]*?)0+\b`)
	zeros     = regexp.MustCompile(`"-0"`)
)

func loose(rows []string) []string {
	out := make([]string, len(rows))
	for i, r := range rows {
		r = fractions.ReplaceAllString(r, "$1.$2")
		r = strings.ReplaceAll(strings.ReplaceAll(r, `."`, `"`), ".,", ",")
		out[i] = zeros.ReplaceAllString(strings.ReplaceAll(r, ".]", "]"), `"0"`)
	}
	return out
}

// Difference says how got differs from want, or "".
func Difference(got, want Outcome, how Compare) string {
	switch {
	case got.Err != nil && want.Err != nil:
		g, w := *got.Err, *want.Err
		if how.Loose && w.Code == "23505" {
			g.Detail, w.Detail = "", ""
		}
		if errorFields(&g) != errorFields(&w) {
			return "errors differ"
		}
		return ""
	case got.Err != nil:
		return "only Atoll fails"
	case want.Err != nil:
		return "only PostgreSQL fails"
	}
	if how.NoMods {
		got.Columns, want.Columns = withoutMods(got.Columns), withoutMods(want.Columns)
	}
	if !slices.Equal(got.Columns, want.Columns) {
		return "columns differ"
	}
	g, w := got.Rows, want.Rows
	if how.Loose {
		g, w = loose(g), loose(w)
	}
	if !how.Ordered {
		g, w = slices.Sorted(slices.Values(g)), slices.Sorted(slices.Values(w))
	}
	if !slices.Equal(g, w) {
		return "rows differ"
	}
	if got.Tag != want.Tag {
		return "tags differ"
	}
	return ""
}
