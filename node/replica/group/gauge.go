package group

import (
	"sync"

	"github.com/hashicorp/raft"
)

// raftLogs is the log store as raft has it. It exists for one goroutine of raft's: each leader
// reads its first entry every ten seconds, for a gauge of the entry's age that nothing here reads. With
// hundreds of ranges those timers are a large part of an idle node's wake-ups, and raft has no
// setting for them. So the goroutine is held in FirstIndex until the leadership is over.
type raftLogs struct {
	*logStore
	g *Group
}

// FirstIndex implements raft.LogStore. While a replica leads, only the gauge asks: raft's other calls
// are made before it runs, when it compacts its log, which is left to Truncate, and when a follower
// has installed a snapshot.
func (l raftLogs) FirstIndex() (uint64, error) {
	if inst := l.g.inst.Load(); inst != nil {
		changed := inst.leadership.next() // before the state is looked at, so that no change is missed
		if inst.raft.State() == raft.Leader {
			select {
			case <-changed:
			case <-inst.ctx.Done():
			}
		}
	}
	return l.logStore.FirstIndex()
}

// leadership tells of changes of it.
type leadership struct {
	mu      sync.Mutex
	changed chan struct{}
}

// next returns a channel that is closed at the next change.
func (l *leadership) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *leadership) change() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
