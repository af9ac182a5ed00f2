package txn

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// TestScenarios runs testdata: transactions on a fake cluster, with the batches they send.
//
//	cluster [splits=(m,t)] [buffer=N]
//	begin t [iso=snapshot|rc] [ago=D]
//	foreign k v [ahead=D]     a committed version by somebody else, now (plus D)
//	fail kind=K on=TEXT [applied] [times=N]   the next batch whose description holds TEXT
//	run t                     lines: get k [lock] | scan a-b [rev] [n] | put k v [absent|seen] |
//	                          del k | step | save s | back s | deadline D | commit | rollback |
//	                          restart | restartstmt | sleep D
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{}
		defer s.close()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.command(t, d)
		})
	})
}

type scenario struct {
	now   time.Time
	clock *hlc.Clock
	f     *fake
	db    *DB
	txns  map[string]*Txn
	saves map[string]Savepoint
	seen  map[string]hlc.Timestamp
	fails []*failure

	mu  sync.Mutex
	log []string
}

type failure struct {
	on      string
	err     error
	applied bool
}

func (s *scenario) close() {
	if s.db != nil {
		s.db.Close()
	}
}

func (s *scenario) trace(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, "  > "+line)
}

func (s *scenario) flush(out *strings.Builder) {
	_ = s.db.Drain(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	// The STAGING batch and the other writes run at the same time: print the former first.
	for i := 1; i < len(s.log); i++ {
		if strings.Contains(s.log[i], " staging ") && strings.HasPrefix(s.log[i-1], "  > Put(") && !strings.Contains(s.log[i-1], "EndTxn") {
			s.log[i], s.log[i-1] = s.log[i-1], s.log[i]
		}
	}
	for _, l := range s.log {
		fmt.Fprintln(out, l)
	}
	s.log = nil
}

func (s *scenario) injected(ba *kv.BatchRequest, applied bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.fails {
		if f.applied == applied && strings.Contains(describe(ba, nil, nil), f.on) {
			s.fails = append(s.fails[:i:i], s.fails[i+1:]...)
			return f.err
		}
	}
	return nil
}

func (s *scenario) command(t *testing.T, d *datadriven.TestData) string {
	arg := func(name string) (v string) {
		if d.HasArg(name) {
			d.ScanArgs(t, name, &v)
		}
		return v
	}
	var out strings.Builder
	switch d.Cmd {
	case "cluster":
		s.close()
		var splits []string
		for _, a := range d.CmdArgs {
			if a.Key == "splits" {
				splits = a.Vals
			}
		}
		// The clock moves only as the scenario says, a little with every reading.
		s.now = time.Unix(1000, 0)
		s.clock = hlc.NewClock(func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(time.Millisecond); return s.now }, 250*time.Millisecond)
		s.f = newFake(s.clock, splits...)
		s.f.trace = s.trace
		s.f.before = func(ba *kv.BatchRequest) error { return s.injected(ba, false) }
		s.f.after = func(ba *kv.BatchRequest, err error) error {
			if e := s.injected(ba, true); e != nil {
				return e
			}
			return err
		}
		cfg := Config{Sender: s.f, Clock: s.clock}
		if b := arg("buffer"); b != "" {
			fmt.Sscan(b, &cfg.BufferLimit)
		}
		s.db = NewDB(cfg)
		s.txns, s.saves, s.seen, s.fails = map[string]*Txn{}, map[string]Savepoint{}, map[string]hlc.Timestamp{}, nil
		return ""
	case "begin":
		opts := Options{}
		switch arg("iso") {
		case "snapshot":
			opts.Isolation = kv.Snapshot
		case "rc":
			opts.Isolation = kv.ReadCommitted
		}
		if ago := arg("ago"); ago != "" {
			dur, _ := time.ParseDuration(ago)
			opts.ReadTimestamp = s.clock.Now().Add(-dur)
		}
		opts.ReadOnly = d.HasArg("deferrable")
		opts.Deferrable = opts.ReadOnly
		s.txns[d.CmdArgs[0].Key] = s.db.NewTxn(opts)
		return ""
	case "foreign":
		ts := s.clock.Now()
		if a := arg("ahead"); a != "" {
			dur, _ := time.ParseDuration(a)
			ts = ts.Add(dur)
		}
		s.f.put(d.CmdArgs[0].Key, d.CmdArgs[1].Key, ts)
		return ""
	case "fail":
		f := &failure{on: arg("on"), applied: d.HasArg("applied")}
		switch arg("kind") {
		case "ambiguous":
			f.err = &kv.AmbiguousError{Detail: "injected"}
		case "condition":
			f.err = &kv.ConditionFailedError{Key: keys.Key("x")}
		case "unavailable":
			f.err = &kv.UnavailableError{Detail: "injected"}
		case "aborted":
			f.err = &kv.AbortedError{Reason: "injected"}
		case "onephase":
			f.err = &kv.OnePhaseError{}
		default:
			t.Fatalf("kind %q", arg("kind"))
		}
		s.fails = append(s.fails, f)
		return ""
	case "advance":
		dur, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.now = s.now.Add(dur)
		s.mu.Unlock()
		return ""
	case "run":
		for _, line := range strings.Split(d.Input, "\n") {
			fmt.Fprintf(&out, "%s: %s\n", line, s.op(s.txns[d.CmdArgs[0].Key], strings.Fields(line)))
			s.flush(&out)
		}
		return out.String()
	}
	t.Fatalf("command %q", d.Cmd)
	return ""
}

func (s *scenario) op(t *Txn, w []string) string {
	ctx := context.Background()
	done := func(err error) string {
		if err == nil {
			return "ok"
		}
		out := fmt.Sprintf("%T", err)
		if r, ok := err.(*kv.RetryError); ok {
			out += " (" + r.Reason.String() + ")"
		}
		return strings.TrimPrefix(out, "*kv.")
	}
	has := func(word string) bool {
		for _, x := range w[1:] {
			if x == word {
				return true
			}
		}
		return false
	}
	switch w[0] {
	case "get":
		opts := ReadOptions{}
		if has("lock") {
			opts.Lock = kv.LockExclusive
		}
		r, err := t.Get(ctx, keys.Key(w[1]), opts)
		if err != nil {
			return done(err)
		}
		s.seen[w[1]] = r.Version
		if !r.Exists {
			return "absent"
		}
		return string(r.Value)
	case "scan":
		a, b, _ := strings.Cut(w[1], "-")
		opts := ScanOptions{Reverse: has("rev")}
		if n := w[len(w)-1]; n[0] >= '0' && n[0] <= '9' {
			fmt.Sscan(n, &opts.MaxRows)
		}
		r, err := t.Scan(ctx, keys.Span{Key: keys.Key(a), EndKey: keys.Key(b)}, opts)
		if err != nil {
			return done(err)
		}
		var rows []string
		for _, row := range r.Rows {
			rows = append(rows, fmt.Sprintf("%s=%s", []byte(row.Key), row.Value))
		}
		if r.Resume != nil {
			rows = append(rows, "resume "+strings.ReplaceAll(r.Resume.String(), `\x00`, "+"))
		}
		return strings.Join(rows, " ")
	case "put":
		var c kv.Condition
		if has("absent") {
			c = kv.Condition{Check: true, MustBeAbsent: true, Seen: s.seen[w[1]]}
		} else if has("seen") {
			c = kv.Condition{Check: true, Seen: s.seen[w[1]]}
		}
		return done(t.Put(ctx, keys.Key(w[1]), []byte(w[2]), c))
	case "del":
		return done(t.Delete(ctx, keys.Key(w[1]), kv.Condition{}))
	case "step":
		t.Step()
		return "ok"
	case "save":
		s.saves[w[1]] = t.Savepoint()
		return "ok"
	case "back":
		return done(t.RollbackTo(ctx, s.saves[w[1]]))
	case "deadline":
		dur, _ := time.ParseDuration(w[1])
		t.SetDeadline(s.clock.Now().Add(dur))
		return "ok"
	case "commit":
		return done(t.Commit(ctx))
	case "rollback":
		return done(t.Rollback(ctx))
	case "restart":
		t.Restart()
		return "ok"
	case "restartstmt":
		return done(t.RestartStatement(ctx))
	}
	return "unknown command"
}

// bubble runs f in virtual time with a database over a fake.
func bubble(t *testing.T, splits []string, f func(t *testing.T, fk *fake, db *DB)) {
	synctest.Test(t, func(t *testing.T) {
		clock := testClock()
		fk := newFake(clock, splits...)
		db := NewDB(Config{Sender: fk, Clock: clock})
		defer db.Close()
		f(t, fk, db)
	})
}
