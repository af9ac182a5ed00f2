package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// S12: a range that has forgotten commands as old as this one says so, unless it has seen this
// try before it forgot them: then the wait for a lock may be as long as it likes.
func TestForgottenCommands(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBed(t, Limits{})
		g := b.groups[0]
		forget := func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			clear(g.outcomes)
			g.horizon = time.Now().UnixNano()
		}
		b.putNow("k", "0")
		holder := b.begin(kv.Serializable)
		_, err := holder.get("k", kv.LockExclusive)
		require.NoError(t, err)

		ba := &kv.BatchRequest{Requests: []kv.Request{&kv.IncrementRequest{Key: keys.Key("k2"), Delta: 1}, &kv.PutRequest{Key: keys.Key("k"), Value: []byte("1")}}}
		ba.CommandID[0], ba.CommandBirth = 9, time.Now().UnixNano()
		done := make(chan error, 1)
		go func() {
			_, err := b.replicas[0].Send(context.Background(), ba)
			done <- err
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		forget()
		_, err = holder.commit1()
		require.NoError(t, err)
		require.NoError(t, <-done, "it waited, it is not a late try")
		require.Equal(t, "1", b.getNow("k"))

		time.Sleep(time.Second)
		forget()
		_, err = b.replicas[0].Send(context.Background(), ba)
		var expired *kv.CommandExpiredError
		require.ErrorAs(t, err, &expired)
		require.Less(t, expired.Birth, expired.Horizon)
		ba.CommandID[0], ba.CommandBirth = 10, expired.Horizon+1
		_, err = b.replicas[0].Send(context.Background(), ba)
		require.NoError(t, err)

		ba.CommandID[0], ba.CommandBirth = 11, time.Now().Add(time.Hour).UnixNano()
		_, err = b.replicas[0].Send(context.Background(), ba)
		require.ErrorAs(t, err, new(*kv.InvalidRequestError), "its birth would raise the horizon for all others")
	})
}
