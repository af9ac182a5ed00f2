package builtins

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// testdata/calls.txt holds calls and what PostgreSQL 15 answers to them (pgdiff_test.go asks it):
//
//	f NAME | TYPE "input" | TYPE NULL ... => TYPE "output"       a function
//	o NAME | TYPE "input" | TYPE "input"  => TYPE "output"       an operator
//	c TYPE | TYPE "input"                 => TYPE "output"       an explicit cast to the first type
//	s NAME | TYPE "input" ...             => "row" "row" ...     a set-returning function, rows as records
//	a NAME | TYPE "v" "v" NULL | TYPE ... => TYPE "output"       an aggregate, arguments by column
type callCase struct {
	line int
	text string // without the answer
	kind byte
	name string
	args []callArg
	want string
}

type callArg struct {
	typ  string
	vals []*string
}

func readCalls(t testing.TB, path string) []callCase {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var out []callCase
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		text, want, _ := strings.Cut(line, " => ")
		text = strings.TrimSuffix(text, " =>")
		parts := splitBars(text[2:])
		c := callCase{line: n, text: text, kind: line[0], name: parts[0], want: want}
		for _, p := range parts[1:] {
			a := callArg{}
			a.typ, p, _ = strings.Cut(p, " ")
			for p != "" {
				if rest, ok := strings.CutPrefix(p, "NULL"); ok {
					a.vals = append(a.vals, nil)
					p = strings.TrimSpace(rest)
					continue
				}
				q, err := strconv.QuotedPrefix(p)
				require.NoError(t, err, "line %d: %s", n, line)
				s, err := strconv.Unquote(q)
				require.NoError(t, err)
				a.vals = append(a.vals, &s)
				p = strings.TrimSpace(p[len(q):])
			}
			c.args = append(c.args, a)
		}
		out = append(out, c)
	}
	require.NoError(t, sc.Err())
	return out
}

// splitBars splits at " | " outside quotes.
func splitBars(s string) []string {
	var out []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && strings.HasPrefix(s[i:], " | "):
			out = append(out, s[start:i])
			start = i + 3
		}
	}
	return append(out, s[start:])
}

func errorText(err error) string {
	var pe *pgerror.Error
	if !errors.As(err, &pe) {
		return "ERROR (not a pgerror) " + err.Error()
	}
	return "ERROR " + pe.Code + " " + pe.Message
}

func caseType(s string) (types.OID, int32, error) {
	name, array := strings.CutSuffix(s, "[]")
	mod := int32(-1)
	if i := strings.IndexByte(name, '('); i >= 0 {
		var mods []int32
		for _, m := range strings.Split(strings.TrimSuffix(name[i+1:], ")"), ",") {
			v, err := strconv.Atoi(m)
			if err != nil {
				return 0, 0, err
			}
			mods = append(mods, int32(v))
		}
		name = name[:i]
		t, ok := types.LookupName(name)
		if !ok {
			return 0, 0, fmt.Errorf("no type %q", name)
		}
		var err error
		if mod, err = types.EncodeTypmod(t.OID, mods); err != nil {
			return 0, 0, err
		}
	}
	t, ok := types.LookupName(strings.Trim(name, `"`))
	if !ok {
		return 0, 0, fmt.Errorf("no type %q", name)
	}
	if array {
		return t.Array, mod, nil
	}
	return t.OID, mod, nil
}

var caseNow = time.Date(2024, 2, 29, 13, 14, 15, 123456000, time.UTC)

func caseContext() *EvalContext {
	env := types.DefaultEnv()
	env.Now = caseNow
	env.Location, _ = types.LoadZone("America/New_York")
	return &EvalContext{Ctx: context.Background(), Env: env}
}

func isPolymorphicOrAny(t types.OID) bool {
	return t == types.OIDAny || strings.HasPrefix(types.MustLookup(t).Name, "any")
}

// findProc finds the function whose arguments are exactly these; any polymorphic one otherwise.
func findProc(name string, in []types.OID) *Proc {
	var loose *Proc
	for _, p := range ProcsByName(name) {
		args := p.Args
		if p.Variadic == types.OIDAny && len(in) >= len(p.Args)-1 {
			args = append([]types.OID(nil), p.Args[:len(p.Args)-1]...)
			for len(args) < len(in) {
				args = append(args, types.OIDAny)
			}
		}
		if len(args) != len(in) {
			continue
		}
		exact, poly := true, true
		for i, a := range args {
			exact = exact && a == in[i]
			t := types.MustLookup(in[i])
			switch {
			case a == in[i] || a == types.OIDAny:
			case strings.Contains(types.MustLookup(a).Name, "range"):
				poly = false
			case isPolymorphicOrAny(a):
				if n := types.MustLookup(a).Name; strings.HasSuffix(n, "nonarray") && t.IsArray() || strings.HasSuffix(n, "array") && !strings.HasSuffix(n, "nonarray") && !t.IsArray() {
					poly = false
				}
			default:
				poly = false
			}
		}
		if exact {
			return p
		}
		if poly && loose == nil {
			loose = p
		}
	}
	return loose
}

func resultType(p *Proc, in []types.OID) types.OID {
	if p.Result == types.OIDAny || !isPolymorphicOrAny(p.Result) {
		return p.Result
	}
	elem := types.OID(0)
	for i, a := range p.Args {
		if a != types.OIDAny && isPolymorphicOrAny(a) && i < len(in) {
			if elem = in[i]; types.MustLookup(in[i]).IsArray() {
				elem = types.MustLookup(in[i]).Elem
			}
		}
	}
	if n := types.MustLookup(p.Result).Name; strings.HasSuffix(n, "array") && !strings.HasSuffix(n, "nonarray") {
		return types.MustLookup(elem).Array
	}
	return elem
}

func (c *callCase) parse(ctx *EvalContext, i int) (types.OID, []types.Datum, error) {
	oid, mod, err := caseType(c.args[i].typ)
	if err != nil {
		return 0, nil, err
	}
	var out []types.Datum
	for _, v := range c.args[i].vals {
		d := types.Null
		if v != nil {
			if d, err = types.ParseText(oid, -1, *v, ctx.Env); err == nil {
				d, err = types.ApplyTypmod(oid, mod, true, d)
			}
			if err != nil {
				return 0, nil, err
			}
		}
		out = append(out, d)
	}
	return oid, out, nil
}

func show(ctx *EvalContext, oid types.OID, d types.Datum) string {
	if d.IsNull() {
		return types.MustLookup(oid).Name + " NULL"
	}
	return types.MustLookup(oid).Name + " " + strconv.Quote(types.Text(oid, d, ctx.Env))
}

func (c *callCase) run() string {
	ctx := caseContext()
	var in []types.OID
	var cols [][]types.Datum
	for i := range c.args {
		oid, vals, err := c.parse(ctx, i)
		if err != nil {
			return errorText(err)
		}
		in, cols = append(in, oid), append(cols, vals)
	}
	var args []types.Datum
	if c.kind != 'a' {
		for _, col := range cols {
			args = append(args, col[0])
		}
	}
	switch c.kind {
	case 'c':
		return c.runCast(ctx, in[0], args[0])
	case 'o':
		for _, o := range OperatorsByName(c.name) {
			if len(in) == 1 && o.Left == 0 && o.Right == in[0] || len(in) == 2 && o.Left == in[0] && o.Right == in[1] {
				return runProc(ctx, o.Proc, in, args)
			}
		}
		for _, o := range OperatorsByName(c.name) {
			if len(in) == 2 && o.Left != 0 && findProc(o.Proc.Name, in) == o.Proc {
				return runProc(ctx, o.Proc, in, args)
			}
		}
		return "no operator"
	}
	p := findProc(c.name, in)
	switch {
	case p == nil:
		return "no function"
	case c.kind == 's':
		return c.runSet(ctx, p, in, args)
	case c.kind == 'a':
		return runAgg(ctx, p, in, cols)
	}
	return runProc(ctx, p, in, args)
}

func runProc(ctx *EvalContext, p *Proc, in []types.OID, args []types.Datum) string {
	result := resultType(p, in)
	fn := p.Fn(in, result)
	if fn == nil {
		return "not implemented"
	}
	if p.Strict {
		for _, a := range args {
			if a.IsNull() {
				return show(ctx, result, types.Null)
			}
		}
	}
	d, err := fn(ctx, args)
	if err != nil {
		return errorText(err)
	}
	return show(ctx, result, d)
}

func (c *callCase) runCast(ctx *EvalContext, from types.OID, d types.Datum) string {
	to, mod, err := caseType(c.name)
	if err != nil {
		return err.Error()
	}
	if cast, ok := FindCast(from, to); ok {
		if !cast.Supported() {
			return "not implemented"
		}
		if fn := cast.Eval(); fn != nil {
			args := []types.Datum{d}
			if cast.Proc != nil && len(cast.Proc.Args) > 1 {
				args = append(args, types.NewInt(-1), types.NewBool(true))
			}
			d, err = fn(ctx, args)
		}
	} else {
		d, err = IOCast(from, to)(ctx, []types.Datum{d})
	}
	if err == nil {
		d, err = types.ApplyTypmod(to, mod, true, d)
	}
	if err != nil {
		return errorText(err)
	}
	return show(ctx, to, d)
}

func (c *callCase) runSet(ctx *EvalContext, p *Proc, in []types.OID, args []types.Datum) string {
	fn := p.SetFn()
	if fn == nil {
		return "not implemented"
	}
	cols := []types.OID{resultType(p, in)}
	if p.AllArgs != nil && p.Result == types.OIDRecord {
		cols = nil
		for i, m := range p.ArgModes {
			if m == 'o' || m == 't' {
				cols = append(cols, p.AllArgs[i])
			}
		}
	}
	var rows []string
	err := fn(ctx, args, func(row []types.Datum) (bool, error) {
		r := &types.Record{Types: cols, Values: append([]types.Datum(nil), row...)}
		rows = append(rows, strconv.Quote(types.Text(types.OIDRecord, types.NewRecord(r), ctx.Env)))
		return len(rows) < 20, nil
	})
	if err != nil {
		return errorText(err)
	}
	return strings.Join(rows, " ")
}

func runAgg(ctx *EvalContext, p *Proc, in []types.OID, cols [][]types.Datum) string {
	result := resultType(p, in)
	make := p.NewAccumulator(in, result)
	if make == nil {
		return "not implemented"
	}
	agg, _ := AggregateByOID(p.OID)
	acc := make()
rows:
	for i := range cols[0] {
		var row []types.Datum
		for _, col := range cols {
			if col[i].IsNull() && agg.SkipsNulls() {
				continue rows
			}
			row = append(row, col[i])
		}
		if err := acc.Add(ctx, row); err != nil {
			return errorText(err)
		}
	}
	d, err := acc.Result(ctx)
	if err != nil {
		return errorText(err)
	}
	return show(ctx, result, d)
}

func TestCalls(t *testing.T) {
	for _, c := range readCalls(t, "testdata/calls.txt") {
		if got := c.run(); got != c.want {
			t.Errorf("calls.txt:%d: %s\n got %s\nwant %s", c.line, c.text, got, c.want)
		}
	}
}
