package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
	"github.com/stretchr/testify/require"
)

// model is the plain meaning of the package: maps and loops.
type model struct {
	versions map[string]map[hlc.Timestamp]write // committed; seq unused
	intents  map[string]*modelIntent
}

type modelIntent struct {
	txn    kv.TxnMeta
	ts     hlc.Timestamp
	writes []write
}

func (m *model) newest(key string, atMost hlc.Timestamp) (ts hlc.Timestamp, w write) {
	for t, v := range m.versions[key] {
		if t.LessEq(atMost) && ts.Less(t) {
			ts, w = t, v
		}
	}
	return ts, w
}

func (i *modelIntent) visible(seq int32, skip []kv.SeqRange) *write {
	for k := len(i.writes) - 1; k >= 0; k-- {
		if w := &i.writes[k]; w.seq <= seq && !ignored(w.seq, skip) {
			return w
		}
	}
	return nil
}

type modelRead struct {
	value    string
	exists   bool
	version  hlc.Timestamp
	intent   bool
	conflict string
}

func (m *model) get(key string, ts hlc.Timestamp, o ReadOptions) (r modelRead) {
	limit := ts.Max(o.UncertaintyLimit)
	if in := m.intents[key]; in != nil {
		switch own := o.Txn != nil && in.txn.ID == o.Txn.ID; {
		case own && in.txn.Epoch == o.Txn.Epoch:
			if w := in.visible(o.Txn.Seq, o.Txn.IgnoredSeqs); w != nil {
				return modelRead{value: string(w.value), exists: !w.tombstone}
			}
		case own:
		case o.FailOnMoreRecent || in.ts.LessEq(limit):
			r.intent = true
		}
	}
	if t, _ := m.newest(key, hlc.MaxTimestamp); o.FailOnMoreRecent && ts.Less(t) {
		return modelRead{conflict: "too old " + t.String()}
	}
	if t, _ := m.newest(key, limit); ts.Less(t) {
		return modelRead{conflict: "uncertain " + t.String()}
	}
	t, w := m.newest(key, ts)
	r.version, r.value, r.exists = t, string(w.value), !t.IsEmpty() && !w.tombstone
	return r
}

func conflictOf(err error) string {
	var tooOld *kv.WriteTooOldError
	var uncertain *kv.UncertaintyError
	switch {
	case errors.As(err, &tooOld):
		return "too old " + tooOld.Actual.String()
	case errors.As(err, &uncertain):
		return "uncertain " + uncertain.Existing.String()
	case err != nil:
		return err.Error()
	}
	return ""
}

type world struct {
	t     *testing.T
	rng   *rand.Rand
	m     model
	eng   *storage.StateEngine
	other *storage.StateEngine // gets the same batches as bytes; must end up equal
	txns  []*kv.Txn
	clock int64
	stats Stats
}

func (w *world) ts(wall int64) hlc.Timestamp {
	return hlc.Timestamp{WallNanos: max(wall, 1), Logical: int32(w.rng.IntN(2))}
}

func (w *world) key() string {
	return "\x04" + string([]byte{'a', 'b', 0, 0xff}[w.rng.IntN(4)]) + string([]byte{0, 'x', 0xfe}[:w.rng.IntN(3)])
}

// write runs fn on a batch, and applies it on both engines.
func (w *world) write(fn func(b *storage.Batch)) {
	b := w.eng.NewBatch()
	defer b.Close()
	fn(b)
	require.NoError(w.t, w.eng.ApplyRepr(b.Repr(), nil))
	require.NoError(w.t, w.other.ApplyRepr(b.Repr(), nil))
}

func (w *world) txn() *kv.Txn {
	if len(w.txns) == 0 || (len(w.txns) < 4 && w.rng.IntN(4) == 0) {
		tx := &kv.Txn{TxnMeta: kv.TxnMeta{Key: keys.Key("\x04anchor"), Priority: -3}}
		for i := range tx.ID {
			tx.ID[i] = byte(w.rng.Uint32())
		}
		tx.ReadTimestamp = w.ts(w.clock)
		tx.WriteTimestamp, tx.MinTimestamp = tx.ReadTimestamp, tx.ReadTimestamp
		w.txns = append(w.txns, tx)
	}
	return w.txns[w.rng.IntN(len(w.txns))]
}

func (w *world) put() {
	key, tomb := w.key(), w.rng.IntN(4) == 0
	value := []byte(fmt.Sprintf("v%d", w.rng.IntN(1000)))
	if tomb {
		value = nil
	}
	o := PutOptions{Stats: &w.stats}
	ts := w.ts(w.clock - int64(w.rng.IntN(5)))
	var tx *kv.Txn
	if w.rng.IntN(3) > 0 {
		tx = w.txn()
		tx.Seq++
		ts = tx.WriteTimestamp
		o.Txn, o.Seq = tx, tx.Seq
	}
	if w.rng.IntN(3) == 0 {
		o.Cond = kv.Condition{Check: true, MustBeAbsent: w.rng.IntN(2) == 0, Seen: w.ts(w.clock - int64(w.rng.IntN(10)))}
	}
	var got string
	w.write(func(b *storage.Batch) {
		in, err := Put(b, keys.Key(key), ts, value, tomb, o)
		got = outcome(in != nil, err)
	})
	require.Equal(w.t, w.modelPut(key, ts, write{tombstone: tomb, value: value, seq: o.Seq}, o), got, "put %q at %s: %+v", key, ts, o)
	if tx != nil && got == "ok" && w.rng.IntN(8) == 0 { // a repetition changes nothing
		before := w.stats
		w.write(func(b *storage.Batch) {
			_, err := Put(b, keys.Key(key), ts, value, tomb, o)
			require.NoError(w.t, err)
			require.True(w.t, b.Empty())
		})
		require.Equal(w.t, before, w.stats)
	}
}

func outcome(intent bool, err error) string {
	var retry *kv.RetryError
	var failed *kv.ConditionFailedError
	switch {
	case intent:
		return "intent"
	case errors.As(err, &retry):
		return "retry"
	case errors.As(err, &failed):
		return "exists " + string(failed.Actual)
	case err != nil:
		return conflictOf(err)
	}
	return "ok"
}

func (w *world) modelPut(key string, ts hlc.Timestamp, wr write, o PutOptions) string {
	in := w.m.intents[key]
	if in != nil && (o.Txn == nil || in.txn.ID != o.Txn.ID) {
		return "intent"
	}
	own := in != nil && in.txn.Epoch == o.Txn.Epoch
	var seen *write
	if own {
		seen = in.visible(o.Seq, o.Txn.IgnoredSeqs)
	}
	newest, committed := w.m.newest(key, hlc.MaxTimestamp)
	if o.Cond.Check {
		switch {
		case seen != nil && o.Cond.MustBeAbsent && !seen.tombstone:
			return "exists " + string(seen.value)
		case seen != nil:
		case o.Cond.MustBeAbsent && !newest.IsEmpty() && !committed.tombstone:
			return "exists " + string(committed.value)
		case o.Cond.Seen.Less(newest):
			return "retry"
		}
	}
	if !own && ts.LessEq(newest) {
		return "too old " + newest.String()
	}
	switch {
	case o.Txn == nil:
		if w.m.versions[key] == nil {
			w.m.versions[key] = map[hlc.Timestamp]write{}
		}
		w.m.versions[key][ts] = wr
	case own:
		in.ts = in.ts.Max(ts)
		in.writes = append(in.writes, wr)
	default:
		w.m.intents[key] = &modelIntent{txn: o.Txn.TxnMeta, ts: ts, writes: []write{wr}}
	}
	return "ok"
}

func (w *world) readOptions() (hlc.Timestamp, ReadOptions) {
	ts := w.ts(w.clock - int64(w.rng.IntN(12)) + 2)
	var o ReadOptions
	if w.rng.IntN(2) == 0 {
		o.UncertaintyLimit = w.ts(ts.WallNanos + int64(w.rng.IntN(4)))
	}
	o.FailOnMoreRecent = w.rng.IntN(4) == 0
	if w.rng.IntN(2) == 0 {
		tx := *w.txn()
		tx.Seq -= int32(w.rng.IntN(3))
		o.Txn = &tx
	}
	return ts, o
}

func (w *world) get() {
	key := w.key()
	ts, o := w.readOptions()
	res, err := Get(w.eng, keys.Key(key), ts, o)
	got := modelRead{value: string(res.Value), exists: res.Exists, version: res.Version, intent: res.Intent != nil, conflict: conflictOf(err)}
	require.Equal(w.t, w.m.get(key, ts, o), got, "get %q at %s: %+v", key, ts, o)
}

func (w *world) allKeys() []string {
	seen := map[string]bool{}
	for k := range w.m.versions {
		seen[k] = true
	}
	for k := range w.m.intents {
		seen[k] = true
	}
	var out []string
	for k := range seen {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (w *world) scan() {
	a, b := w.key(), w.key()
	if a > b {
		a, b = b, a
	}
	span := keys.Span{Key: keys.Key(a), EndKey: keys.Key(b)}
	if w.rng.IntN(3) == 0 {
		span = keys.Span{Key: keys.Key("\x04"), EndKey: keys.Key("\x05")}
	}
	if !span.Key.Less(span.EndKey) {
		return
	}
	ts, ro := w.readOptions()
	o := ScanOptions{ReadOptions: ro, Reverse: w.rng.IntN(2) == 0, MaxKeys: int64(w.rng.IntN(4)), SkipLocked: w.rng.IntN(4) == 0}
	var want, got []string
	conflict := hlc.Timestamp{}
	names := w.allKeys()
	if o.Reverse {
		slices.Reverse(names)
	}
	n := int64(0)
	for _, k := range names {
		if !span.Contains(keys.Key(k)) || (o.MaxKeys > 0 && n >= o.MaxKeys) {
			continue
		}
		r := w.m.get(k, ts, ro)
		if r.conflict != "" {
			n++
			tt, _ := w.m.newest(k, hlc.MaxTimestamp)
			if !ro.FailOnMoreRecent {
				tt, _ = w.m.newest(k, ts.Max(ro.UncertaintyLimit))
			}
			conflict.Forward(tt)
			continue
		}
		if r.intent {
			want = append(want, "intent "+k)
			if o.SkipLocked {
				continue
			}
		}
		if r.exists {
			want = append(want, fmt.Sprintf("%q=%s@%s", k, r.value, r.version))
		}
		if r.exists || r.intent {
			n++
		}
	}
	// The span is read in pieces: resuming must lose and repeat nothing.
	var intents []string
	res, err := Scan(w.eng, span, ts, o)
	if !conflict.IsEmpty() {
		require.ErrorContains(w.t, err, "version", "%+v", o)
		var tooOld *kv.WriteTooOldError
		var uncertain *kv.UncertaintyError
		if errors.As(err, &tooOld) {
			require.Equal(w.t, conflict, tooOld.Actual)
		} else {
			require.True(w.t, errors.As(err, &uncertain))
			require.Equal(w.t, conflict, uncertain.Existing)
		}
		return
	}
	require.NoError(w.t, err)
	for _, kv := range res.Rows {
		got = append(got, fmt.Sprintf("%q=%s@%s", string(kv.Key), kv.Value, kv.Version))
	}
	for _, in := range res.Intents {
		intents = append(intents, "intent "+string(in.Key))
	}
	slices.Sort(want)
	all := append(got, intents...)
	slices.Sort(all)
	require.Equal(w.t, want, all, "scan %s at %s: %+v", span, ts, o)
	if o.MaxKeys == 0 {
		require.Nil(w.t, res.Resume)
	}
	if o.MaxKeys > 0 && n >= o.MaxKeys {
		require.NotNil(w.t, res.Resume)
		for _, k := range names { // what is left is what was not looked at
			if res.Resume.Contains(keys.Key(k)) {
				require.NotContains(w.t, all, "intent "+k)
			}
		}
	}
}

func (w *world) finish() {
	if len(w.txns) == 0 {
		return
	}
	i := w.rng.IntN(len(w.txns))
	tx := w.txns[i]
	res := Resolution{Txn: tx.TxnMeta, IgnoredSeqs: tx.IgnoredSeqs, Stats: &w.stats}
	switch w.rng.IntN(5) {
	case 0:
		res.Status = kv.TxnAborted
	case 1, 2:
		res.Status = kv.TxnCommitted
		for k, in := range w.m.intents { // above every intent and every read of others
			if in.txn.ID == tx.ID {
				t, _ := w.m.newest(k, hlc.MaxTimestamp)
				tx.WriteTimestamp.Forward(in.ts.Max(t.Next()))
			}
		}
		res.Txn.WriteTimestamp = tx.WriteTimestamp
	default:
		tx.WriteTimestamp.Forward(w.ts(w.clock))
		res.Txn.WriteTimestamp = tx.WriteTimestamp
	}
	byRange := w.rng.IntN(2) == 0
	w.write(func(b *storage.Batch) {
		if byRange {
			_, resume, err := ResolveIntentRange(b, keys.Span{Key: keys.Key("\x04"), EndKey: keys.Key("\x05")}, res, 0)
			require.NoError(w.t, err)
			require.Nil(w.t, resume)
			return
		}
		for _, k := range w.allKeys() {
			_, err := ResolveIntent(b, keys.Key(k), res)
			require.NoError(w.t, err)
		}
	})
	for k, in := range w.m.intents {
		if in.txn.ID != tx.ID {
			continue
		}
		var kept []write
		for _, wr := range in.writes {
			if !ignored(wr.seq, tx.IgnoredSeqs) {
				kept = append(kept, wr)
			}
		}
		switch {
		case res.Status == kv.TxnAborted || in.txn.Epoch < tx.Epoch || len(kept) == 0:
			delete(w.m.intents, k)
		case res.Status == kv.TxnCommitted:
			if w.m.versions[k] == nil {
				w.m.versions[k] = map[hlc.Timestamp]write{}
			}
			w.m.versions[k][tx.WriteTimestamp] = kept[len(kept)-1]
			delete(w.m.intents, k)
		default:
			in.ts = in.ts.Max(tx.WriteTimestamp)
			in.writes = kept
		}
	}
	if res.Status != kv.TxnPending {
		w.txns = slices.Delete(w.txns, i, i+1)
	}
}

func (w *world) savepointOrRestart() {
	tx := w.txn()
	if w.rng.IntN(3) == 0 {
		tx.Epoch++
		tx.Seq, tx.IgnoredSeqs = 0, nil
		tx.ReadTimestamp = w.ts(w.clock)
		tx.WriteTimestamp.Forward(tx.ReadTimestamp)
		return
	}
	if tx.Seq > 0 {
		tx.IgnoredSeqs = append(tx.IgnoredSeqs, kv.SeqRange{Start: 1 + int32(w.rng.IntN(int(tx.Seq))), End: tx.Seq})
		tx.Seq++
	}
}

func (w *world) refresh() {
	from := w.ts(w.clock - int64(w.rng.IntN(10)))
	to := w.ts(from.WallNanos + int64(w.rng.IntN(6)))
	span := keys.Span{Key: keys.Key("\x04"), EndKey: keys.Key("\x05")}
	if w.rng.IntN(2) == 0 {
		span = keys.Span{Key: keys.Key(w.key())}
	}
	tx := w.txn()
	want := false
	for _, k := range w.allKeys() {
		if !span.Contains(keys.Key(k)) {
			continue
		}
		for t := range w.m.versions[k] {
			want = want || (from.Less(t) && t.LessEq(to))
		}
		in := w.m.intents[k]
		want = want || (in != nil && in.txn.ID != tx.ID && from.Less(in.ts) && in.ts.LessEq(to))
	}
	got, err := NewerVersionExists(w.eng, span, from, to, tx)
	require.NoError(w.t, err)
	require.Equal(w.t, want, got != nil, "refresh %s from %s to %s: %+v", span, from, to, got)
}

func (w *world) gc() {
	threshold := w.ts(w.clock - 10)
	span := keys.Span{Key: keys.Key("\x04"), EndKey: keys.Key("\x05")}
	names, resume, err := FindGarbage(w.eng, span, threshold, 0)
	require.NoError(w.t, err)
	require.Nil(w.t, resume)
	if w.rng.IntN(3) == 0 { // names may be wrong in any way
		for i := range names {
			names[i].At = w.ts(w.clock)
		}
	}
	w.write(func(b *storage.Batch) {
		_, err := GCKeys(b, names, threshold, &w.stats)
		require.NoError(w.t, err)
	})
	for k, vs := range w.m.versions {
		top, v := w.m.newest(k, threshold)
		for t := range vs {
			if t.Less(top) || (t == top && v.tombstone) {
				delete(vs, t)
			}
		}
	}
	names, _, err = FindGarbage(w.eng, span, threshold, 0)
	require.NoError(w.t, err)
	require.Empty(w.t, names)
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), clock: 100,
				m: model{versions: map[string]map[hlc.Timestamp]write{}, intents: map[string]*modelIntent{}}}
			open := func() *storage.StateEngine {
				s, err := storage.OpenState(storage.StateOptions{Dir: "/s", FS: storage.MemFS(), Small: true})
				require.NoError(t, err)
				return s
			}
			w.eng, w.other = open(), open()
			defer w.eng.Close()
			defer w.other.Close()
			for range 600 {
				w.clock += int64(w.rng.IntN(3))
				switch w.rng.IntN(24) {
				case 0:
					w.savepointOrRestart()
				case 1, 2, 3:
					w.finish()
				case 4, 5:
					w.refresh()
				case 6:
					w.gc()
				case 7:
					if w.rng.IntN(4) == 0 {
						require.NoError(t, w.eng.Flush())
					}
				case 8, 9, 10, 11, 12, 13, 14, 15:
					w.put()
				case 16, 17, 18, 19:
					w.scan()
				default:
					w.get()
				}
			}
			span := keys.Span{Key: keys.Key("\x04"), EndKey: keys.Key("\x05")}
			stats, err := ComputeStats(w.eng, span)
			require.NoError(t, err)
			require.Equal(t, stats, w.stats)
			d1, err := Digest(w.eng, span)
			require.NoError(t, err)
			d2, err := Digest(w.other, span)
			require.NoError(t, err)
			require.True(t, bytes.Equal(d1[:], d2[:]))
			ins, _, err := ScanIntents(w.eng, span, 0)
			require.NoError(t, err)
			require.Len(t, ins, len(w.m.intents))
			w.write(func(b *storage.Batch) { require.NoError(t, b.SetVersion(keys.Key("\x04z"), w.ts(1), kindValue, nil)) })
			d3, err := Digest(w.eng, span)
			require.NoError(t, err)
			require.NotEqual(t, d1, d3)
		})
	}
}
