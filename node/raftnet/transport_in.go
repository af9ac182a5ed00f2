package raftnet

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/atolldb/atoll/node/keys"
)

// check refuses messages that are not for this replica.
func (t *RangeTransport) check(e *envelope) error {
	if e.to != t.cfg.Replica {
		return remoteErrorf(CodeNoReplica, "raftnet: the message is for replica %d of r%d, this is %s", e.to, t.cfg.Range, t.self)
	}
	if g := t.router.cfg.RecoveryGeneration; e.generation != g {
		return remoteErrorf(CodeNoReplica, "raftnet: the message is of recovery generation %d, r%d here is of %d", e.generation, t.cfg.Range, g)
	}
	return nil
}

// serveAppend handles an AppendEntries that has arrived.
func (t *RangeTransport) serveAppend(from keys.NodeID, payload []byte, reply Replier) {
	var req appendRequest
	err := req.decode(payload)
	if err == nil {
		err = t.check(&req.envelope)
	}
	if err != nil {
		reply.Reply(nil, err)
		return
	}
	resp, err := t.receiveAppend(from, &req)
	if err == nil && resp.Success && len(req.Entries) > 0 && t.cfg.Gate != nil {
		err = t.cfg.Gate(t.ctx, req.Entries[len(req.Entries)-1].Index)
	}
	if err != nil {
		reply.Reply(nil, err)
		return
	}
	reply.Reply(resp.encode(make([]byte, 0, 48)), nil)
}

// receiveAppend fortifies the leader (raft.md rule 3) and lets raft have the message.
func (t *RangeTransport) receiveAppend(from keys.NodeID, req *appendRequest) (*appendResponse, error) {
	boot := t.router.support.Boot(from)
	t.mu.Lock()
	old := t.fort
	epoch, ok := t.router.support.Supports(from)
	ok = ok && t.votes == 0 && req.Term >= old.term
	if ok {
		if old.holder != 0 && old.holder != from {
			t.clearFortLocked()
		}
		t.fort = fort{from, req.Term, epoch}
	}
	t.mu.Unlock()

	req.RPCHeader = header(from, req.from)
	out, err := t.deliver(&req.AppendEntriesRequest, nil)
	if err != nil {
		return nil, err // the fort stays: raft may yet accept
	}
	r, isAppend := out.(*raft.AppendEntriesResponse)
	if !isAppend {
		return nil, unexpected(out)
	}
	t.mu.Lock()
	if ok && r.Term > req.Term && t.fort == (fort{from, req.Term, epoch}) {
		t.fort = old // raft was in a later term: never valid
	}
	if r.Term == req.Term {
		t.heard = fort{from, req.Term, boot}
		t.elect.since, t.elect.gone = 0, 0 // it is not gone, or another one has come
	}
	t.mu.Unlock()
	resp := &appendResponse{AppendEntriesResponse: *r}
	if ok && r.Success && r.Term == req.Term {
		resp.fortified, resp.epoch = true, epoch
	}
	return resp, nil
}

// serveVote handles a RequestVote.
func (t *RangeTransport) serveVote(from keys.NodeID, payload []byte) ([]byte, error) {
	var req voteRequest
	if err := req.decode(payload); err != nil {
		return nil, err
	}
	if err := t.check(&req.envelope); err != nil {
		return nil, err
	}
	if !t.enterVote(from, req.token, true) {
		t.router.metrics.votesRefused.Inc()
		t.router.askRelease(t)
		return (&voteResponse{term: req.term}).encode(nil), nil
	}
	h := header(from, req.from)
	if t.unknownVoter(from, &req) {
		h.ID = nil // raft compares it with its configuration, and the address with nothing
	}
	out, err := t.deliver(&raft.RequestVoteRequest{RPCHeader: h, Candidate: h.Addr, Term: req.term, LastLogIndex: req.lastIndex,
		LastLogTerm: req.lastTerm, LeadershipTransfer: req.transfer}, nil)
	// The limit is read after raft has voted: a leader that votes has stopped serving.
	t.mu.Lock()
	limit := t.selfLimitLocked()
	t.votes--
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r, ok := out.(*raft.RequestVoteResponse)
	if !ok {
		return nil, unexpected(out)
	}
	if !r.Granted && r.Term == req.term {
		t.router.takeover.betterLog(t, &req)
	}
	return (&voteResponse{term: r.Term, granted: r.Granted, limit: limit}).encode(nil), nil
}

// unknownVoter reports whether the candidate is no voter in the latest configuration of this replica,
// and its log is at least as long. Such a candidate may have become a voter in entries that this
// replica lacks, and this replica's vote may be the one that it needs: Raft lets servers vote for
// candidates that their own configuration does not name (Ongaro, dissertation, 4.1), hashicorp/raft
// does not, and a range that lost its leader right after a change would stay without one. What
// that refusal protects from, removed servers that disturb, the guards of S3 keep out.
func (t *RangeTransport) unknownVoter(from keys.NodeID, req *voteRequest) bool {
	r := t.raft.Load()
	if r == nil {
		return false
	}
	known, _ := t.voters(r)
	id := ServerID(from, req.from)
	if len(known) == 0 || slices.ContainsFunc(known, func(s raft.Server) bool { return s.ID == id }) {
		return false
	}
	index, term := t.lastLog(r)
	return index > 0 && (req.lastTerm > term || req.lastTerm == term && req.lastIndex >= index)
}

// servePreVote handles a RequestPreVote, raft's or a trial election's.
func (t *RangeTransport) servePreVote(from keys.NodeID, payload []byte) ([]byte, error) {
	var req voteRequest
	if err := req.decode(payload); err != nil {
		return nil, err
	}
	if err := t.check(&req.envelope); err != nil {
		return nil, err
	}
	if !t.enterVote(from, releaseToken{}, false) {
		t.router.askRelease(t)
		return (&voteResponse{term: req.term}).encode(nil), nil
	}
	if t.unknownVoter(from, &req) {
		return (&voteResponse{term: req.term, granted: t.Leader() == 0 && req.term >= t.raft.Load().CurrentTerm()}).encode(nil), nil
	}
	out, err := t.deliver(&raft.RequestPreVoteRequest{RPCHeader: header(from, req.from), Term: req.term, LastLogIndex: req.lastIndex, LastLogTerm: req.lastTerm}, nil)
	if err != nil {
		return nil, err
	}
	r, ok := out.(*raft.RequestPreVoteResponse)
	if !ok {
		return nil, unexpected(out)
	}
	return (&voteResponse{term: r.Term, granted: r.Granted}).encode(nil), nil
}

// serveTimeoutNow makes this replica campaign on behalf of the leader that hands over.
func (t *RangeTransport) serveTimeoutNow(from keys.NodeID, payload []byte) ([]byte, error) {
	var req timeoutNowRequest
	if err := req.decode(payload); err != nil {
		return nil, err
	}
	if err := t.check(&req.envelope); err != nil {
		return nil, err
	}
	r := t.raft.Load()
	if r == nil {
		return nil, remoteErrorf(CodeShutdown, "raftnet: replica %s is starting", t.self)
	}
	token := releaseToken{leader: from, term: req.term}
	if _, self := t.voters(r); !self || r.CurrentTerm() != req.term || t.Leader() != from || r.State() == raft.Leader {
		return nil, remoteErrorf(CodeGuard, "raftnet: %s is in term %d of r%d and follows n%d; a transfer from n%d in term %d is stale", t.self, r.CurrentTerm(), t.cfg.Range, t.Leader(), from, req.term)
	}
	if !t.enterVote(t.router.self, token, false) {
		return nil, remoteErrorf(CodeGuard, "raftnet: %s may not campaign yet", t.self)
	}
	t.mu.Lock()
	t.token, t.tokenLow = token, req.low
	t.tokenUntil = t.router.now().Add(t.router.cfg.TokenLife)
	t.mu.Unlock()
	t.NoteCause(Cause{Why: fmt.Sprintf("node %d gave it away: %s", from, cmp.Or(req.why, "it did not say why")), Node: from})
	if _, err := t.deliver(&raft.TimeoutNowRequest{RPCHeader: header(from, req.from)}, nil); err != nil {
		return nil, err
	}
	return nil, nil
}

// serveInstall lets raft ingest a snapshot whose data is already here.
func (t *RangeTransport) serveInstall(from keys.NodeID, payload []byte) ([]byte, error) {
	var req installRequest
	if err := req.decode(payload); err != nil {
		return nil, err
	}
	if err := t.check(&req.envelope); err != nil {
		return nil, err
	}
	if t.cfg.ReceiveSnapshot == nil {
		return nil, remoteErrorf(CodeGeneric, "raftnet: %s takes no snapshots", t.self)
	}
	data, err := t.cfg.ReceiveSnapshot(t.ctx, &req.InstallSnapshotRequest)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	req.RPCHeader = header(from, req.from)
	req.Leader = req.Addr
	out, err := t.deliver(&req.InstallSnapshotRequest, struct{ io.Reader }{data})
	if err != nil {
		return nil, err
	}
	r, ok := out.(*raft.InstallSnapshotResponse)
	if !ok {
		return nil, unexpected(out)
	}
	if r.Success && t.cfg.SnapshotInstalled != nil {
		if err := t.cfg.SnapshotInstalled(t.ctx, &req.InstallSnapshotRequest); err != nil {
			return nil, err
		}
	}
	return (&appendResponse{AppendEntriesResponse: raft.AppendEntriesResponse{Term: r.Term, Success: r.Success}}).encode(nil), nil
}

// released answers whether this replica's lease of a term is over, and sees to it that
// it stays so.
func (t *RangeTransport) released(term uint64) bool {
	r := t.raft.Load()
	if r == nil {
		return true // its raft has not started: it can't lead
	}
	if r.State() == raft.Leader && r.CurrentTerm() <= term {
		return false
	}
	// A candidate or follower in that very term can still become its leader.
	if r.CurrentTerm() <= term && r.State() == raft.Candidate {
		return false
	}
	t.DropLease(term)
	return true
}

// noteReleased clears a fort whose holder has said that its lease is over.
func (t *RangeTransport) noteReleased(leader keys.NodeID, term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fort.holder == leader && t.fort.term <= term {
		t.clearFortLocked()
	}
	if t.lost.holder != leader || t.lost.term < term {
		t.lost = fort{holder: leader, term: term}
	}
}
