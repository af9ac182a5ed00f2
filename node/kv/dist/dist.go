// Package dist sends batches to the ranges that hold their keys: it finds ranges in a
// cache over the meta range, cuts batches at range boundaries, finds leaseholders, and
// retries within a bounded time.
//
// # Ambiguity (SAFETY S12)
//
// A write batch gets one CommandID for each range and keeps it over retries. When a
// connection is lost, the retry finds at the range whether the first try was applied.
// What can't be decided within the limit is an AmbiguousError, never a plain failure.
// A range that has forgotten commands as old as this one says so (kv.CommandExpiredError): if a
// try may have been applied the outcome stays unknown, else the batch gets a new ID.
// HAZARD: every error of a range other than those that send retries must mean that the
// command was not applied and never will be.
package dist

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"encoding/binary"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// Limits and their reasons.
const (
	// DefaultTimeout bounds how long routing is retried for a request without deadline. The
	// time that a leaseholder lets a request wait for locks does not count.
	DefaultTimeout = 30 * time.Second
	// DefaultParallel bounds the ranges that one batch is sent to at a time.
	DefaultParallel = 16
	// maxDivisions bounds how often one batch is cut anew because ranges changed under it.
	maxDivisions = 1000
	// lookupPrefetch is how many descriptors after the wanted one a lookup reads.
	lookupPrefetch = 8
	minBackoff     = 5 * time.Millisecond
	maxBackoff     = 100 * time.Millisecond
)

// Config is what a DistSender needs. Clock, Self, Local, Caller and MetaSeed are required.
type Config struct {
	Clock *hlc.Clock
	Self  keys.NodeID
	// Local runs batches on this node's own replicas; they are not encoded.
	Local  kv.Sender
	Caller Caller
	// MetaSeed returns the meta range's descriptor as this node knows it (S29: it travels
	// in heartbeats and is stored on every node).
	MetaSeed func() (kv.RangeDescriptor, bool)
	// Alive reports whether a node answers heartbeats; nil means that all do.
	Alive func(keys.NodeID) bool
	// LocalRange returns the range that a replica of this node holds a key in, as far as it knows. Reads
	// that any replica may answer use it while the meta range can't be read; nil: they wait for that.
	LocalRange func(keys.Key) (kv.RangeDescriptor, bool)
	// Distance says how far a node is, in any unit: reads that any replica may answer go to the
	// nearest first. nil: all others are as far.
	Distance func(keys.NodeID) int
	// Timeout is how long routing is retried (default DefaultTimeout).
	Timeout time.Duration
	// Parallel bounds the ranges that a batch is sent to at a time (default DefaultParallel).
	Parallel   int
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// DistSender implements kv.Sender over all ranges of the cluster. It is safe for
// concurrent use and holds no goroutine of its own.
type DistSender struct {
	cfg     Config
	cache   *rangeCache
	calls   calls
	lookups lookups
	metrics metrics
}

// New returns a DistSender.
func New(cfg Config) (*DistSender, error) {
	var errs []error
	for _, c := range []struct {
		missing bool
		name    string
	}{
		{cfg.Clock == nil, "Clock"}, {cfg.Self == 0, "Self"}, {cfg.Local == nil, "Local"},
		{cfg.Caller == nil, "Caller"}, {cfg.MetaSeed == nil, "MetaSeed"},
	} {
		if c.missing {
			errs = append(errs, errors.New("dist: Config."+c.name+" is required"))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.Alive == nil {
		cfg.Alive = func(keys.NodeID) bool { return true }
	}
	if cfg.Distance == nil {
		cfg.Distance = func(n keys.NodeID) int {
			if n == cfg.Self {
				return 0
			}
			return 1
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	d := &DistSender{cfg: cfg, cache: newRangeCache()}
	d.calls.alive = cfg.Alive
	d.lookups.init()
	d.metrics.init(cfg.Registerer, d.cache)
	return d, nil
}

// NodeDown ends all calls in flight to the node at once; they are tried elsewhere. The
// liveness agent's OnLapse calls it.
func (d *DistSender) NodeDown(node keys.NodeID) { d.calls.nodeDown(node) }

// RangeBounds returns the bounds of the range that holds key, as far as this node knows.
func (d *DistSender) RangeBounds(ctx context.Context, key keys.Key) (keys.Span, error) {
	st := d.newState()
	e, err := d.rangeOf(ctx, key, &st)
	if err != nil {
		return keys.Span{}, err
	}
	return keys.Span{Key: e.desc.Start, EndKey: e.desc.End}, nil
}

// Descriptor returns the descriptor of the range that holds key, as far as this node
// knows, and its leaseholder (0: unknown).
func (d *DistSender) Descriptor(ctx context.Context, key keys.Key) (kv.RangeDescriptor, keys.NodeID, error) {
	st := d.newState()
	e, err := d.rangeOf(ctx, key, &st)
	if err != nil {
		return kv.RangeDescriptor{}, 0, err
	}
	return e.desc.Clone(), keys.NodeID(e.leaseholder.Load()), nil
}

// Send implements kv.Sender. It does not change ba.
func (d *DistSender) Send(ctx context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	if len(ba.Requests) == 0 {
		return &kv.BatchResponse{Txn: ba.Txn, Timestamp: ba.Timestamp, Now: d.cfg.Clock.Now()}, nil
	}
	st := d.newState()
	st.write, st.past = ba.NeedsCommandID(), ba.FollowerRead
	if st.write {
		st.commandID, st.birth, st.given, st.pieces = ba.CommandID, ba.CommandBirth, true, ba.Pieces
		if st.commandID == ([16]byte{}) {
			d.newCommand(&st, 0)
		}
	}
	br, err := d.divide(ctx, ba, &st)
	if err == nil && st.write && ba.Txn == nil {
		d.commitWait(ctx, br.Timestamp)
	}
	return br, err
}

// newCommand draws an ID, born after horizon.
func (d *DistSender) newCommand(st *state, horizon int64) {
	binary.LittleEndian.PutUint64(st.commandID[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(st.commandID[8:], rand.Uint64())
	st.birth, st.given, st.pieces = max(d.cfg.Clock.Now().WallNanos, horizon+1), false, nil
}

// commitWait waits until every read that begins now sees a write at ts (SAFETY S1): after a
// lease moved, writes land ahead of the clock (S4). Transactions wait in their coordinator.
func (d *DistSender) commitWait(ctx context.Context, ts hlc.Timestamp) {
	for {
		ahead := time.Duration(ts.WallNanos - d.cfg.Clock.Now().WallNanos)
		if ahead <= 0 {
			return
		}
		t := time.NewTimer(ahead)
		select {
		case <-t.C:
		case <-ctx.Done(): // the write stands; nobody waits for the answer any more
			t.Stop()
			return
		}
	}
}

// state is what the retries of one batch (or of one piece of it) share.
type state struct {
	start     time.Time
	write     bool // holds what must not be done twice
	past      bool // any replica may answer
	local     bool // this node's replica has named the range, and that did not help
	commandID [16]byte
	birth     int64    // of commandID, S12
	given     bool     // commandID is the caller's, who may have sent it before
	pieces    []uint64 // see kv.Header.Pieces
	// maybeApplied says that some try ended without anybody knowing its outcome.
	maybeApplied bool
	// trouble is when the current row of failed tries began; zero while all is well.
	trouble   time.Time
	backoff   time.Duration
	divisions int
	ambiguous int // answers of that kind
	lastErr   error
	rangeID   keys.RangeID
}

func (d *DistSender) newState() state { return state{start: time.Now()} }

// divide sends ba to its range, or cuts it if there are several.
func (d *DistSender) divide(ctx context.Context, ba *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	if st.divisions++; st.divisions > maxDivisions {
		return nil, d.giveUp(st, "the ranges changed too often under the batch")
	}
	first, err := address(ba.Requests[0], ba.Txn)
	if err != nil {
		return nil, err
	}
	e, err := d.rangeOf(ctx, first.Key, st)
	if err != nil {
		return nil, err
	}
	for _, req := range ba.Requests {
		s, err := address(req, ba.Txn)
		if err != nil {
			return nil, err
		}
		if !e.contains(s) {
			return d.sendPieces(ctx, ba, st)
		}
	}
	return d.sendToRange(ctx, e, ba, st)
}

// address returns the span by which a request is routed.
func address(req kv.Request, txn *kv.Txn) (keys.Span, error) {
	s := kv.RequestSpan(req, txn)
	if len(s.Key) == 0 || s.Key[0] != 1 {
		if !s.IsPoint() && !s.Key.Less(s.EndKey) {
			return s, &kv.InvalidRequestError{Detail: "the span " + s.String() + " is empty"}
		}
		return s, nil
	}
	var err error
	if s.Key, err = keys.Addr(s.Key); err != nil {
		return s, &kv.InvalidRequestError{Detail: err.Error()}
	}
	if !s.IsPoint() {
		return s, &kv.InvalidRequestError{Detail: "a span can't lie in the range-local keys"}
	}
	return s, nil
}
