package dist

// What becomes of writes whose answers are lost (SAFETY S12).

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// TestLostAnswers loses calls before they arrive and their answers: every write is applied
// exactly once, and its outcome found.
func TestLostAnswers(t *testing.T) {
	bubble(t, []string{"k5"}, func(t *testing.T, c *cluster, d *DistSender) {
		rng := rand.New(rand.NewPCG(5, 5))
		var mu sync.Mutex
		lose := func(keys.NodeID, *kv.BatchRequest) error {
			mu.Lock()
			defer mu.Unlock()
			if rng.IntN(3) == 0 {
				return errors.New("connection lost")
			}
			return nil
		}
		c.onCall, c.onAnswer = lose, lose
		for i := range 100 {
			if i == 50 {
				c.split("k3", true)
			}
			_, err := send(d, put(fmt.Sprintf("k%02d", i%90), fmt.Sprint(i)))
			require.NoError(t, err)
		}
		require.Equal(t, 100, c.applied)
	})
}

// The pieces of a batch may meet in one range, which has taken in that of the other since the batch was
// cut: it must not take one for a retry of the other (S12, S20).
func TestPiecesMeetInAMergedRange(t *testing.T) {
	bubble(t, []string{"k5"}, func(t *testing.T, c *cluster, d *DistSender) {
		_, err := send(d, get("k1"), get("k7"))
		require.NoError(t, err)
		c.mu.Lock()
		left, right := c.ranges[1], c.ranges[2]
		left.desc.End, left.desc.Generation = right.desc.End, 2
		c.ranges = c.ranges[:2]
		delete(c.data, string(keys.Meta(keys.Key("k5"))))
		c.data[string(keys.Meta(keys.MaxKey))] = kv.EncodeRangeDescriptor(nil, &left.desc)
		c.mu.Unlock()
		_, err = send(d, put("k1", "1"), put("k7", "2"))
		require.NoError(t, err)
		require.Equal(t, 2, c.applied)
		require.Equal(t, "2", string(c.data["k7"]))
	})
}

// A piece of a batch that may have been applied as a whole keeps its ID, and is told from the others.
func TestPiecesOfAWholeThatMayBeApplied(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		c.rangeOf("k1").leaseholder = 2
		_, err := send(d, get("k1"))
		require.NoError(t, err)
		var mu sync.Mutex
		var seen []*kv.BatchRequest
		c.onCall = func(_ keys.NodeID, ba *kv.BatchRequest) error {
			mu.Lock()
			defer mu.Unlock()
			if !ba.IsWrite() {
				return nil
			}
			if seen = append(seen, ba); len(seen) == 1 {
				c.split("k5", true)
				return errors.New("connection lost")
			}
			return nil
		}
		_, err = send(d, put("k1", "1"), put("k7", "2"))
		require.NoError(t, err)
		require.Equal(t, 2, c.applied)
		names := map[uint64]bool{}
		for _, ba := range seen[1:] {
			require.Equal(t, seen[0].CommandID, ba.CommandID)
			if len(ba.Requests) == 1 && len(ba.Pieces) == 1 {
				names[ba.Pieces[0]] = true
			}
		}
		require.Empty(t, seen[0].Pieces)
		require.Len(t, names, 2)
	})
}

func TestUndecidedWriteIsAmbiguous(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		c.rangeOf("a").leaseholder = 2
		_, err := send(d, get("a"))
		require.NoError(t, err)
		c.onAnswer = func(n keys.NodeID, _ *kv.BatchRequest) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.ranges[1].leaseholder = 0
			return errors.New("connection lost")
		}
		_, err = send(d, put("a", "1"))
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
		_, err = send(d, get("a"))
		require.ErrorAs(t, err, new(*kv.UnavailableError), "a read is never ambiguous")
	})
}

// TestForgottenCommands: a write that was surely not applied gets a new ID from a range that
// remembers none as old; one that may have been applied is ambiguous, and not sent again (S12).
func TestForgottenCommands(t *testing.T) {
	bubble(t, []string{"m"}, func(t *testing.T, c *cluster, d *DistSender) {
		r := c.rangeOf("a")
		r.leaseholder = 2
		ahead := time.Now().Add(100 * time.Millisecond).UnixNano() // another gateway's clock
		r.horizon = ahead
		_, err := send(d, put("a", "1"), put("z", "1"))
		require.NoError(t, err)
		require.Equal(t, 2, c.applied)

		c.onAnswer = func(keys.NodeID, *kv.BatchRequest) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(r.commands) == 1 {
				return nil
			}
			// Applied, the answer lost, and then much else.
			r.commands = map[[16]byte]bool{}
			r.horizon = time.Now().Add(time.Second).UnixNano()
			return errors.New("connection lost")
		}
		_, err = send(d, put("a", "2"))
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
		require.Equal(t, 3, c.applied)

		// Who brings an ID may have sent it before.
		c.onAnswer = nil
		_, err = d.Send(context.Background(), &kv.BatchRequest{Header: kv.Header{CommandID: [16]byte{1}, CommandBirth: 5}, Requests: []kv.Request{put("a", "3")}})
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
		require.Equal(t, 3, c.applied)
	})
}

// TestCancelledWrite: waiting for a lock here, nothing was done; on another node, who knows.
func TestCancelledWrite(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *cluster, d *DistSender) {
		_, err := send(d, get("a"))
		require.NoError(t, err)
		wait := senderFunc(func(ctx context.Context, _ *kv.BatchRequest) (*kv.BatchResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		d.cfg.Local = wait
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = d.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{put("a", "1")}})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		c.setDown(2, true) // hangs; nobody has noticed
		c.rangeOf("a").leaseholder = 2
		d.cfg.Local, d.cfg.Alive = node{c, 1}, func(keys.NodeID) bool { return true }
		d.calls.alive = d.cfg.Alive
		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = d.Send(ctx, &kv.BatchRequest{Requests: []kv.Request{put("a", "1")}})
		require.ErrorAs(t, err, new(*kv.AmbiguousError))
	})
}
