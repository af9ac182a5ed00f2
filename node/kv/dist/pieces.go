package dist

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// piece is the part of a batch that one range executes.
type piece struct {
	e     *entry
	reqs  []kv.Request
	index []int // position of each request in the batch
	br    *kv.BatchResponse
	err   error
}

// sendPieces cuts a batch that spans ranges.
func (d *DistSender) sendPieces(ctx context.Context, ba *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	d.metrics.pieces.Inc()
	if err := d.checkEndTxn(ba, st); err != nil {
		return nil, err
	}
	if ba.CanForwardReadTimestamp || len(ba.RefreshSpans) > 0 {
		// Every piece must read at the same timestamp.
		c := *ba
		c.CanForwardReadTimestamp, c.RefreshSpans = false, nil
		ba = &c
	}
	if limited(ba) {
		return d.sendInOrder(ctx, ba, st)
	}
	pieces, err := d.cut(ctx, ba, st)
	if err != nil {
		return nil, err
	}
	if len(pieces) == 1 {
		return d.sendToRange(ctx, pieces[0].e, ba, st)
	}
	d.sendParallel(ctx, ba, st, pieces)
	return merge(ba, pieces)
}

// checkEndTxn refuses to cut a batch whose commit would not wait for all of its writes.
func (d *DistSender) checkEndTxn(ba *kv.BatchRequest, st *state) error {
	for _, req := range ba.Requests {
		end, ok := req.(*kv.EndTxnRequest)
		if !ok || !end.Commit {
			continue
		}
		if end.CanCommitInOnePhase {
			if st.maybeApplied {
				return d.giveUp(st, "the range was split after a commit in one phase had been sent")
			}
			return &kv.OnePhaseError{}
		}
		if len(end.InFlight) == 0 {
			return &kv.InvalidRequestError{Detail: "an explicit commit can't be in one batch with writes of other ranges"}
		}
	}
	return nil
}

func limited(ba *kv.BatchRequest) bool {
	if ba.MaxSpanKeys > 0 || ba.TargetBytes > 0 {
		return true
	}
	for _, req := range ba.Requests {
		if s, ok := req.(*kv.ScanRequest); ok && s.MaxKeys > 0 {
			return true
		}
	}
	return false
}

// cut distributes the requests over ranges, in key order of their first request.
func (d *DistSender) cut(ctx context.Context, ba *kv.BatchRequest, st *state) ([]*piece, error) {
	var pieces []*piece
	byRange := make(map[*entry]*piece)
	add := func(e *entry, req kv.Request, i int) {
		p := byRange[e]
		if p == nil {
			p = &piece{e: e}
			byRange[e] = p
			pieces = append(pieces, p)
		}
		p.reqs = append(p.reqs, req)
		p.index = append(p.index, i)
	}
	for i, req := range ba.Requests {
		s, err := address(req, ba.Txn)
		if err != nil {
			return nil, err
		}
		for at := s.Key; ; {
			e, err := d.rangeOf(ctx, at, st)
			if err != nil {
				return nil, err
			}
			if s.IsPoint() {
				add(e, req, i)
				break
			}
			part := keys.Span{Key: at, EndKey: s.EndKey}
			if e.desc.End.Less(part.EndKey) {
				part.EndKey = e.desc.End
			}
			add(e, kv.WithSpan(req, part), i)
			if !part.EndKey.Less(s.EndKey) {
				break
			}
			at = part.EndKey
		}
	}
	return pieces, nil
}

// sendParallel sends every piece, a bounded number at a time. All of them are waited for,
// also after an error: a write that is abandoned would be ambiguous.
func (d *DistSender) sendParallel(ctx context.Context, ba *kv.BatchRequest, st *state, pieces []*piece) {
	slots := make(chan struct{}, d.cfg.Parallel)
	var wg sync.WaitGroup
	for i, p := range pieces {
		part := *ba
		part.Requests = p.reqs
		pst := *st // every piece has its own retries
		d.namePiece(&pst)
		if i == len(pieces)-1 {
			p.br, p.err = d.sendWhole(ctx, p, &part, &pst)
			break
		}
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			p.br, p.err = d.sendWhole(ctx, p, &part, &pst)
			<-slots
		}()
	}
	wg.Wait()
}

// namePiece tells a piece of a batch that is cut from the others: the range of one may take in that of
// another, or have done so already, and must not take it for that one (S12, S20). A piece of what
// was never applied gets an ID of its own. Else it keeps the ID, under which the whole may have been
// applied before a split, and is told from the others by the name of the cut.
func (d *DistSender) namePiece(st *state) {
	switch {
	case !st.write:
	case st.maybeApplied || st.given:
		st.pieces = append(st.pieces[:len(st.pieces):len(st.pieces)], rand.Uint64())
	default:
		birth := st.birth // it may lie above a horizon that a range told of
		d.newCommand(st, 0)
		st.birth = birth
	}
}

// sendWhole sends a piece, and goes on with what a range left over of a DeleteRange: it
// can't be undone, so that a gap between pieces must not be left.
func (d *DistSender) sendWhole(ctx context.Context, p *piece, part *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	br, err := d.sendToRange(ctx, p.e, part, st)
	if err != nil {
		return nil, err
	}
	for i, resp := range br.Responses {
		del, ok := resp.(*kv.DeleteRangeResponse)
		for ok && del.ResumeSpan != nil {
			rest := *part
			rest.CommandID, rest.Pieces = [16]byte{}, nil
			rest.Requests = []kv.Request{kv.WithSpan(part.Requests[i], *del.ResumeSpan)}
			more, err := d.Send(ctx, &rest)
			if err != nil {
				return nil, err
			}
			next := more.Responses[0].(*kv.DeleteRangeResponse)
			del.Deleted += next.Deleted
			del.ResumeSpan = next.ResumeSpan
			mergeHeader(br, more)
		}
	}
	return br, nil
}

// merge joins the pieces' answers. An unknown outcome outweighs any other error, since it
// decides what the coordinator may say.
func merge(ba *kv.BatchRequest, pieces []*piece) (*kv.BatchResponse, error) {
	var first error
	var landed hlc.Timestamp
	for _, p := range pieces {
		if _, unknown := p.err.(*kv.AmbiguousError); unknown {
			first = p.err
		}
		if first == nil {
			first = p.err
		}
		if p.err == nil && p.br.Txn != nil {
			landed.Forward(p.br.Txn.WriteTimestamp)
		}
	}
	if first != nil && ba.Txn != nil && ba.Txn.WriteTimestamp.Less(landed) {
		return nil, &kv.PartialError{Err: first, WriteTimestamp: landed}
	}
	if first != nil {
		return nil, first
	}
	out := &kv.BatchResponse{Responses: make([]kv.Response, len(ba.Requests))}
	for _, p := range pieces {
		if len(p.br.Responses) != len(p.reqs) {
			return nil, &kv.InternalError{Detail: fmt.Sprintf("range %d answered %d of %d requests", p.e.desc.RangeID, len(p.br.Responses), len(p.reqs))}
		}
		mergeHeader(out, p.br)
	}
	for i, req := range ba.Requests {
		s, ok := req.(*kv.ScanRequest)
		reverse := ok && s.Reverse
		for n := range pieces {
			p := pieces[n]
			if reverse {
				p = pieces[len(pieces)-1-n]
			}
			for j, at := range p.index {
				if at == i {
					out.Responses[i] = join(req, out.Responses[i], p.br.Responses[j])
				}
			}
		}
	}
	return out, nil
}

// mergeHeader folds one answer's transaction and timestamps into another's.
func mergeHeader(out, br *kv.BatchResponse) {
	out.Timestamp.Forward(br.Timestamp)
	out.Now.Forward(br.Now)
	if br.Txn == nil {
		return
	}
	if out.Txn == nil {
		c := *br.Txn
		out.Txn = &c
		return
	}
	out.Txn.WriteTimestamp.Forward(br.Txn.WriteTimestamp)
	out.Txn.ReadTimestamp.Forward(br.Txn.ReadTimestamp)
	if br.Txn.Status > out.Txn.Status {
		out.Txn.Status = br.Txn.Status
	}
}

// join appends the answer of the next range in the request's order.
func join(req kv.Request, have, next kv.Response) kv.Response {
	if have == nil {
		return next
	}
	switch h := have.(type) {
	case *kv.ScanResponse:
		n := next.(*kv.ScanResponse)
		s := req.(*kv.ScanRequest)
		if h.ResumeSpan != nil {
			// The earlier range stopped early: what comes after the gap is dropped, and
			// the rest begins where it stopped.
			if s.Reverse {
				h.ResumeSpan.Key = s.Span.Key
			} else {
				h.ResumeSpan.EndKey = s.Span.EndKey
			}
			return h
		}
		h.Rows = append(h.Rows, n.Rows...)
		h.NumBytes += n.NumBytes
		if h.ResumeSpan = n.ResumeSpan; h.ResumeSpan != nil {
			if s.Reverse {
				h.ResumeSpan.Key = s.Span.Key
			} else {
				h.ResumeSpan.EndKey = s.Span.EndKey
			}
		}
	case *kv.DeleteRangeResponse:
		h.Deleted += next.(*kv.DeleteRangeResponse).Deleted
	case *kv.ResolveIntentResponse:
		h.Resolved += next.(*kv.ResolveIntentResponse).Resolved
	}
	return have
}

// sendInOrder runs a batch with limits request by request, and a scan range by range in
// its direction, until the limits are used up.
func (d *DistSender) sendInOrder(ctx context.Context, ba *kv.BatchRequest, st *state) (*kv.BatchResponse, error) {
	out := &kv.BatchResponse{Responses: make([]kv.Response, 0, len(ba.Requests))}
	keysLeft, bytesLeft := ba.MaxSpanKeys, ba.TargetBytes
	for _, req := range ba.Requests {
		if s, ok := req.(*kv.ScanRequest); ok {
			resp, err := d.scanInOrder(ctx, ba, s, &keysLeft, &bytesLeft, out, st)
			if err != nil {
				return nil, err
			}
			out.Responses = append(out.Responses, resp)
			continue
		}
		one := *ba
		one.MaxSpanKeys, one.TargetBytes = 0, 0
		one.CommandID = [16]byte{}
		one.Requests = []kv.Request{req}
		br, err := d.Send(ctx, &one)
		if err != nil {
			return nil, err
		}
		mergeHeader(out, br)
		out.Responses = append(out.Responses, br.Responses[0])
	}
	return out, nil
}

func (d *DistSender) scanInOrder(ctx context.Context, ba *kv.BatchRequest, s *kv.ScanRequest, keysLeft, bytesLeft *int64, out *kv.BatchResponse, st *state) (*kv.ScanResponse, error) {
	total := &kv.ScanResponse{}
	rest, own := s.Span, s.MaxKeys
	for {
		if (ba.MaxSpanKeys > 0 && *keysLeft <= 0) || (ba.TargetBytes > 0 && *bytesLeft <= 0) || (s.MaxKeys > 0 && own <= 0) {
			r := rest
			total.ResumeSpan = &r
			return total, nil
		}
		part, e, err := d.nextPart(ctx, rest, s.Reverse, st)
		if err != nil {
			return nil, err
		}
		c := *s
		c.Span, c.MaxKeys = part, own
		one := *ba
		one.MaxSpanKeys, one.TargetBytes = *keysLeft, *bytesLeft
		one.CommandID = [16]byte{}
		one.Requests = []kv.Request{&c}
		pst := d.newState()
		pst.past = st.past
		br, err := d.sendToRange(ctx, e, &one, &pst)
		if err != nil {
			return nil, err
		}
		mergeHeader(out, br)
		resp := br.Responses[0].(*kv.ScanResponse)
		total.Rows = append(total.Rows, resp.Rows...)
		total.NumBytes += resp.NumBytes
		*keysLeft -= int64(len(resp.Rows))
		*bytesLeft -= resp.NumBytes
		own -= int64(len(resp.Rows))
		// Without a resume span all of part was read, even if a split cut it further.
		stop := part
		if resp.ResumeSpan != nil {
			stop = *resp.ResumeSpan
		}
		switch {
		case resp.ResumeSpan != nil && s.Reverse:
			rest.EndKey = stop.EndKey
		case resp.ResumeSpan != nil:
			rest.Key = stop.Key
		case s.Reverse:
			rest.EndKey = part.Key
		default:
			rest.Key = part.EndKey
		}
		if !rest.Key.Less(rest.EndKey) {
			return total, nil
		}
		if resp.ResumeSpan != nil {
			r := rest
			total.ResumeSpan = &r
			return total, nil
		}
	}
}

// nextPart returns the first part of rest, in scan direction, that lies in one range.
func (d *DistSender) nextPart(ctx context.Context, rest keys.Span, reverse bool, st *state) (keys.Span, *entry, error) {
	part := rest
	if !reverse {
		e, err := d.rangeOf(ctx, rest.Key, st)
		if err != nil {
			return part, nil, err
		}
		if e.desc.End.Less(part.EndKey) {
			part.EndKey = e.desc.End
		}
		return part, e, nil
	}
	// The range that holds the last keys before EndKey is found by walking: meta is keyed
	// by end keys, so that there is no direct lookup of "the range before".
	e := d.cache.before(rest.EndKey)
	if e == nil {
		for at := rest.Key; ; at = e.desc.End {
			var err error
			if e, err = d.rangeOf(ctx, at, st); err != nil {
				return part, nil, err
			}
			if !e.desc.End.Less(rest.EndKey) {
				break
			}
		}
	}
	if part.Key.Less(e.desc.Start) {
		part.Key = e.desc.Start
	}
	return part, e, nil
}

// before returns the cached range that holds the keys just before end, or nil.
func (c *rangeCache) before(end keys.Key) *entry {
	list := *c.list.Load()
	i := sort.Search(len(list), func(i int) bool { return !list[i].desc.End.Less(end) })
	if i < len(list) && list[i].desc.Start.Less(end) {
		return list[i]
	}
	return nil
}
