package store

import "context"

// lock is a mutex for what is held while time passes. A goroutine that waits for it is
// durably blocked in the sense of testing/synctest, unlike one that waits for a sync.Mutex.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// Lock waits for the lock.
func (l lock) Lock() { l <- struct{}{} }

// LockContext waits for the lock until ctx ends.
func (l lock) LockContext(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock releases it.
func (l lock) Unlock() { <-l }
