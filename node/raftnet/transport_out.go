package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// encodeBufs are the buffers of outgoing AppendEntries; Network copies what it sends.
var encodeBufs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func (t *RangeTransport) envelopeTo(p *raftPeer) envelope {
	return envelope{rangeID: t.cfg.Range, from: t.cfg.Replica, to: p.replica, generation: t.router.cfg.RecoveryGeneration}
}

// AppendEntries implements raft.Transport. It blocks while the peer can't be reached,
// until this node no longer leads in the term, the peer is removed, or Close.
func (t *RangeTransport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	if t.tellsNothing(p, args) {
		if !t.restHeartbeat(args) {
			return ErrTransportClosed
		}
		*resp = raft.AppendEntriesResponse{RPCHeader: header(p.node, p.replica), Term: args.Term, Success: true}
		return nil
	}
	req := appendRequest{envelope: t.envelopeTo(p), AppendEntriesRequest: *args}
	bp := encodeBufs.Get().(*[]byte)
	buf := *bp
	if n := req.size(); cap(buf) < n {
		buf = make([]byte, 0, n)
	}
	buf = req.encode(buf[:0])
	defer func() {
		if cap(buf) <= 2<<20 {
			*bp = buf
		}
		encodeBufs.Put(bp)
	}()

	class, method := Data, MethodRaftAppend
	if len(args.Entries) == 0 {
		// It rides along with the next heartbeat of the node pair.
		class, method = Control, MethodRaftHeartbeat
	}
	t.blocked.Add(1)
	defer t.blocked.Add(-1)
	ctx := t.purpose(p, args.Term)
	for attempt := 0; ; attempt++ {
		out, err := t.router.cfg.Network.Call(ctx, p.node, class, method, buf)
		if err == nil {
			var r appendResponse
			if err = r.decode(out); err == nil {
				return t.appendAnswered(ctx, p, args, &r, resp)
			}
		}
		if t.ctx.Err() != nil {
			return ErrTransportClosed
		}
		if ctx.Err() != nil || !t.leads(args.Term) {
			return errStopped
		}
		if !t.waitRetry(ctx, p, attempt) {
			return errStopped
		}
	}
}

// leads reports whether RPCs of a leader's term still have a purpose.
func (t *RangeTransport) leads(term uint64) bool {
	r := t.raft.Load()
	return r == nil || r.State() == raft.Leader && r.CurrentTerm() == term
}

// waitRetry waits until another try makes sense.
func (t *RangeTransport) waitRetry(ctx context.Context, p *raftPeer, attempt int) bool {
	sup := t.router.support
	d := min(10*time.Millisecond<<min(attempt, 5), 250*time.Millisecond)
	var heard <-chan struct{}
	if !sup.Live(p.node) {
		d, heard = 2*time.Second, sup.Heard(p.node)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-heard:
	case <-ctx.Done():
		return false
	}
	return true
}

// appendAnswered takes in what a follower answered.
func (t *RangeTransport) appendAnswered(ctx context.Context, p *raftPeer, args *raft.AppendEntriesRequest, r *appendResponse, resp *raft.AppendEntriesResponse) error {
	r.RPCHeader = header(p.node, p.replica)
	if r.Success && len(args.Entries) > 0 && t.cfg.GateOwn != nil {
		if err := t.cfg.GateOwn(ctx, args.Entries[len(args.Entries)-1].Index); err != nil {
			return err
		}
	}
	if fortified := t.noteAppend(p, args, r); r.Success && (len(args.Entries) > 0 || !fortified) {
		t.router.markDirty(t)
	}
	*resp = r.AppendEntriesResponse
	return nil
}

// noteAppend records fortification and progress; it reports whether the follower is
// now fortified for the message's term.
func (t *RangeTransport) noteAppend(p *raftPeer, args *raft.AppendEntriesRequest, r *appendResponse) bool {
	if r.Term > args.Term {
		t.higherTerm(args.Term, r.Term)
		return false
	}
	p.contact.Store(t.router.mono())
	if !r.Success {
		return false
	}
	if r.fortified {
		p.noteAck(ack{args.Term, r.epoch})
	}
	last := args.PrevLogEntry
	if n := len(args.Entries); n > 0 {
		last = args.Entries[n-1].Index
	}
	if last > 0 {
		if p.matchTerm.Swap(args.Term) != args.Term {
			p.match.Store(0)
		}
		p.match.Store(max(p.match.Load(), last))
		if c := min(args.LeaderCommitIndex, last); c > p.sentCommit.Load() {
			p.sentCommit.Store(c)
		}
		if r.fortified && len(args.Entries) == 0 {
			p.noteTold(told{ack{args.Term, r.epoch}, last, min(args.LeaderCommitIndex, last)})
		}
	}
	return r.fortified
}

// noteTold keeps the latest confirmation. Of two in one epoch the one that says more is kept, and
// of two that each say more in one respect, either.
func (p *raftPeer) noteTold(k told) {
	for {
		old := p.told.Load()
		if old != nil && (old.term > k.term || old.term == k.term && (old.epoch > k.epoch || old.epoch == k.epoch && old.last >= k.last && old.commit >= k.commit)) {
			return
		}
		if p.told.CompareAndSwap(old, &k) {
			return
		}
	}
}

// noteAck keeps the latest fortification.
func (p *raftPeer) noteAck(a ack) {
	for {
		old := p.ack.Load()
		if old != nil && (old.term > a.term || old.term == a.term && old.epoch >= a.epoch) || p.ack.CompareAndSwap(old, &a) {
			return
		}
	}
}

// higherTerm applies rule 13: a peer is in a later term than this leader.
func (t *RangeTransport) higherTerm(own, theirs uint64) {
	r := t.raft.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != own {
		return
	}
	leased := t.Lease().Valid
	t.DropLease(own)
	t.router.takeover.reelect(t, own, theirs, leased)
}

// RequestVote implements raft.Transport, behind the guard.
func (t *RangeTransport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	token := t.ownToken(args.Term)
	if !t.enterVote(t.router.self, token, true) {
		t.router.metrics.votesRefused.Inc()
		return errGuard
	}
	defer t.exitVote()
	t.mu.Lock()
	t.startLowLocked(args.Term)
	t.mu.Unlock()
	req := voteRequest{envelope: t.envelopeTo(p), term: args.Term, lastIndex: args.LastLogIndex, lastTerm: args.LastLogTerm, transfer: args.LeadershipTransfer, token: token}
	r, err := t.askVote(t.ctx, p, MethodRaftVote, &req)
	if err != nil {
		return err
	}
	t.addLow(args.Term, r.limit)
	*resp = raft.RequestVoteResponse{RPCHeader: header(p.node, p.replica), Term: r.term, Granted: r.granted}
	return nil
}

// RequestPreVote implements raft.WithPreVote, behind the guard.
func (t *RangeTransport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	if !t.enterVote(t.router.self, releaseToken{}, false) {
		t.router.metrics.votesRefused.Inc()
		return errGuard
	}
	req := voteRequest{envelope: t.envelopeTo(p), term: args.Term, lastIndex: args.LastLogIndex, lastTerm: args.LastLogTerm}
	r, err := t.askVote(t.ctx, p, MethodRaftPreVote, &req)
	if err != nil {
		return err
	}
	*resp = raft.RequestPreVoteResponse{RPCHeader: header(p.node, p.replica), Term: r.term, Granted: r.granted}
	return nil
}

func (t *RangeTransport) askVote(ctx context.Context, p *raftPeer, m Method, req *voteRequest) (voteResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, t.router.cfg.VoteTimeout)
	defer cancel()
	var r voteResponse
	out, err := t.router.cfg.Network.Call(ctx, p.node, Control, m, req.encode(nil))
	if err != nil {
		return r, err
	}
	return r, r.decode(out)
}

// TimeoutNow implements raft.Transport: the last step of a leadership transfer. The
// lease is given up first, for good (S3).
func (t *RangeTransport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	r := t.raft.Load()
	if r == nil {
		return ErrTransportClosed
	}
	term := r.CurrentTerm()
	if r.State() != raft.Leader {
		return errStopped
	}
	if !t.router.support.Live(p.node) {
		return fmt.Errorf("raftnet: n%d does not answer; leadership of r%d stays", p.node, t.cfg.Range)
	}
	low := t.LowWater()
	t.DropLease(term)
	if t.cfg.Served != nil {
		low.Forward(t.cfg.Served())
	} else if h := t.handed.Load(); h > low.WallNanos {
		low.WallNanos, low.Logical = h, 0
	}
	if low.Logical > 0 { // the wire carries nanoseconds: round up
		low.WallNanos++
	}
	req := timeoutNowRequest{envelope: t.envelopeTo(p), term: term, low: low.WallNanos}
	if why := t.transferWhy.Load(); why != nil {
		req.why = *why
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.router.cfg.VoteTimeout)
	defer cancel()
	if _, err := t.router.cfg.Network.Call(ctx, p.node, Control, MethodRaftTimeoutNow, req.encode(nil)); err != nil {
		return fmt.Errorf("raftnet: asking %s to take r%d over: %w", id, t.cfg.Range, err)
	}
	*resp = raft.TimeoutNowResponse{RPCHeader: header(p.node, p.replica)}
	return nil
}

// InstallSnapshot implements raft.Transport. The data travels through SendSnapshot; raft
// on the other side finds it complete.
func (t *RangeTransport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	if t.cfg.SendSnapshot == nil {
		return fmt.Errorf("raftnet: replica %s of r%d sends no snapshots", t.self, t.cfg.Range)
	}
	t.blocked.Add(1)
	defer t.blocked.Add(-1)
	ctx := t.purpose(p, args.Term)
	if err := t.cfg.SendSnapshot(ctx, id, args, data); err != nil {
		return err
	}
	req := installRequest{envelope: t.envelopeTo(p), InstallSnapshotRequest: *args}
	out, err := t.router.cfg.Network.Call(ctx, p.node, Data, MethodRaftInstall, req.encode(nil))
	if err != nil {
		return err
	}
	var r appendResponse
	if err := r.decode(out); err != nil {
		return err
	}
	if r.Term > args.Term {
		t.higherTerm(args.Term, r.Term)
	}
	*resp = raft.InstallSnapshotResponse{RPCHeader: header(p.node, p.replica), Term: r.Term, Success: r.Success}
	return nil
}

// Transfer hands leadership to a live, caught-up voter, and returns once it was asked to
// campaign (or could not be). If it fails after the lease was given up, this node
// campaigns itself, for only a new term brings a lease back. why is told to the target, for people.
func (t *RangeTransport) Transfer(ctx context.Context, target raft.ServerID, why string) error {
	r := t.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return fmt.Errorf("raftnet: %s does not lead r%d", t.self, t.cfg.Range)
	}
	p, err := t.peer(target)
	if err != nil {
		return err
	}
	if p.node == t.router.self {
		return nil
	}
	if !t.router.support.Live(p.node) {
		return fmt.Errorf("raftnet: %s does not answer; choose a live voter for r%d", target, t.cfg.Range)
	}
	term := r.CurrentTerm()
	// A target that lags would block writes for as long as raft waits for it.
	if last := r.LastIndex(); p.matchTerm.Load() != term || p.match.Load()+maxTransferLag < last {
		return fmt.Errorf("raftnet: %s has acknowledged index %d of %d; wait until it has caught up before r%d is transferred", target, p.match.Load(), last, t.cfg.Range)
	}
	t.transferWhy.Store(&why)
	// Raft refuses writes until a transfer has ended, however it ends.
	ctx, cancel := context.WithTimeout(ctx, t.router.cfg.TokenLife)
	defer cancel()
	f := r.LeadershipTransferToServer(target, raft.ServerAddress(target))
	done, end := make(chan error, 1), make(chan struct{})
	endWith(f, end)
	defer close(end)
	go func() { done <- f.Error() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && t.dropped.Load() >= term && r.State() == raft.Leader && r.CurrentTerm() == term {
		t.router.takeover.reelect(t, term, term, false)
	}
	return err
}

// endWith makes a raft future fail when end is closed. A transfer that raft had not taken up
// when it was shut down is never answered, and the exported field for that, ShutdownCh of
// the future, can't be reached by type.
func endWith(f raft.Future, end chan struct{}) {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer {
		return // an immediate error
	}
	if field := v.Elem().FieldByName("ShutdownCh"); field.IsValid() && field.CanSet() && field.Type() == reflect.TypeOf(end) {
		field.Set(reflect.ValueOf(end))
	}
}

// maxTransferLag is how many entries a transfer's target may still lack.
const maxTransferLag = 64

// Campaign makes this replica stand for election at once, if the guards allow it. The
// caller knows that there is no leader worth keeping (S20, raft.md rule 6).
func (t *RangeTransport) Campaign() error {
	r := t.raft.Load()
	if r == nil {
		return ErrTransportClosed
	}
	if r.State() == raft.Leader {
		return nil
	}
	if _, self := t.voters(r); !self {
		return fmt.Errorf("raftnet: %s is no voter of r%d and must not campaign", t.self, t.cfg.Range)
	}
	if !t.enterVote(t.router.self, releaseToken{}, false) {
		return errGuard
	}
	t.router.metrics.campaigns.Inc()
	return t.inject(&raft.TimeoutNowRequest{RPCHeader: header(t.router.self, t.cfg.Replica)})
}

var errBusy = errors.New("raftnet: raft's main loop is busy")

// inject hands raft a message without waiting for its answer.
func (t *RangeTransport) inject(cmd any) error {
	select {
	case t.rpc <- raft.RPC{Command: cmd, RespChan: make(chan raft.RPCResponse, 1)}:
		return nil
	case <-t.ctx.Done():
		return ErrTransportClosed
	default:
		return errBusy
	}
}

// unstick makes a candidate whose election failed a follower again, in the given term
// (raft.md rule 11): a vote request as if from a fellow voter, which raft must refuse
// because its log is empty. REQUIRES: this replica's log is not empty.
func (t *RangeTransport) unstick(r *raft.Raft, term uint64) error {
	if r.LastIndex() == 0 {
		return nil
	}
	vs, _ := t.voters(r)
	for _, s := range vs {
		if s.ID == t.self {
			continue
		}
		n, rep, err := ParseServerID(s.ID)
		if err != nil {
			continue
		}
		t.router.metrics.unsticks.Inc()
		return t.inject(&raft.RequestVoteRequest{RPCHeader: header(n, rep), Term: term, LeadershipTransfer: true})
	}
	return nil
}

// trialElection asks the voters whether they would elect this replica; nothing changes
// on them. It finds out whether a leader is out there that this node doesn't know.
func (t *RangeTransport) trialElection(r *raft.Raft, above uint64) bool {
	if t.cfg.GetLog == nil || !t.enterVote(t.router.self, releaseToken{}, false) {
		return false
	}
	req := voteRequest{term: max(r.CurrentTerm(), above) + 1}
	req.lastIndex, req.lastTerm = t.lastLog(r)
	if req.lastIndex == 0 {
		return false
	}
	vs, self := t.voters(r)
	if !self {
		return false
	}
	need := len(vs)/2 + 1 - 1
	granted := make(chan bool, len(vs))
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	asked := 0
	for _, s := range vs {
		if s.ID == t.self {
			continue
		}
		p, err := t.peer(s.ID)
		if err != nil {
			continue
		}
		q := req
		q.envelope = t.envelopeTo(p)
		asked++
		go func() {
			resp, err := t.askVote(ctx, p, MethodRaftPreVote, &q)
			granted <- err == nil && resp.granted
		}()
	}
	for n := 0; n < need; {
		if asked == 0 {
			return false
		}
		if <-granted {
			n++
		}
		asked--
	}
	return true
}

// lastLog returns index and term of the last entry, or of the snapshot before it.
func (t *RangeTransport) lastLog(r *raft.Raft) (index, term uint64) {
	index = r.LastIndex()
	var l raft.Log
	if index > 0 && t.cfg.GetLog != nil && t.cfg.GetLog(index, &l) == nil {
		return index, l.Term
	}
	st := r.Stats()
	if st["last_snapshot_index"] == strconv.FormatUint(index, 10) {
		if term, err := strconv.ParseUint(st["last_snapshot_term"], 10, 64); err == nil {
			return index, term
		}
	}
	return 0, 0
}

// removed reports whether a peer is no longer in the configuration.
func (t *RangeTransport) removed(r *raft.Raft, p *raftPeer) bool {
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == p.id {
			return false
		}
	}
	return true
}

// sweepBlocked ends RPCs that have lost their purpose.
func (t *RangeTransport) sweepBlocked() {
	r := t.raft.Load()
	if t.blocked.Load() == 0 || r == nil {
		return
	}
	state, term := r.State(), r.CurrentTerm()
	for _, p := range *t.peers.Load() {
		p.mu.Lock()
		if p.cancel != nil && (state != raft.Leader || p.term != term || t.removed(r, p)) {
			p.cancel()
		}
		p.mu.Unlock()
	}
}

// supporters is for tests and status pages: the voters that are fortified now.
func (t *RangeTransport) supporters(term uint64) []keys.NodeID {
	var out []keys.NodeID
	for _, p := range *t.peers.Load() {
		a := p.ack.Load()
		if g, ok := t.router.support.SupportedBy(p.node); ok && a != nil && a.term == term && a.epoch == g.Epoch {
			out = append(out, p.node)
		}
	}
	return out
}
