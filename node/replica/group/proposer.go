package group

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/raftcmd"
)

const (
	// maxInFlight is how many raft entries one range has in flight. Two keep the disk and
	// the network busy at once; with more, batches shrink and throughput falls by half.
	maxInFlight = 2
	// maxQueuedBytes bounds the commands that wait for a place in an entry.
	maxQueuedBytes = 16 << 20
)

// Errors of Propose: see package replica.
var (
	ErrRejected  = replica.ErrRejected
	ErrAmbiguous = replica.ErrAmbiguous
)

// outcome is what the FSM says about one command.
type outcome struct {
	index     uint64
	duplicate bool   // its ID was applied before: nothing was done now
	rejected  string // reason; empty when applied
}

// proposal is one command on its way.
type proposal struct {
	enc  []byte
	ver  byte          // that the entry must have
	done chan struct{} // closed when out and err are set
	out  outcome
	err  error
}

func (p *proposal) finish(out outcome, err error) {
	p.out, p.err = out, err
	close(p.done)
}

// proposer puts commands into raft entries: at most maxInFlight entries are under way, and
// what waits meanwhile goes into the next one together. It has no goroutine of its own
// while nothing is proposed, so that an idle range costs nothing.
type proposer struct {
	apply func([]byte) raft.ApplyFuture // the current raft instance's Apply
	room  *semaphore.Weighted

	mu       sync.Mutex
	queue    []*proposal
	inFlight int
	closed   bool
	running  sync.WaitGroup
}

func newProposer(apply func([]byte) raft.ApplyFuture) *proposer {
	return &proposer{apply: apply, room: semaphore.NewWeighted(maxQueuedBytes)}
}

// propose returns once the command's fate is known, or leadership is lost. ctx ends the
// wait for a place in an entry, not the wait for the outcome: the caller holds latches that
// must outlive the command (SAFETY S6). The latter is bounded by raft's leader lease timeout.
func (p *proposer) propose(ctx context.Context, enc []byte, version byte) (outcome, error) {
	if len(enc) > raftcmd.MaxCommandBytes {
		return outcome{}, fmt.Errorf("%w: command of %d bytes, the limit is %d; write less per batch",
			ErrRejected, len(enc), raftcmd.MaxCommandBytes)
	}
	if err := p.room.Acquire(ctx, int64(len(enc))); err != nil {
		return outcome{}, fmt.Errorf("%w: waiting for room in the proposal queue: %w", ErrRejected, err)
	}
	defer p.room.Release(int64(len(enc)))

	pr := &proposal{enc: enc, ver: version, done: make(chan struct{})}
	if err := p.enqueue(pr); err != nil {
		return outcome{}, err
	}
	select {
	case <-pr.done:
		return pr.out, pr.err
	case <-ctx.Done():
	}
	if p.dequeue(pr) {
		return outcome{}, fmt.Errorf("%w: waiting for a raft entry: %w", ErrRejected, ctx.Err())
	}
	<-pr.done
	return pr.out, pr.err
}

func (p *proposer) enqueue(pr *proposal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("%w: the replica is closing", ErrRejected)
	}
	p.queue = append(p.queue, pr)
	if p.inFlight < maxInFlight {
		p.inFlight++
		p.running.Add(1)
		go p.run()
	}
	return nil
}

// dequeue takes a proposal back that is in no entry yet.
func (p *proposer) dequeue(pr *proposal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, q := range p.queue {
		if q == pr {
			p.queue = append(p.queue[:i], p.queue[i+1:]...)
			return true
		}
	}
	return false
}

// next takes what waits, up to one entry's size.
func (p *proposer) next() (batch []*proposal, entry []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := 1
	for len(p.queue) > len(batch) {
		n := raftcmd.EntrySize(p.queue[len(batch)].enc)
		if len(batch) > 0 && size+n > raftcmd.MaxEntryBytes {
			break
		}
		size += n
		batch = append(batch, p.queue[len(batch)])
	}
	if len(batch) == 0 {
		p.inFlight--
		return nil, nil
	}
	p.queue = append([]*proposal(nil), p.queue[len(batch):]...)
	entry = raftcmd.NewEntry(make([]byte, 0, size))
	for _, pr := range batch {
		entry = raftcmd.AppendToEntry(entry, pr.enc)
		raftcmd.RaiseEntry(entry, pr.ver)
	}
	return batch, entry
}

func (p *proposer) run() {
	defer p.running.Done()
	for {
		batch, entry := p.next()
		if len(batch) == 0 {
			return
		}
		f := p.apply(entry)
		err := f.Error()
		if err != nil {
			err = classify(err)
			for _, pr := range batch {
				pr.finish(outcome{}, err)
			}
			continue
		}
		outs, ok := f.Response().([]outcome)
		for i, pr := range batch {
			switch {
			case !ok || i >= len(outs):
				// The entry lies below an applied snapshot: it is done, but this FSM did not see it.
				pr.finish(outcome{}, fmt.Errorf("%w: the entry was applied through a snapshot", ErrAmbiguous))
			case outs[i].rejected != "":
				pr.finish(outs[i], fmt.Errorf("%w: %s", ErrRejected, outs[i].rejected))
			default:
				pr.finish(outs[i], nil)
			}
		}
	}
}

// close refuses further commands and waits for those under way. The raft instance is shut
// down before, which ends their wait.
func (p *proposer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.running.Wait()
}

// classify maps raft's errors to what they say about the entry's fate.
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		// raft answers these before it appends the entry.
		return fmt.Errorf("%w: %w", ErrRejected, err)
	default:
		return fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
}

// endOnShutdown makes a raft future fail when done is closed. raft answers every future on
// shutdown but those that wait for its FSM goroutine, and its own remedy, the exported field
// ShutdownCh of a future, can't be reached by type: the futures' types are not exported.
func endOnShutdown(f raft.Future, done chan struct{}) {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer {
		return // an immediate error
	}
	if field := v.Elem().FieldByName("ShutdownCh"); field.IsValid() && field.CanSet() && field.Type() == reflect.TypeOf(done) {
		field.Set(reflect.ValueOf(done))
	}
}
