package replica

import "time"

// Limits bound what one replica holds and does. Zero fields take their default.
type Limits struct {
	// ResponseBytes bounds what the reads of one batch return together (default 16 MiB); a
	// smaller TargetBytes of the batch wins.
	ResponseBytes int64
	// ScanKeys bounds the keys that one batch's scans return (default 100,000).
	ScanKeys int64
	// BatchRequests bounds the requests of one batch (default 20,000).
	BatchRequests int
	// Locks bounds the locks that the replica remembers (default 500,000), TxnLocks those of
	// one transaction (default 100,000).
	Locks, TxnLocks int
	// LockWaiters bounds the requests that wait for one key (default 10,000).
	LockWaiters int
	// TimestampCacheBytes bounds the timestamp cache (default 2 MiB).
	TimestampCacheBytes int
	// PushDelay is how long a request waits for a lock before it asks about the holder (default 50 ms).
	PushDelay time.Duration
	// TxnExpiry is how long a transaction lives without a heartbeat (default 5 s), and
	// StagingExpiry how long one may be STAGING before others recover it (default 2 s).
	TxnExpiry, StagingExpiry time.Duration
	// DeadlockDelay is when a waiting push first looks for a cycle (default 100 ms), and
	// DeadlockPeriod how often after that (default 300 ms).
	DeadlockDelay, DeadlockPeriod time.Duration
	// LocalResolve bounds the intents resolved in the command that ends their transaction
	// (default 500); the others follow asynchronously.
	LocalResolve int
	// AsyncResolvers bounds the goroutines that resolve intents elsewhere (default 8), and
	// AsyncQueue the transactions that wait for them (default 1,000).
	AsyncResolvers, AsyncQueue int
}

func (l Limits) withDefaults() Limits {
	def(&l.ResponseBytes, 16<<20)
	def(&l.ScanKeys, 100_000)
	def(&l.BatchRequests, 20_000)
	def(&l.Locks, 500_000)
	def(&l.TxnLocks, 100_000)
	def(&l.LockWaiters, 10_000)
	def(&l.TimestampCacheBytes, 2<<20)
	def(&l.PushDelay, 50*time.Millisecond)
	def(&l.TxnExpiry, 5*time.Second)
	def(&l.StagingExpiry, 2*time.Second)
	def(&l.DeadlockDelay, 100*time.Millisecond)
	def(&l.DeadlockPeriod, 300*time.Millisecond)
	def(&l.LocalResolve, 500)
	def(&l.AsyncResolvers, 8)
	def(&l.AsyncQueue, 1000)
	return l
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
