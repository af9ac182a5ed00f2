package builtins

import (
	"context"
	crand "crypto/rand"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// Version is what version() prints: clients look at its first number.
const Version = "PostgreSQL 15.0 (Atoll)"

// withSession makes a function of the session.
func withSession(f func(ctx *EvalContext, s Session, a []types.Datum) (types.Datum, error)) Eval {
	return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		s, err := ctx.session()
		if err != nil {
			return types.Null, err
		}
		return f(ctx, s, a)
	}
}

func sessionFuncs(r *registry) {
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return str(Version) }, "pgsql_version")
	text := func(f func(Identity) string, keys ...string) {
		r.fn(withSession(func(_ *EvalContext, s Session, _ []types.Datum) (types.Datum, error) { return str(f(s.Identity())) }), keys...)
	}
	text(func(i Identity) string { return i.User }, "current_user")
	text(func(i Identity) string { return i.SessionUser }, "session_user")
	text(func(i Identity) string { return i.Database }, "current_database")
	r.fn(withSession(func(_ *EvalContext, s Session, _ []types.Datum) (types.Datum, error) {
		return types.NewInt(int64(s.Identity().BackendPID)), nil
	}), "pg_backend_pid")
	r.fn(withSession(func(_ *EvalContext, s Session, _ []types.Datum) (types.Datum, error) {
		return types.NewTimestamp(types.TimestampFromTime(s.Identity().ServerStarted)), nil
	}), "pg_postmaster_start_time", "pg_conf_load_time")
	r.fn(withSession(func(_ *EvalContext, s Session, _ []types.Datum) (types.Datum, error) {
		if p := s.SearchPath(false); len(p) > 0 {
			return str(p[0])
		}
		return types.Null, nil
	}), "current_schema")
	r.fn(withSession(func(_ *EvalContext, s Session, a []types.Datum) (types.Datum, error) {
		var out []types.Datum
		for _, n := range s.SearchPath(a[0].Bool()) {
			out = append(out, types.NewString(n))
		}
		return types.NewArray1(types.OIDName, out), nil
	}), "current_schemas")
	r.fn(withSession(func(_ *EvalContext, s Session, a []types.Datum) (types.Datum, error) {
		if v, ok := s.Setting(a[0].Str()); ok {
			return str(v)
		}
		if len(a) > 1 && a[1].Bool() {
			return types.Null, nil
		}
		return types.Null, pgerror.New(pgerrcode.UndefinedObject, "unrecognized configuration parameter \"%s\"", a[0].Str())
	}), "show_config_by_name", "show_config_by_name_missing_ok")
	r.fn(withSession(func(_ *EvalContext, s Session, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, pgerror.New(pgerrcode.NullValueNotAllowedDataException, "SET requires parameter name")
		}
		value := ""
		if !a[1].IsNull() {
			value = a[1].Str()
		}
		v, err := s.SetSetting(a[0].Str(), value, !a[2].IsNull() && a[2].Bool())
		return types.NewString(v), err
	}), "set_config_by_name")
	r.fn(withSession(func(_ *EvalContext, s Session, _ []types.Datum) (types.Datum, error) {
		return types.NewInt(s.TxnID()), nil
	}),
		"pg_current_xact_id", "pg_current_xact_id_if_assigned")
	sequenceFuncs(r)
}

func sequenceFuncs(r *registry) {
	with := func(f func(ctx context.Context, q Sequences, a []types.Datum) (types.Datum, error)) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			if ctx.Sequences == nil {
				return types.Null, pgerror.New(pgerrcode.FeatureNotSupported, "sequences are not supported here")
			}
			return f(ctx.context(), ctx.Sequences, a)
		}
	}
	seq := func(d types.Datum) types.OID { return types.OID(d.Int()) }
	r.fn(with(func(ctx context.Context, q Sequences, a []types.Datum) (types.Datum, error) {
		v, err := q.NextVal(ctx, seq(a[0]))
		return types.NewInt(v), err
	}), "nextval_oid")
	r.fn(with(func(ctx context.Context, q Sequences, a []types.Datum) (types.Datum, error) {
		v, err := q.CurrVal(ctx, seq(a[0]))
		return types.NewInt(v), err
	}), "currval_oid")
	r.fn(with(func(ctx context.Context, q Sequences, a []types.Datum) (types.Datum, error) {
		called := len(a) < 3 || a[2].Bool()
		return a[1], q.SetVal(ctx, seq(a[0]), a[1].Int(), called)
	}), "setval_oid", "setval3_oid")
	r.fn(with(func(ctx context.Context, q Sequences, _ []types.Datum) (types.Datum, error) {
		v, err := q.LastVal(ctx)
		return types.NewInt(v), err
	}), "lastval")
	r.fn(with(func(ctx context.Context, q Sequences, a []types.Datum) (types.Datum, error) {
		v, called, err := q.Peek(ctx, seq(a[0]))
		if err != nil || !called {
			return types.Null, err
		}
		return types.NewInt(v), nil
	}), "pg_sequence_last_value")
}

func miscFuncs(r *registry) {
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) {
		var u [16]byte
		if _, err := crand.Read(u[:]); err != nil {
			return types.Null, pgerror.Wrap(err, pgerrcode.InternalError, "could not generate random values")
		}
		u[6] = u[6]&0x0f | 0x40
		u[8] = u[8]&0x3f | 0x80
		return types.NewUUID(u), nil
	}, "gen_random_uuid")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		t := types.OIDUnknown
		if len(args) > 0 {
			t = args[0]
		}
		return func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewInt(int64(t)), nil }
	}, "pg_typeof")
	count := func(nulls bool) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			n := 0
			for _, d := range a {
				if d.IsNull() == nulls {
					n++
				}
			}
			return integer(n)
		}
	}
	r.fn(count(true), "pg_num_nulls")
	r.fn(count(false), "pg_num_nonnulls")
	r.fn(sleep, "pg_sleep")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].Int() == 6 {
			return str("UTF8")
		}
		if a[0].Int() == 0 {
			return str("SQL_ASCII")
		}
		return str("")
	}, "PG_encoding_to_char")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if onlyUTF8(a[0].Str()) == nil {
			return integer(6)
		}
		return integer(-1)
	}, "PG_char_to_encoding")
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return str("UTF8") }, "pg_client_encoding", "getdatabaseencoding")
	no := func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewBool(false), nil }
	r.fn(no, "pg_is_in_recovery", "pg_jit_available", "pg_is_other_temp_schema")
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewBool(true), nil }, "pg_relation_is_publishable")
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewInt(0), nil }, "pg_my_temp_schema")
	r.bind(func(args []types.OID, _ types.OID) Eval {
		return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			b, err := types.AppendBinary(nil, args[0], a[0], ctx.env())
			return types.NewInt(int64(len(b))), err
		}
	}, "pg_column_size")
	// Tablespaces are names only: none is a folder of its own.
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewString(""), nil }, "pg_tablespace_location")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return str(prettySize(float64(a[0].Int())))
	}, "pg_size_pretty")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		f, err := types.NumericToFloat(a[0].Numeric(), 64)
		return types.NewString(prettySize(f)), err
	}, "pg_size_pretty_numeric")
}

func sleep(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
	secs := a[0].Float()
	if !(secs > 0) {
		return str("")
	}
	t := time.NewTimer(time.Duration(min(secs, 1e9) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return str("")
	case <-ctx.context().Done():
		return types.Null, pgerror.Wrap(context.Cause(ctx.context()), pgerrcode.QueryCanceled, "canceling statement due to user request")
	}
}

// prettySize is pg_size_pretty: bytes up to 10 kB and so on, rounded half away from zero.
func prettySize(v float64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	n, i := v, 0
	limit := 10 * 1024.0
	for i < len(units)-1 && abs(n) >= limit {
		if i == 0 {
			limit = 20*1024 - 1 // the value is kept doubled, to round once
			n = trunc(n / 512)
		} else {
			n = trunc(n / 1024)
		}
		i++
	}
	if i > 0 {
		if n >= 0 {
			n = trunc((n + 1) / 2)
		} else {
			n = trunc((n - 1) / 2)
		}
	}
	d := types.NumericFromFloat(trunc(n), 64)
	return types.Text(types.OIDNumeric, types.NewNumeric(d), nil) + " " + units[i]
}

func abs(v float64) float64 {
	if v < 0 {
		return -v
	}
	return v
}

func trunc(v float64) float64 { return float64(int64(v)) }
