package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/raftnet"
	"github.com/atolldb/atoll/node/replica"
	"github.com/atolldb/atoll/node/replica/group"
	"github.com/atolldb/atoll/topology"
)

// A witness (SAFETY S22) votes and keeps the log's tail. What rests on it is this: of the voters
// that hold data, those in two failure domains have every entry that some witness has dropped. So
// when one domain is lost, either a data replica that is left has an entry that was acknowledged, or
// each witness can still bring one up to date. Three things keep it so. A witness drops only what
// the leader says such voters have, in their logs, synced (tail). A change of voters waits until the
// data voters that stay have all that was committed when it began (awaitCopies): without the voter
// that goes, what the witnesses dropped on its account would be in fewer domains. And where there
// are several witnesses, one starts late in the log only under the same condition (mayStartLate).
//
// A data replica that is away holds the log of the witnesses up. Beyond Config.WitnessLogBytes a
// witness drops more, and the range is reported as at risk.

const (
	// softTail is how much log a witness keeps for any data voter that is behind; beyond it the
	// entries go that data voters in two failure domains have.
	softTail = 64 << 20
	// copiesWait bounds how long a change of voters waits for the data voters that stay.
	copiesWait = 5 * time.Second
	// tailLife is for how long a leader takes a witness at its word: it says more every few seconds
	// as long as its log is long, or has been cut short.
	tailLife = time.Minute
)

// tail is what a witness said of its log.
type tail struct {
	dropped uint64 // the last index before its first entry, if it had to cut its log short; else 0
	at      time.Time
}

// copiesOf is what the leader knows of a range's data voters.
type copiesOf struct {
	group.Members
	all  uint64 // every data voter has the log up to there
	two  uint64 // data voters in two failure domains do; where there is but one, all of its own do
	tier topology.Tier
}

// copies returns where the data of a range that this node leads is, not counting the replica
// without (0: all count), nor those that are quarantined. For a range without witnesses it says
// nothing but that.
func (s *Store) copies(r *rep, without keys.ReplicaID) (copiesOf, error) {
	if _, leads := r.leads(); !leads {
		return copiesOf{}, fmt.Errorf("%w: the lease of range %d is gone", replica.ErrRejected, r.rangeID)
	}
	if s.rules.Load() == nil {
		if m, ok, err := r.group.Load().Members(); err != nil || !ok || m.Witnesses > 0 {
			return copiesOf{}, errors.Join(err, fmt.Errorf("%w: range %d: this node does not know the placement rules yet", replica.ErrRejected, r.rangeID))
		}
	}
	return s.copiesLed(r, without)
}

// copiesLed is copies on a leader that may not have the lease, nor know the rules: it takes zones for
// failure domains then.
func (s *Store) copiesLed(r *rep, without keys.ReplicaID) (c copiesOf, err error) {
	m, ok, err := r.group.Load().Members()
	c.Members = m
	rules, d := s.rules.Load(), r.desc()
	switch {
	case err != nil || ok && m.Witnesses == 0:
		return c, err // nothing rests on the rest
	case !ok || d == nil:
		return c, fmt.Errorf("%w: this node leads range %d no more", replica.ErrRejected, r.rangeID)
	case rules == nil:
		rules = &ruleSet{}
	}
	places := Places(s.cfg.Directory.All())
	c.tier = rules.list(s.cfg.Voters, places)[rules.at(d.Start)].Survive
	distrusted := map[keys.ReplicaID]bool{without: true}
	for _, rd := range d.Replicas {
		distrusted[rd.Replica] = distrusted[rd.Replica] || rd.Quarantine != kv.Trusted
	}
	c.all = m.Commit
	best := map[string]uint64{} // by failure domain
	for _, v := range m.Data {
		if distrusted[v.Replica] {
			continue
		}
		c.all = min(c.all, v.Index)
		domain := domainOf(v.Node, places[v.Node], c.tier)
		best[domain] = max(best[domain], v.Index)
	}
	switch len(best) {
	case 0:
		c.all, c.two = 0, 0
	case 1:
		c.two = c.all
	default:
		c.two = min(m.Commit, second(best))
	}
	return c, nil
}

func domainOf(node keys.NodeID, at topology.Locality, tier topology.Tier) string {
	switch tier {
	case topology.ZoneTier:
		return at.Zone
	case topology.RegionTier:
		return at.Region
	}
	return fmt.Sprint(node)
}

// second returns the second highest of the values.
func second(of map[string]uint64) uint64 {
	var first, second uint64
	for _, v := range of {
		if v > first {
			v, first = first, v
		}
		second = max(second, v)
	}
	return second
}

// awaitCopies waits until a change of voters can't strand what the witnesses of a range have
// dropped. joins: the replica gets its vote; else it loses it. REQUIRES: S22.
func (s *Store) awaitCopies(ctx context.Context, r *rep, rd kv.ReplicaDescriptor, joins bool) error {
	without := rd.Replica
	if joins {
		without = 0
	}
	c, err := s.copies(r, without)
	if err != nil || c.Witnesses == 0 {
		return err
	}
	if err := c.staysSolid(r, rd, joins); err != nil {
		return err
	}
	bar := c.Commit
	ctx, cancel := context.WithTimeout(ctx, copiesWait)
	defer cancel()
	for {
		has := c.two
		if joins && rd.Type.HoldsData() {
			// It may be the second domain that holds data, which then must have what the first has.
			has = r.group.Load().Peer(raftnet.ServerID(rd.Node, rd.Replica)).Match
		}
		if has >= bar {
			return nil
		}
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: the vote of node %d in %s can't change now: without it, the witnesses' log would have to stand for entries up to %d of which data replicas in two failure domains (%ss) have those up to %d only (SAFETY S22); bring the data replicas back that are away, or let them be replaced",
				replica.ErrRejected, rd.Node, r.desc(), bar, c.tier, has)
		}
		if c, err = s.copies(r, without); err != nil {
			return err
		}
	}
}

// staysSolid refuses a change of votes after which witnesses alone were a quorum: then nobody with data
// need have what is acknowledged.
func (c *copiesOf) staysSolid(r *rep, rd kv.ReplicaDescriptor, joins bool) error {
	data, witnesses := len(c.Data), c.Witnesses-c.NewWitnesses
	hollow := func() bool { return data == 0 || witnesses >= (data+witnesses)/2+1 }
	before := hollow()
	switch by := map[bool]int{true: 1, false: -1}[joins]; {
	case rd.Type.HoldsData():
		data += by
	default:
		witnesses += by
	}
	if !before && hollow() {
		return fmt.Errorf("%w: with this change of node %d's vote, %d voters of %s would have data and %d would be witnesses: witnesses alone would be a quorum (SAFETY S22); add a voter with data first",
			replica.ErrRejected, rd.Node, data, r.desc(), witnesses)
	}
	return nil
}

// mayStartLate refuses a witness a snapshot that takes the place of entries which a fellow witness
// may be needed for: of two witnesses the one without them could be elected. A single witness lacks
// them only because a quorum without it has them, which is data voters alone.
func (r *rep) mayStartLate(o group.Outgoing) error {
	if !o.Witness {
		return nil
	}
	if m, _, err := r.group.Load().Members(); err != nil || m.Witnesses-m.NewWitnesses < 2 {
		return err
	}
	// The leader may need the witness's vote to get the lease.
	c, err := r.s.copiesLed(r, 0)
	if err != nil {
		return err
	}
	if c.two < o.State.Applied.Index {
		return fmt.Errorf("store: range %d: the witness %s waits for its snapshot until data replicas in two failure domains have the log up to %d; they have it up to %d",
			r.rangeID, o.To, o.State.Applied.Index, c.two)
	}
	return nil
}

// leadNoMore hands the leadership of a term away: a witness was elected because its log was ahead of
// the data replicas' that are left, and by now it has brought them up to date. It tries until somebody
// else leads: a data replica may be the next to come back.
func (s *Store) leadNoMore(r *rep, term uint64) {
	wait, since := 2*time.Millisecond, time.Now()
	complain := since.Add(5 * time.Second)
	for {
		if now, leads := r.group.Load().Leading(); !leads || now != term || r.isClosed() {
			s.logger.Info("a witness leads its range no more", "range", r.rangeID, "term", term, "after", time.Since(since))
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		err := s.moveLease(ctx, r)
		cancel()
		if err != nil && time.Now().After(complain) {
			complain = time.Now().Add(time.Minute)
			s.logger.Warn("a witness leads its range and no data replica takes it over; nothing is served until one is back and has caught up from the witness's log",
				"range", r.rangeID, "replica", r.id, "since", since, "err", err)
		}
		if !s.sleep(wait) {
			return
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// Question and answer about a witness's log: version, range, replica, dropped; version, all, two.
func encodeTail(id keys.RangeID, rep keys.ReplicaID, dropped uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(id))
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(rep)), dropped)
}

func decodeTail(b []byte) (id keys.RangeID, rep keys.ReplicaID, dropped uint64, err error) {
	if len(b) != 25 || b[0] != recordVersion {
		return 0, 0, 0, fmt.Errorf("store: question of %d bytes about a witness's log has not version %d", len(b), recordVersion)
	}
	return keys.RangeID(binary.BigEndian.Uint64(b[1:])), keys.ReplicaID(binary.BigEndian.Uint64(b[9:])), binary.BigEndian.Uint64(b[17:]), nil
}

func encodeCopies(all, two uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{recordVersion}, all), two)
}

func decodeCopies(b []byte) (all, two uint64, err error) {
	if len(b) != 17 || b[0] != recordVersion {
		return 0, 0, fmt.Errorf("store: answer of %d bytes about a witness's log has not version %d", len(b), recordVersion)
	}
	return binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), nil
}

// onTail tells a witness what the data voters have. That stays true when leadership has moved on: what
// a data voter has acknowledged, and is committed, it keeps.
func (s *Store) onTail(_ context.Context, _ keys.NodeID, payload []byte) ([]byte, error) {
	id, rep, dropped, err := decodeTail(payload)
	if err != nil {
		return nil, err
	}
	r := s.get(id)
	if r == nil || r.group.Load() == nil || r.desc() == nil {
		return nil, fmt.Errorf("store: node %d has no replica of range %d that could lead it", s.cfg.Node, id)
	}
	c, err := s.copies(r, 0)
	if err != nil {
		return nil, err
	}
	r.tails.Store(rep, tail{dropped: dropped, at: time.Now()})
	return encodeCopies(c.all, c.two), nil
}

// truncateWitness drops the front of a witness's log, as far as its leader says that it is not needed.
func (s *Store) truncateWitness(ctx context.Context, r *rep) error {
	g := r.group.Load()
	st, err := g.LogStatus()
	leader := r.trans.Leader()
	if err != nil || st.Last == 0 || leader == 0 || leader == s.cfg.Node {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	b, err := s.cfg.Network.Call(ctx, leader, raftnet.Data, raftnet.MethodReplicaTail, encodeTail(r.rangeID, r.id, r.saysDropped(&st)))
	if err != nil {
		return err
	}
	all, two, err := decodeCopies(b)
	if err != nil {
		return err
	}
	upTo := all
	if st.Bytes > softTail || s.cfg.ShortLog > 0 {
		upTo = max(upTo, two)
	}
	if s.cfg.PlantShortTail {
		upTo = st.Durable
	}
	if forced := s.overTheLimit(&st); forced > upTo {
		upTo = forced
		r.cutShort.Store(true)
		s.metrics.forcedTails.Inc()
		s.logger.Error("a witness's log has reached its limit: entries go that data replicas in one failure domain only have. The loss of that domain would lose acknowledged writes. Bring the data replicas back that are away, or give this node more disk",
			"range", r.rangeID, "replica", r.id, "bytes", st.Bytes, "limit", s.tailLimit(), "index", forced, "held", two)
	} else if st.First-1 <= two {
		r.cutShort.Store(false)
	}
	if _, err := g.TruncateWitness(upTo); err != nil {
		return err
	}
	s.metrics.truncations.Inc()
	return nil
}

// saysDropped is what a witness tells its leader about its log: nothing, unless it had to cut it short.
func (r *rep) saysDropped(st *group.LogStatus) uint64 {
	if !r.cutShort.Load() {
		return 0
	}
	return st.First - 1
}

// tailLimit is how many bytes a witness's log may have: few once the disk is nearly full, since a
// witness that can't write stops the range.
func (s *Store) tailLimit() int64 {
	if s.full.Load() {
		return min(s.cfg.WitnessLogBytes, softTail)
	}
	return s.cfg.WitnessLogBytes
}

// overTheLimit returns the index up to which the log must go so that three quarters of its limit are
// left; 0 if it is within.
func (s *Store) overTheLimit(st *group.LogStatus) uint64 {
	limit := s.tailLimit()
	if st.Bytes <= limit {
		return 0
	}
	n := float64(st.Last-st.First+1) * float64(st.Bytes-limit/4*3) / float64(st.Bytes)
	return st.First + uint64(n)
}

// findRisks looks for ranges, led by this node, of which a witness has dropped more than it should.
func (s *Store) findRisks() []Finding {
	var found []Finding
	for _, r := range s.all() {
		reason := s.riskOf(r)
		if reason != "" && !r.atRisk.Load() {
			s.logger.Error("a range is at risk", "range", r.rangeID, "reason", reason)
		}
		r.atRisk.Store(reason != "")
		if reason != "" && len(found) < maxFindings {
			found = append(found, Finding{Range: r.rangeID, Stuck: true, Reason: reason})
		}
	}
	return found
}

// riskOf says what is at risk about a range; empty if nothing is.
func (s *Store) riskOf(r *rep) string {
	var worst uint64
	r.tails.Range(func(id, v any) bool {
		if t := v.(tail); time.Since(t.at) > tailLife {
			r.tails.Delete(id)
		} else {
			worst = max(worst, t.dropped)
		}
		return true
	})
	if worst == 0 || r.desc() == nil {
		return ""
	}
	c, err := s.copies(r, 0)
	if err != nil || c.two >= worst {
		return ""
	}
	return fmt.Sprintf("it is at risk: a witness's log had to be cut, and the newest writes are in one failure domain (%s) only; its loss would lose them until a data replica elsewhere has caught up", c.tier)
}
