package session

import (
	"context"
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// PastReads says what replicas without the lease can answer (SAFETY S24). The server implements it.
type PastReads interface {
	// FollowerLag is how old what is read of some tables must be for the nearest replicas to answer,
	// as a rule. The keys are the tables' first; without any, it holds for every table.
	FollowerLag(tables []keys.Key) time.Duration
	// Freshest returns the newest timestamp at which the nearest replicas can answer reads of all
	// spans now; zero if some can't, or if there are too many ranges to ask.
	Freshest(ctx context.Context, spans []keys.Span) (hlc.Timestamp, error)
}

// Functions that AS OF SYSTEM TIME takes beside expressions.
const (
	followerReadTimestamp = "follower_read_timestamp"
	withMaxStaleness      = "with_max_staleness"
	withMinTimestamp      = "with_min_timestamp"
)

// enterPast makes the implicit block read at the time that the statement names, or the session's
// setting. In an explicit block, BEGIN or SET TRANSACTION names the time.
func (s *Session) enterPast(ctx context.Context, st *parser.Statement) error {
	if n := st.Node.GetExecuteStmt(); n != nil {
		if ns := s.named[n.Name]; ns != nil {
			st = ns.p.st
		}
	}
	explicit := s.tx != nil && !s.tx.implicit
	byDefault := st.AsOf == nil && !explicit && s.vars.bool("default_transaction_use_follower_reads") && readsOnly(st)
	switch {
	case st.AsOf == nil && !byDefault:
		if !explicit && s.tx != nil && s.tx.past != nil {
			return s.leavePast() // only planned so far
		}
		return nil
	case !byDefault && !readsOnly(st):
		return pgerror.New(pgerrcode.FeatureNotSupported, "AS OF SYSTEM TIME is for statements that only read").
			WithHint("Use it with SELECT, EXPLAIN, COPY ... TO, BEGIN or SET TRANSACTION.")
	case explicit && s.tx.asOf.IsEmpty():
		return pgerror.New(pgerrcode.FeatureNotSupported, "a statement inside a transaction block can't read at another time than the block").
			WithHint("Write BEGIN AS OF SYSTEM TIME ..., or SET TRANSACTION AS OF SYSTEM TIME ... as the block's first statement.")
	case explicit, s.tx != nil && s.tx.past == st:
		return nil // the block's time holds
	}
	if err := s.leavePast(); err != nil {
		return err
	}
	if lag, ok := s.knownLag(st, byDefault); ok {
		s.begin(true)
		s.tx.past = st
		s.tx.readAt(s.eng.cfg.CatalogDB.Now().Add(-lag))
		return nil
	}
	// Names are looked up where the nearest replicas can tell, or reads of the past would wait for a
	// leaseholder after all.
	if s.eng.cfg.Past != nil && st.AsOf.GetAConst() == nil {
		s.begin(true)
		s.tx.readAt(s.eng.cfg.CatalogDB.Now().Add(-s.eng.cfg.Past.FollowerLag(nil)))
	}
	ts, err := s.pastTime(ctx, st.AsOf, st)
	s.rollback()
	if err != nil {
		return err
	}
	s.begin(true)
	s.tx.past = st
	s.tx.readAt(ts)
	return nil
}

// statementLag is how old a statement's tables are read, as found lately.
type statementLag struct {
	st    *parser.Statement
	lag   time.Duration
	until time.Time
}

// lagHolds is for how long a statement's lag is not looked up again: it only says which replicas can
// answer, never what is read.
const lagHolds = time.Second

// knownLag returns the lag of a statement that reads at follower_read_timestamp().
func (s *Session) knownLag(st *parser.Statement, byDefault bool) (time.Duration, bool) {
	if s.lag.st != st || time.Now().After(s.lag.until) {
		return 0, false
	}
	if !byDefault {
		if name, args := calledFunction(st.AsOf); name != followerReadTimestamp || len(args) > 0 {
			return 0, false
		}
	}
	return s.lag.lag, true
}

// leavePast ends the implicit block if nothing ran in it but the planner.
func (s *Session) leavePast() error {
	if s.tx == nil {
		return nil
	}
	if s.tx.statements > 0 {
		return pgerror.New(pgerrcode.FeatureNotSupported, "statements that are sent together read at one time").
			WithHint("Send a statement with AS OF SYSTEM TIME by itself, or use BEGIN AS OF SYSTEM TIME.")
	}
	s.rollback()
	return nil
}

// readAt fixes the block's timestamp.
func (tx *transaction) readAt(ts hlc.Timestamp) { tx.asOf, tx.readOnly = ts, true }

// blockAsOf gives an explicit block, in which nothing was read, the time that BEGIN or SET TRANSACTION
// names.
func (s *Session) blockAsOf(ctx context.Context, st *parser.Statement) error {
	if st.AsOf == nil {
		return nil
	}
	if s.tx.statements > 0 || len(s.tx.savepoints) > 0 {
		return pgerror.New(pgerrcode.ActiveSQLTransaction, "SET TRANSACTION AS OF SYSTEM TIME must be called before any query")
	}
	ts, err := s.pastTime(ctx, st.AsOf, nil)
	if s.tx.kv != nil {
		s.renewTxn()
	}
	if err != nil {
		return err
	}
	s.tx.readAt(ts)
	return nil
}

// readsOnly reports whether a statement may name the time that it reads at.
func readsOnly(st *parser.Statement) bool {
	switch n := st.Node.GetNode().(type) {
	case *ast.Node_SelectStmt:
		return n.SelectStmt.IntoClause == nil && len(n.SelectStmt.LockingClause) == 0
	case *ast.Node_ExplainStmt:
		return n.ExplainStmt.Query.GetSelectStmt() != nil
	case *ast.Node_CopyStmt:
		return !n.CopyStmt.IsFrom
	}
	return false
}

// pastTime evaluates AS OF SYSTEM TIME, or what the session's setting stands for if there is none. st
// is the statement that reads; nil for a block.
func (s *Session) pastTime(ctx context.Context, n *ast.Node, st *parser.Statement) (hlc.Timestamp, error) {
	now := s.eng.cfg.CatalogDB.Now()
	name, args := followerReadTimestamp, []*ast.Node(nil)
	if n != nil {
		name, args = calledFunction(n)
	}
	var ts hlc.Timestamp
	var err error
	switch name {
	case followerReadTimestamp:
		if len(args) > 0 {
			return ts, pgerror.New(pgerrcode.UndefinedFunction, "follower_read_timestamp takes no arguments")
		}
		return s.followerTime(ctx, now, st)
	case withMaxStaleness, withMinTimestamp:
		return s.boundedTime(ctx, now, name, args, st)
	}
	if ts, err = s.exactTime(ctx, now, n); err != nil {
		return ts, err
	}
	if now.Less(ts) {
		return ts, pgerror.New(pgerrcode.InvalidParameterValue, "AS OF SYSTEM TIME %s lies in the future: this node's clock is at %s", show(ts), show(now))
	}
	return ts, nil
}

func show(ts hlc.Timestamp) string { return ts.Time().UTC().Format("2006-01-02 15:04:05.000000+00") }

// calledFunction returns the name of a function call without a schema, and its arguments.
func calledFunction(n *ast.Node) (string, []*ast.Node) {
	f := n.GetFuncCall()
	if f == nil || len(f.Funcname) != 1 {
		return "", nil
	}
	return f.Funcname[0].GetString_().GetSval(), f.Args
}

// followerTime is as new as the nearest replicas of a statement's tables can answer as a rule.
func (s *Session) followerTime(ctx context.Context, now hlc.Timestamp, st *parser.Statement) (hlc.Timestamp, error) {
	if s.eng.cfg.Past == nil {
		return now, pgerror.New(pgerrcode.FeatureNotSupported, "this node has no replicas that follow")
	}
	var tables []keys.Key
	if st != nil {
		spans, err := s.tablesOf(ctx, st)
		if err != nil {
			return now, err
		}
		for _, sp := range spans {
			tables = append(tables, sp.Key)
		}
	}
	lag := s.eng.cfg.Past.FollowerLag(tables)
	s.lag = statementLag{st, lag, time.Now().Add(lagHolds)}
	return now.Add(-lag), nil
}

// tablesOf returns the spans of the tables that a statement names. What is no table, such as a view of
// the catalog or a WITH query, has none.
func (s *Session) tablesOf(ctx context.Context, st *parser.Statement) ([]keys.Span, error) {
	var refs []*ast.RangeVar
	walkNodes(st.Node, func(n *ast.Node) {
		if rv := n.GetRangeVar(); rv != nil {
			refs = append(refs, rv)
		}
	})
	if c := st.Node.GetCopyStmt(); c != nil && c.Relation != nil {
		refs = append(refs, c.Relation)
	}
	view := s.catalogView()
	var out []keys.Span
	for _, rv := range refs {
		t, err := view.ResolveTable(ctx, s.catalogPath(), rv.Schemaname, rv.Relname, 0)
		var pe *pgerror.Error
		if errors.As(err, &pe) {
			continue // binding tells
		}
		if err != nil {
			return nil, err
		}
		p := keys.TablePrefix(uint32(t.ID))
		out = append(out, keys.Span{Key: p, EndKey: p.PrefixEnd()})
	}
	return out, nil
}

// boundedTime is as new as the nearest replicas can answer now, and no older than the bound.
func (s *Session) boundedTime(ctx context.Context, now hlc.Timestamp, name string, args []*ast.Node, st *parser.Statement) (hlc.Timestamp, error) {
	if st == nil {
		return now, pgerror.New(pgerrcode.FeatureNotSupported, "%s needs to know what is read: it can't be used for a transaction block", name).
			WithHint("Use it with a single statement, or give the block a time of its own, such as follower_read_timestamp().")
	}
	if len(args) != 1 {
		return now, pgerror.New(pgerrcode.UndefinedFunction, "%s takes one argument", name)
	}
	var bound hlc.Timestamp
	if name == withMaxStaleness {
		d, err := s.evalConstant(ctx, args[0], types.OIDInterval)
		if err != nil {
			return now, err
		}
		back, err := nonNull(d, name)
		if err != nil {
			return now, err
		}
		iv := back.Interval()
		if bound, err = shift(now, types.Interval{Months: -iv.Months, Days: -iv.Days, Micros: -iv.Micros}); err != nil {
			return now, err
		}
		if now.Less(bound) {
			return now, pgerror.New(pgerrcode.InvalidParameterValue, "%s takes an interval that is not negative", name)
		}
	} else {
		d, err := s.evalConstant(ctx, args[0], types.OIDTimestampTZ)
		if err != nil {
			return now, err
		}
		at, err := nonNull(d, name)
		if err != nil {
			return now, err
		}
		if bound, err = finite(at.Int(), name); err != nil {
			return now, err
		}
		if now.Less(bound) {
			return now, pgerror.New(pgerrcode.InvalidParameterValue, "%s(%s) lies in the future: this node's clock is at %s", name, show(bound), show(now))
		}
	}
	if s.eng.cfg.Past == nil {
		return now, nil
	}
	// Where the bound allows it, names too are looked up without a leaseholder. A table that is younger
	// is read as of now.
	s.rollback()
	s.begin(true)
	s.tx.readAt(bound)
	spans, err := s.tablesOf(ctx, st)
	if err != nil || len(spans) == 0 {
		return now, err
	}
	fresh, err := s.eng.cfg.Past.Freshest(ctx, spans)
	if err != nil {
		return now, err
	}
	if now.Less(fresh) {
		fresh = now
	}
	return bound.Max(fresh), nil
}

func nonNull(d types.Datum, name string) (types.Datum, error) {
	if d.IsNull() {
		return d, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "%s takes no null", name)
	}
	return d, nil
}

// decimalTime is a timestamp of Atoll's clock: nanoseconds, and after the point the logical part.
var decimalTime = regexp.MustCompile(`^([0-9]{12,19})(?:\.([0-9]{1,10}))?$`)

// exactTime evaluates a time, an interval back from now, or nanoseconds since 1970.
func (s *Session) exactTime(ctx context.Context, now hlc.Timestamp, n *ast.Node) (hlc.Timestamp, error) {
	if c := n.GetAConst(); c != nil {
		text := c.GetSval().GetSval()
		switch {
		case c.GetFval() != nil:
			text = c.GetFval().Fval
		case c.GetIval() != nil:
			text = strconv.Itoa(int(c.GetIval().Ival))
		}
		if m := decimalTime.FindStringSubmatch(text); m != nil {
			wall, werr := strconv.ParseInt(m[1], 10, 64)
			logical, lerr := strconv.ParseInt("0"+m[2], 10, 32)
			if errors.Join(werr, lerr) != nil {
				return now, badTime(text)
			}
			return hlc.Timestamp{WallNanos: wall, Logical: int32(logical)}, nil
		}
		if c.GetSval() == nil {
			return now, badTime(text)
		}
		return s.textTime(now, text)
	}
	d, err := s.evalScalar(ctx, n)
	if err != nil {
		return now, err
	}
	if d, err = nonNull(d, "AS OF SYSTEM TIME"); err != nil {
		return now, err
	}
	switch d.Kind() {
	case types.KindInterval:
		return shift(now, d.Interval())
	case types.KindString:
		return s.textTime(now, d.Str())
	}
	if d, err = s.evalConstant(ctx, n, types.OIDTimestampTZ); err != nil {
		return now, err
	}
	return finite(d.Int(), "the expression")
}

// finite turns microseconds since 2000 into a time after 1970.
func finite(micros int64, what string) (hlc.Timestamp, error) {
	if micros == math.MinInt64 || micros == math.MaxInt64 {
		return hlc.Timestamp{}, badTime(what)
	}
	ts := fromTime(types.TimeFromTimestamp(micros))
	if ts.WallNanos <= 0 || ts.WallNanos/1000 != types.TimeFromTimestamp(micros).UnixMicro() {
		return hlc.Timestamp{}, badTime(what)
	}
	return ts, nil
}

func (s *Session) textTime(now hlc.Timestamp, text string) (hlc.Timestamp, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		iv, err := types.ParseInterval(text, -1, s.env)
		if err != nil {
			return now, err
		}
		return shift(now, iv)
	}
	ts, err := types.ParseTimestampTZ(text, -1, s.env)
	if err != nil {
		return now, err
	}
	return finite(ts, text)
}

func badTime(text string) error {
	return pgerror.New(pgerrcode.InvalidParameterValue, "AS OF SYSTEM TIME %s is no time that was", text).
		WithHint("Write a time such as '-10s' or '2026-01-31 12:00:00+00', nanoseconds since 1970, or follower_read_timestamp().")
}

func fromTime(t time.Time) hlc.Timestamp { return hlc.Timestamp{WallNanos: t.UnixNano()} }

// shift adds an interval to the clock.
func shift(now hlc.Timestamp, iv types.Interval) (hlc.Timestamp, error) {
	const day = 24 * time.Hour
	days := iv.Micros / day.Microseconds()
	t := now.Time().AddDate(0, int(iv.Months), int(iv.Days)+int(days)).Add(time.Duration(iv.Micros%day.Microseconds()) * time.Microsecond)
	if y := t.Year(); y < 1970 || y > 2200 || t.UnixNano() <= 0 {
		return now, badTime("with that interval")
	}
	return fromTime(t), nil
}
