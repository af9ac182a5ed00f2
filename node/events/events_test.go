package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// store is a range that holds everything, and that can be gone.
type store struct {
	mu     sync.Mutex
	rows   map[string][]byte
	down   error
	writes int
}

func (s *store) Send(_ context.Context, ba *kv.BatchRequest) (*kv.BatchResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	br := &kv.BatchResponse{}
	s.writes++
	for _, r := range ba.Requests {
		switch r := r.(type) {
		case *kv.PutRequest:
			if s.rows[string(r.Key)] = r.Value; r.Delete {
				delete(s.rows, string(r.Key))
			}
			br.Responses = append(br.Responses, &kv.PutResponse{})
		case *kv.ScanRequest:
			br.Responses = append(br.Responses, s.scan(r))
		}
	}
	return br, nil
}

func (s *store) scan(r *kv.ScanRequest) *kv.ScanResponse {
	resp := &kv.ScanResponse{}
	var all []string
	for k := range s.rows {
		if k >= string(r.Span.Key) && k < string(r.Span.EndKey) {
			all = append(all, k)
		}
	}
	slices.Sort(all)
	for i, k := range all {
		if int64(i) == r.MaxKeys {
			resp.ResumeSpan = &keys.Span{Key: keys.Key(k), EndKey: r.Span.EndKey}
			break
		}
		resp.Rows = append(resp.Rows, kv.KeyValue{Key: keys.Key(k), Value: s.rows[k]})
	}
	return resp
}

func (s *store) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

func run(t *testing.T, s *store, node keys.NodeID) *Log {
	ctx, cancel := context.WithCancel(t.Context())
	l := NewLog(Config{Node: node, Sender: s})
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

func TestEventsAreWrittenAndRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{rows: map[string][]byte{}}
		one, two := run(t, s, 1), run(t, s, 2)
		want := []Event{
			{Kind: Lease, RangeID: 7, Other: 2, What: "the lease came to node 1", Cause: "node 2 lost its support"},
			{Kind: Node, What: "started"},
			{Kind: Replica, RangeID: 1 << 40, What: "added", Cause: strings.Repeat("x", maxText)},
		}
		for i, e := range want {
			time.Sleep(time.Millisecond)
			want[i].Node = 1
			if l := one; i == 1 {
				want[i].Node = 2
				two.Record(e)
			} else {
				l.Record(e)
			}
		}
		want[2].Cause = want[2].Cause[:maxText]
		time.Sleep(time.Second)
		got, err := Read(t.Context(), s)
		require.NoError(t, err)
		require.Len(t, got, 3)
		for i := range got {
			require.WithinDuration(t, time.Now(), got[i].At, 2*time.Second)
			got[i].At = time.Time{}
		}
		require.Equal(t, want, got)
		require.Equal(t, 5, s.writes, "a scan and a write for each node, and one to read")
	})
}

func TestEventsOutliveAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{rows: map[string][]byte{}, down: errors.New("no quorum")}
		l := run(t, s, 1)
		const n = maxWaiting + 100
		for i := range n {
			l.Record(Event{Kind: Split, RangeID: keys.RangeID(i + 1)})
		}
		time.Sleep(time.Minute)
		s.set(nil)
		time.Sleep(2 * retryMax)
		got, err := Read(t.Context(), s)
		require.NoError(t, err)
		require.Len(t, got, maxKept)
		require.Equal(t, keys.RangeID(n), got[len(got)-1].RangeID)
		require.Equal(t, keys.RangeID(n-maxKept+1), got[0].RangeID, "the oldest are gone")
		l.mu.Lock()
		require.Zero(t, l.missed)
		l.mu.Unlock()

		// A diary that begins anew knows what the one before it left.
		again := run(t, s, 1)
		again.Record(Event{Kind: Node, What: "started"})
		time.Sleep(time.Second)
		got, err = Read(t.Context(), s)
		require.NoError(t, err)
		require.Len(t, got, maxKept)
		require.Equal(t, "started", got[len(got)-1].What)
	})
}

func TestMissingEventsAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{rows: map[string][]byte{}}
		l := NewLog(Config{Node: 1, Sender: s})
		for i := range maxWaiting + 3 {
			l.Record(Event{Kind: Split, RangeID: keys.RangeID(i + 1)})
		}
		require.NoError(t, l.write(t.Context()))
		got, err := Read(t.Context(), s)
		require.NoError(t, err)
		require.Len(t, got, maxBatch+1)
		require.Equal(t, "3 events before this one were not written", got[0].What)
		require.Equal(t, keys.RangeID(4), got[1].RangeID)
		l.Record(Event{Kind: Split})
		require.NoError(t, l.write(t.Context()))
		got, err = Read(t.Context(), s)
		require.NoError(t, err)
		require.Len(t, got, 2*maxBatch+1, "it is said once")
	})
}

func FuzzDecode(f *testing.F) {
	e := Event{Kind: Lease, RangeID: 7, Other: 2, What: "what", Cause: "cause"}
	f.Add([]byte(keyOf(1, 2)), e.Encode())
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, k, v []byte) {
		e, err := Decode(k, v)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := Decode(keyOf(e.Node, e.At.UnixNano()), e.Encode())
		require.NoError(t, err)
		if len(e.What) <= maxText && len(e.Cause) <= maxText && len(e.Kind) <= maxText {
			require.Equal(t, fmt.Sprint(e), fmt.Sprint(again))
		}
	})
}
