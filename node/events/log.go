package events

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

const (
	maxWaiting   = 4096 // events that are not written yet; beyond, the oldest are lost
	maxBatch     = 128  // events written at once
	maxKept      = 2000 // events that stay of each node
	gather       = 500 * time.Millisecond
	writeTimeout = 5 * time.Second
	retryFirst   = time.Second
	retryMax     = 30 * time.Second
)

// Config says whose diary it is.
type Config struct {
	Node       keys.NodeID
	Sender     kv.Sender
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Log takes a node's events and writes them to the system keys. Safe for concurrent use.
type Log struct {
	cfg  Config
	lost prometheus.Counter
	wake chan struct{}

	mu      sync.Mutex
	waiting []Event
	missed  int   // since the last event that was written
	last    int64 // nanoseconds of the newest event: each has its own

	kept []int64 // of this node, as written; nil: not read yet. Run's only
}

// NewLog returns a diary that keeps events in memory until Run writes them.
func NewLog(cfg Config) *Log {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{cfg: cfg, wake: make(chan struct{}, 1), lost: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "atoll_events_lost_total", Help: "Events that were not written to atoll.events because too many waited."})}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(l.lost)
	}
	return l
}

// Record takes an event in. At and Node are filled in.
func (l *Log) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last+1, time.Now().UnixNano())
	e.At, e.Node = time.Unix(0, l.last), l.cfg.Node
	if len(l.waiting) == maxWaiting {
		l.waiting = l.waiting[1:] // the next growth copies the rest
		l.missed++
		l.lost.Inc()
	}
	l.waiting = append(l.waiting, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes events until ctx ends. What one failure brings about comes in a burst: an event waits a
// moment for the others.
func (l *Log) Run(ctx context.Context) {
	pause := retryFirst
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		wait := gather
		for l.pending() {
			if !sleep(ctx, wait) {
				return
			}
			if err := l.write(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				l.cfg.Logger.Debug("events wait: they could not be written", "err", err)
				wait, pause = pause, min(2*pause, retryMax)
				continue
			}
			wait, pause = 0, retryFirst
		}
	}
}

func (l *Log) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

// write writes the oldest events, and deletes those of this node that are too many.
func (l *Log) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if l.kept == nil {
		if err := l.readKept(ctx); err != nil {
			return err
		}
	}
	batch, reported := l.take()
	ba := &kv.BatchRequest{}
	kept := l.kept
	for i := range batch {
		nanos := batch[i].At.UnixNano()
		kept = append(kept, nanos)
		ba.Requests = append(ba.Requests, &kv.PutRequest{Key: keyOf(l.cfg.Node, nanos), Value: batch[i].Encode()})
	}
	surplus := max(0, len(kept)-maxKept)
	for _, nanos := range kept[:surplus] {
		ba.Requests = append(ba.Requests, &kv.PutRequest{Key: keyOf(l.cfg.Node, nanos), Delete: true})
	}
	if _, err := l.cfg.Sender.Send(ctx, ba); err != nil {
		return fmt.Errorf("events: writing %d events: %w", len(batch), err)
	}
	l.kept = kept[surplus:]
	l.done(batch, reported)
	return nil
}

// take returns the oldest events, and how many lost ones the first of them reports. They stay until
// done says that they are written.
func (l *Log) take() (batch []Event, reported int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch = slices.Clone(l.waiting[:min(len(l.waiting), maxBatch)])
	if l.missed > 0 {
		// Between what was written last and the first that is left, one event at least is lost: the
		// moment before the latter is no written one's.
		batch = slices.Insert(batch, 0, Event{At: batch[0].At.Add(-1), Node: l.cfg.Node, Kind: Diary,
			What: fmt.Sprintf("%d events before this one were not written", l.missed), Cause: fmt.Sprintf("more than %d waited", maxWaiting)})
	}
	return batch, l.missed
}

func (l *Log) done(batch []Event, reported int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := batch[len(batch)-1].At
	l.missed -= reported
	// Some may have been lost meanwhile: they count as written.
	l.waiting = slices.DeleteFunc(l.waiting, func(e Event) bool { return !e.At.After(newest) })
}

// readKept learns what earlier runs of the node have left.
func (l *Log) readKept(ctx context.Context) error {
	p := prefix(l.cfg.Node)
	kept := []int64{}
	err := scan(ctx, l.cfg.Sender, keys.Span{Key: p, EndKey: p.PrefixEnd()}, func(row kv.KeyValue) error {
		e, err := fromKey(row.Key)
		if err == nil {
			kept = append(kept, e.At.UnixNano())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("events: reading what was written before: %w", err)
	}
	l.kept = kept
	return nil
}

// Read returns every node's events, oldest first. What can't be read is left out: a newer version may
// have written it.
func Read(ctx context.Context, sender kv.Sender) ([]Event, error) {
	var out []Event
	p := keys.Events()
	err := scan(ctx, sender, keys.Span{Key: p, EndKey: p.PrefixEnd()}, func(row kv.KeyValue) error {
		if e, err := Decode(row.Key, row.Value); err == nil {
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("events: reading atoll.events: %w", err)
	}
	slices.SortStableFunc(out, func(a, b Event) int { return a.At.Compare(b.At) })
	return out, nil
}

func scan(ctx context.Context, sender kv.Sender, span keys.Span, row func(kv.KeyValue) error) error {
	for {
		br, err := sender.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{&kv.ScanRequest{Span: span, MaxKeys: 1000}}})
		if err != nil {
			return err
		}
		resp, ok := br.Responses[0].(*kv.ScanResponse)
		if !ok {
			return fmt.Errorf("unexpected answer %T to a scan", br.Responses[0])
		}
		for _, r := range resp.Rows {
			if err := row(r); err != nil {
				return err
			}
		}
		if resp.ResumeSpan == nil {
			return nil
		}
		span = *resp.ResumeSpan
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
