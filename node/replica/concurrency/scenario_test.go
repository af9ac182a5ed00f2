package concurrency

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// The scenario files in testdata are the specification of this package. Commands:
//
//	latch name=R spans=(r:a w:b-c)     ask for latches; prints whether they were granted
//	unlatch name=R                     release, or give up waiting
//	txn name=T ts=N                    a transaction
//	request name=R [txn=T]             a batch's part in the lock table
//	enter name=R key=K|span=A-B strength=none|shared|exclusive [ts=N] [probe]
//	acquire name=R key=K strength=S
//	discover txn=T key=K ts=N          somebody met an intent
//	written name=R key=K ts=N          the request's transaction wrote an intent
//	moved txn=T span=A-B ts=N          an intent was moved up
//	release txn=T · leave name=R · finish name=R
//	state                              the whole lock table
//	read span=A-B|key=K ts=N [txn=T] · newest span=A-B|key=K [txn=T] · low ts=N
//	mark-ended txn=T · mark-pushed txn=T ts=N · fate txn=T
//	push pusher=T pushee=U · unpush pusher=T pushee=U · deadlock pusher=T pushee=U
type scenario struct {
	t        *testing.T
	latches  *Latches
	guards   map[string]*LatchGuard
	waiting  map[string]func()
	granted  chan string
	locks    *LockTable
	txns     map[string]*kv.TxnMeta
	requests map[string]*Request
	waiters  map[string]*Waiter
	tscache  *TSCache
	queue    *TxnQueue
	pushes   map[string]*PushWait
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{t: t, latches: NewLatches(), guards: map[string]*LatchGuard{}, waiting: map[string]func(){},
			locks: NewLockTable(LockLimits{Locks: 6, TxnLocks: 4, Waiters: 4}, time.Now),
			txns:  map[string]*kv.TxnMeta{}, requests: map[string]*Request{}, waiters: map[string]*Waiter{},
			tscache: NewTSCache(1<<20, hlc.Timestamp{}, hlc.Timestamp{}), queue: NewTxnQueue(), pushes: map[string]*PushWait{}}
		datadriven.RunTest(t, path, s.run)
	})
}

func (s *scenario) arg(d *datadriven.TestData, key string) string {
	var v string
	if d.HasArg(key) {
		d.ScanArgs(s.t, key, &v)
	}
	return v
}

func (s *scenario) ts(d *datadriven.TestData) hlc.Timestamp {
	var n int64
	if d.HasArg("ts") {
		d.ScanArgs(s.t, "ts", &n)
	}
	return hlc.Timestamp{WallNanos: n}
}

func span(text string) keys.Span {
	if a, b, ok := strings.Cut(text, "-"); ok {
		return keys.Span{Key: keys.Key(a), EndKey: keys.Key(b)}
	}
	return keys.Span{Key: keys.Key(text)}
}

func (s *scenario) span(d *datadriven.TestData) keys.Span {
	if k := s.arg(d, "key"); k != "" {
		return keys.Span{Key: keys.Key(k)}
	}
	return span(s.arg(d, "span"))
}

func strength(text string) kv.LockStrength {
	return map[string]kv.LockStrength{"none": kv.LockNone, "shared": kv.LockShared, "exclusive": kv.LockExclusive}[text]
}

func (s *scenario) name(id kv.TxnID) string {
	for n, t := range s.txns {
		if t.ID == id {
			return n
		}
	}
	return "-"
}

func (s *scenario) meta(d *datadriven.TestData, arg string) *kv.TxnMeta {
	n := s.arg(d, arg)
	if n == "" {
		return nil
	}
	t := s.txns[n]
	if t == nil {
		d.Fatalf(s.t, "no transaction %s", n)
	}
	c := *t
	if d.HasArg("ts") {
		c.WriteTimestamp = s.ts(d)
	}
	return &c
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	name := s.arg(d, "name")
	switch d.Cmd {
	case "latch":
		return s.latch(d, name)
	case "unlatch":
		return s.unlatch(name)
	case "txn":
		ts := s.ts(d)
		m := &kv.TxnMeta{Key: keys.Key(name), WriteTimestamp: ts, MinTimestamp: ts}
		copy(m.ID[:], name)
		s.txns[name] = m
		return ""
	case "request":
		s.requests[name] = s.locks.NewRequest(s.meta(d, "txn"))
		return ""
	case "enter":
		return s.enter(d, name) + s.woken()
	case "acquire":
		if err := s.locks.Acquire(s.requests[name], keys.Key(s.arg(d, "key")), strength(s.arg(d, "strength"))); err != nil {
			return err.Error() + "\n"
		}
		return s.woken()
	case "discover":
		s.locks.Discover(s.meta(d, "txn"), keys.Key(s.arg(d, "key")))
		return s.woken()
	case "written":
		m := *s.requests[name].txn
		m.WriteTimestamp = s.ts(d)
		s.locks.IntentWritten(s.requests[name], &m, keys.Key(s.arg(d, "key")))
		return s.woken()
	case "moved":
		s.locks.IntentMoved(s.meta(d, "txn").ID, s.span(d), s.ts(d))
		return s.woken()
	case "release":
		s.locks.Release(s.meta(d, "txn").ID)
		return s.woken()
	case "leave":
		w := s.waiters[name]
		delete(s.waiters, name)
		s.locks.Leave(w)
		return s.woken()
	case "finish":
		s.locks.Finish(s.requests[name])
		return s.woken()
	case "state":
		return s.state()
	case "read":
		id := kv.TxnID{}
		if m := s.meta(d, "txn"); m != nil {
			id = m.ID
		}
		s.tscache.Add(s.span(d), s.ts(d), id)
		return ""
	case "newest":
		r := s.tscache.Get(s.span(d))
		return fmt.Sprintf("%d by %s\n", r.TS.WallNanos, s.name(r.Txn))
	case "low":
		s.tscache.RaiseLowWater(s.ts(d))
		return ""
	case "mark-ended":
		s.tscache.MarkEnded(s.meta(d, "txn"))
		return ""
	case "mark-pushed":
		s.tscache.MarkPushed(s.txns[s.arg(d, "txn")], s.ts(d))
		return ""
	case "fate":
		f := s.tscache.Fate(s.meta(d, "txn"))
		return fmt.Sprintf("ended=%t maybe=%t pushed=%d\n", f.Ended, f.MayBeEnded, f.PushedTo.WallNanos)
	case "push":
		s.pushes[s.arg(d, "pusher")+">"+s.arg(d, "pushee")] = s.queue.Enter(s.meta(d, "pushee").ID, s.meta(d, "pusher"))
		return ""
	case "unpush":
		s.queue.Leave(s.pushes[s.arg(d, "pusher")+">"+s.arg(d, "pushee")])
		return ""
	case "deadlock":
		return s.deadlock(d)
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func (s *scenario) deadlock(d *datadriven.TestData) string {
	cycle, err := FindCycle(context.Background(), s.meta(d, "pusher"), s.meta(d, "pushee"),
		func(_ context.Context, m *kv.TxnMeta) ([]kv.TxnMeta, error) { return s.queue.Waiting(m.ID), nil })
	if err != nil {
		return err.Error() + "\n"
	}
	if cycle == nil {
		return "no cycle\n"
	}
	var names []string
	for i := range cycle {
		names = append(names, s.name(cycle[i].ID))
	}
	return fmt.Sprintf("cycle of %s, victim %s\n", strings.Join(names, " "), s.name(Victim(cycle).ID))
}

func (s *scenario) enter(d *datadriven.TestData, name string) string {
	req := s.requests[name]
	st := strength(s.arg(d, "strength"))
	if d.HasArg("probe") {
		b := s.locks.Conflict(req, s.span(d), st, s.ts(d))
		if b == nil {
			return "free\n"
		}
		return fmt.Sprintf("conflict on %s with %s\n", b.Key, s.name(b.Txn.ID))
	}
	w, err := s.locks.Enter(req, s.span(d), st, s.ts(d))
	switch {
	case err != nil:
		return err.Error() + "\n"
	case w == nil:
		return "proceed\n"
	}
	s.waiters[name] = w
	var names []string
	for _, b := range s.locks.Blockers(w) {
		names = append(names, s.name(b.Txn.ID))
	}
	return fmt.Sprintf("wait for %s on %s\n", strings.Join(names, ","), w.Key())
}

// woken prints who was woken by a command.
func (s *scenario) woken() string {
	var out []string
	for n, w := range s.waiters {
		select {
		case <-w.C:
			out = append(out, n)
			delete(s.waiters, n)
		default:
		}
	}
	if len(out) == 0 {
		return ""
	}
	sort.Strings(out)
	return "woken: " + strings.Join(out, " ") + "\n"
}

func (s *scenario) state() string {
	var b strings.Builder
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	s.locks.locks.Ascend(func(l *lock) bool {
		fmt.Fprintf(&b, "%s:", l.key)
		for _, h := range l.holders {
			fmt.Fprintf(&b, " held %s %s", s.name(h.txn.meta.ID), [...]string{"", "shared", "exclusive"}[h.strength])
			if h.intent {
				fmt.Fprintf(&b, " intent@%d", h.ts.WallNanos)
			}
		}
		for _, c := range l.claims {
			fmt.Fprintf(&b, " granted %s", s.reqName(c.req))
		}
		for _, w := range l.queue {
			fmt.Fprintf(&b, " queued %s", s.reqName(w.req))
		}
		for _, w := range l.readers {
			fmt.Fprintf(&b, " reader %s", s.reqName(w.req))
		}
		b.WriteString("\n")
		return true
	})
	if b.Len() == 0 {
		return "empty\n"
	}
	return b.String()
}

func (s *scenario) reqName(r *Request) string {
	for n, o := range s.requests {
		if o == r {
			return n
		}
	}
	return "?"
}

func (s *scenario) latch(d *datadriven.TestData, name string) string {
	var spans []LatchSpan
	for _, a := range d.CmdArgs {
		if a.Key != "spans" {
			continue
		}
		for _, v := range a.Vals {
			for _, f := range strings.Fields(v) {
				mode, text, _ := strings.Cut(f, ":")
				spans = append(spans, LatchSpan{Span: span(text), Access: map[string]Access{"r": Shared, "w": Exclusive}[mode]})
			}
		}
	}
	s.guards[name] = &LatchGuard{}
	s.latches.enterInto(s.guards[name], spans)
	return s.latchState()
}

func (s *scenario) unlatch(name string) string {
	s.latches.Release(s.guards[name])
	delete(s.guards, name)
	return s.latchState()
}

// latchState prints which requests have their latches and which wait.
func (s *scenario) latchState() string {
	var held, wait []string
	for n, g := range s.guards {
		waits := false
		for _, c := range g.waitFor {
			select {
			case <-c:
			default:
				waits = true
			}
		}
		if waits {
			wait = append(wait, n)
		} else {
			held = append(held, n)
		}
	}
	sort.Strings(held)
	sort.Strings(wait)
	return fmt.Sprintf("held: %s; waiting: %s\n", strings.Join(held, " "), strings.Join(wait, " "))
}

func TestLatchesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLatches()
		over := make(chan struct{})
		var counts [5]int // each written under its key's exclusive latch only
		done := make(chan struct{})
		const workers, rounds = 16, 50
		for w := range workers {
			go func() {
				defer func() { done <- struct{}{} }()
				for i := range rounds {
					a, b := string(rune('a'+(w+i)%5)), string(rune('a'+(w*3+i)%5))
					spans := []LatchSpan{{span(a), Exclusive}, {span(b), Exclusive}}
					if i%7 == 0 {
						spans = []LatchSpan{{span("a-f"), Exclusive}}
					}
					g, err := l.Acquire(context.Background(), over, spans)
					if err != nil {
						t.Error(err)
						return
					}
					counts[a[0]-'a']++
					time.Sleep(time.Millisecond)
					l.Release(g)
				}
			}()
		}
		for range workers {
			<-done
		}
		total := 0
		for _, n := range counts {
			total += n
		}
		if total != workers*rounds || l.Held() != 0 {
			t.Fatalf("%d of %d, %d held", total, workers*rounds, l.Held())
		}
		g, _ := l.Acquire(context.Background(), over, []LatchSpan{{span("a"), Exclusive}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := l.Acquire(ctx, over, []LatchSpan{{span("a"), Shared}}); err == nil {
			t.Fatal("granted over an exclusive latch")
		}
		close(over)
		if _, err := l.Acquire(context.Background(), over, []LatchSpan{{span("a"), Shared}}); err != ErrClosed {
			t.Fatalf("got %v", err)
		}
		l.Release(g)
	})
}
