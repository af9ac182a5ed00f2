package replica

import "sync"

// runningCommands makes the tries of one command follow each other: a second one, sent because
// the first one's connection was lost, must not fail while the first still waits for a lock
// and succeeds later (S12). The zero value is ready.
type runningCommands struct {
	mu sync.Mutex
	by map[[16]byte]chan struct{} // closed at the end
}

// enter waits until no other try of x's command runs. Call leave afterwards.
func (r *runningCommands) enter(x *execution) error {
	id := x.ba.CommandID
	for {
		r.mu.Lock()
		other := r.by[id]
		if other == nil {
			if r.by == nil {
				r.by = map[[16]byte]chan struct{}{}
			}
			r.by[id] = make(chan struct{})
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		select {
		case <-other:
		case <-x.ctx.Done():
			return x.ctx.Err()
		case <-x.t.over:
			return x.r.lost()
		}
	}
}

func (r *runningCommands) leave(id [16]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.by[id])
	delete(r.by, id)
}
