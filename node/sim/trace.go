package sim

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/store"
)

// maxTrace bounds the events kept; the oldest go first.
const maxTrace = 400_000

// trace is the record of a run: faults, operations, and what the nodes logged.
type trace struct {
	start time.Time
	level slog.Level

	mu     sync.Mutex
	events []event
	next   int // where the ring goes on once it is full
}

type event struct {
	at   time.Duration
	text string
}

func newTrace(level slog.Level) *trace { return &trace{start: time.Now(), level: level} }

func (t *trace) add(format string, args ...any) {
	e := event{time.Since(t.start), fmt.Sprintf(format, args...)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) < maxTrace {
		t.events = append(t.events, e)
		return
	}
	t.events[t.next] = e
	t.next = (t.next + 1) % maxTrace
}

// save writes the trace to a new file and returns its path.
func (t *trace) save(seed uint64, faults []error) (string, error) {
	f, err := os.CreateTemp("", fmt.Sprintf("atoll-sim-seed-%d-*.txt", seed))
	if err != nil {
		return "", err
	}
	w := bufio.NewWriter(f)
	for _, err := range faults {
		fmt.Fprintf(w, "FAULT %v\n", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.events {
		e := t.events[(t.next+i)%len(t.events)]
		fmt.Fprintf(w, "%12.6f %s\n", e.at.Seconds(), e.text)
	}
	if err := w.Flush(); err != nil {
		_ = f.Close()
		return "", err
	}
	return f.Name(), f.Close()
}

// handler sends a node's log to the trace.
type handler struct {
	t    *trace
	node string
	pre  string
	s    *sim
}

func (h handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.t.level }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(h.pre)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	if r.Message == store.QuarantineMessage {
		q := quarantined{what: h.node + ":" + b.String()}
		r.Attrs(func(a slog.Attr) bool {
			if id, ok := a.Value.Any().(keys.RangeID); ok {
				q.rangeID = id
			}
			return true
		})
		h.s.members.distrusted(q)
		h.s.stopping.Go(h.s.noteSuspects) // before the range is split again
	}
	h.t.add("%s log %s: %s%s", h.node, r.Level, r.Message, b.String())
	return nil
}

func (h handler) WithAttrs(as []slog.Attr) slog.Handler {
	for _, a := range as {
		h.pre += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return h
}

func (h handler) WithGroup(string) slog.Handler { return h }
