package store

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/txn"
)

// A row that everybody locks passes on as fast as messages travel: from one commit to the next it
// takes a round trip of the log, and where the transactions run on another node than the
// leaseholder the way there and back; no timer, no refresh, no second try. The transactions read
// another row first, without a lock, as a lookup through an index does.
func TestHotRowHandOff(t *testing.T) {
	const oneWay = 250 * time.Microsecond
	for name, c := range map[string]struct {
		elsewhere bool
		hops      int
	}{"leaseholder": {false, 2}, "elsewhere": {true, 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := newCluster(t, nil, "a", "b", "c")
				cl.net.SetDelay(oneWay, oneWay)
				const hot, index, clients, each = 1, 2, 32, 40
				for _, k := range []int{hot, index} {
					require.NoError(t, cl.nodes[0].put(t.Context(), tkey(k), "0"))
				}
				time.Sleep(2 * time.Second)
				n := cl.leaseholder(keys.FirstDataRangeID)
				if c.elsewhere {
					n = cl.nodes[int(n.id)%3]
				}
				db := txn.NewDB(txn.Config{Sender: n.sender, Clock: hlc.NewClock(time.Now, 250*time.Millisecond)})
				transfer := func(own int) error {
					tx := db.NewTxn(txn.Options{})
					for _, k := range []int{own, hot} {
						if _, err := tx.Get(t.Context(), tkey(index), txn.ReadOptions{}); err != nil {
							return err
						}
						r, err := tx.Get(t.Context(), tkey(k), txn.ReadOptions{Lock: kv.LockExclusive})
						if err != nil {
							return err
						}
						if err := tx.Put(t.Context(), tkey(k), []byte("x"), kv.Condition{Check: true, Seen: r.Version}); err != nil {
							return err
						}
					}
					return tx.Commit(t.Context())
				}
				start := time.Now()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						for j := range each {
							if err := transfer(1000 + i*each + j); err != nil {
								t.Error(err) // also a conflict: who waits for a lock never has to start over
							}
						}
					})
				}
				wg.Wait()
				per := time.Since(start) / (clients * each)
				t.Logf("%s per transaction", per)
				require.Less(t, per, time.Duration(c.hops)*oneWay*11/10)
				db.Close()
				cl.close()
			})
		})
	}
}
