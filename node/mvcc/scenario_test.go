package mvcc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
)

// TestScenarios runs the files in testdata. Each line of a "run" block is one operation,
// with arguments name=value; timestamps are small integers. "dump" prints what is stored.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			t.Skip()
		}
		s, err := storage.OpenState(storage.StateOptions{Dir: "/s", FS: storage.MemFS(), Small: true})
		require.NoError(t, err)
		defer s.Close()
		sc := &scenario{t: t, eng: s, txns: map[string]*kv.Txn{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				if r := sc.op(strings.Fields(line)); r != "" {
					fmt.Fprintln(&out, r)
				}
			}
			return out.String()
		})
	})
}

type scenario struct {
	t    *testing.T
	eng  *storage.StateEngine
	txns map[string]*kv.Txn
	args map[string]string
}

func (s *scenario) ts(name string) hlc.Timestamp {
	if s.args[name] == "" {
		return hlc.Timestamp{}
	}
	return hlc.Timestamp{WallNanos: s.num(name)}
}

func (s *scenario) num(name string) int64 {
	if s.args[name] == "" {
		return 0
	}
	n, err := strconv.ParseInt(s.args[name], 10, 64)
	require.NoError(s.t, err)
	return n
}

func (s *scenario) has(name string) bool { _, ok := s.args[name]; return ok }

func (s *scenario) key() keys.Key { return keys.Key("\x04" + s.args["k"]) }

func (s *scenario) span() keys.Span {
	if s.has("k") {
		return keys.Span{Key: s.key()}
	}
	return keys.Span{Key: keys.Key("\x04" + s.args["from"]), EndKey: keys.Key("\x04" + s.args["to"])}
}

// txn is the transaction that t= names, at sequence number seq= if given.
func (s *scenario) txn() *kv.Txn {
	name := s.args["t"]
	if name == "" {
		return nil
	}
	tx := s.txns[name]
	require.NotNil(s.t, tx, "unknown transaction %s", name)
	c := *tx
	if s.has("seq") {
		c.Seq = int32(s.num("seq"))
	}
	if s.has("epoch") {
		c.Epoch = int32(s.num("epoch"))
	}
	if s.has("ignore") {
		a, b, _ := strings.Cut(s.args["ignore"], "-")
		lo, _ := strconv.Atoi(a)
		hi, _ := strconv.Atoi(b)
		c.IgnoredSeqs = []kv.SeqRange{{Start: int32(lo), End: int32(hi)}}
	}
	return &c
}

func (s *scenario) begin() string {
	tx := &kv.Txn{TxnMeta: kv.TxnMeta{WriteTimestamp: s.ts("ts"), MinTimestamp: s.ts("ts")}, ReadTimestamp: s.ts("ts")}
	copy(tx.ID[:], s.args["t"])
	s.txns[s.args["t"]] = tx
	return ""
}

func (s *scenario) op(f []string) string {
	s.args = map[string]string{}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		s.args[k] = v
	}
	if f[0] == "begin" {
		return s.begin()
	}
	ro := ReadOptions{Txn: s.txn(), UncertaintyLimit: s.ts("limit"), FailOnMoreRecent: s.has("lock")}
	switch f[0] {
	case "put", "del":
		o := PutOptions{Txn: s.txn(), Seq: int32(s.num("seq")), OnePhase: s.has("onephase")}
		o.Cond = kv.Condition{Check: s.has("seen"), Seen: s.ts("seen"), MustBeAbsent: s.has("absent")}
		return s.write(func(b *storage.Batch) (string, error) {
			in, err := Put(b, s.key(), s.ts("ts"), []byte(s.args["v"]), f[0] == "del", o)
			if in != nil {
				return f[0] + ": " + s.intent(*in), err
			}
			return "", err
		})
	case "get":
		r, err := Get(s.eng, s.key(), s.ts("ts"), ro)
		if err != nil {
			return fmt.Sprintf("get: %T %v", err, clean(err))
		}
		out := fmt.Sprintf("get: %s", show(r.Value, r.Exists, r.Version))
		if r.Intent != nil {
			out += " behind " + s.intent(*r.Intent)
		}
		return out
	case "scan":
		r, err := Scan(s.eng, s.span(), s.ts("ts"), ScanOptions{ReadOptions: ro, Reverse: s.has("reverse"), MaxKeys: s.num("max"),
			TargetBytes: s.num("bytes"), SkipLocked: s.has("skiplocked")})
		if err != nil {
			return fmt.Sprintf("scan: %T %v", err, clean(err))
		}
		out := "scan:"
		for _, kv := range r.Rows {
			out += fmt.Sprintf(" %s=%s", kv.Key[1:], show(kv.Value, true, kv.Version))
		}
		for _, in := range r.Intents {
			out += " | " + s.intent(in)
		}
		if r.Resume != nil {
			out += fmt.Sprintf(" | resume %s", clean(r.Resume))
		}
		return out
	case "resolve":
		tx := s.txn()
		if s.has("ts") {
			tx.WriteTimestamp = s.ts("ts")
		}
		status := map[string]kv.TxnStatus{"commit": kv.TxnCommitted, "abort": kv.TxnAborted, "push": kv.TxnPending}[s.args["as"]]
		return s.write(func(b *storage.Batch) (string, error) {
			n, resume, err := ResolveIntentRange(b, s.span(), Resolution{Txn: tx.TxnMeta, Status: status, IgnoredSeqs: tx.IgnoredSeqs}, s.num("max"))
			if resume != nil {
				return fmt.Sprintf("resolve: %d | resume %s", n, clean(resume)), err
			}
			return fmt.Sprintf("resolve: %d", n), err
		})
	case "refresh":
		n, err := NewerVersionExists(s.eng, s.span(), s.ts("after"), s.ts("ts"), s.txn())
		switch {
		case err != nil:
			return "refresh: " + clean(err)
		case n == nil:
			return "refresh: ok"
		case n.Intent != nil:
			return "refresh: " + s.intent(*n.Intent)
		}
		return fmt.Sprintf("refresh: %s has a version at %d", n.Key[1:], n.Version.WallNanos)
	case "gc":
		return s.write(func(b *storage.Batch) (string, error) {
			names, _, err := FindGarbage(s.eng, s.span(), s.ts("ts"), 0)
			if err != nil {
				return "", err
			}
			n, err := GCKeys(b, names, s.ts("ts"), nil)
			return fmt.Sprintf("gc: %d versions of %d keys", n, len(names)), err
		})
	case "dump":
		return s.dump()
	}
	s.t.Fatalf("unknown operation %q", f[0])
	return ""
}

func show(v []byte, exists bool, ts hlc.Timestamp) string {
	switch {
	case !exists && ts.IsEmpty():
		return "-"
	case !exists:
		return fmt.Sprintf("deleted@%d", ts.WallNanos)
	case ts.IsEmpty():
		return string(v) + "@own"
	}
	return fmt.Sprintf("%s@%d", v, ts.WallNanos)
}

func (s *scenario) intent(in Intent) string {
	return fmt.Sprintf("intent on %s of %s@%d seq %d epoch %d", in.Key[1:], strings.TrimRight(string(in.Txn.ID[:]), "\x00"), in.Txn.WriteTimestamp.WallNanos, in.Txn.Seq, in.Txn.Epoch)
}

// clean makes keys and timestamps readable.
func clean(v any) string {
	return strings.NewReplacer(`\x04`, "", "0.00000000", "", "0.0000000", "", ",0", "").Replace(fmt.Sprint(v))
}

func (s *scenario) write(fn func(b *storage.Batch) (string, error)) string {
	b := s.eng.NewBatch()
	defer b.Close()
	out, err := fn(b)
	if err != nil {
		require.True(s.t, b.Empty(), "a failed operation left writes")
		var named interface{ Error() string } = err
		if u := errors.Unwrap(err); u != nil {
			named = u
		}
		return fmt.Sprintf("%T: %s", named, clean(err))
	}
	require.NoError(s.t, s.eng.Commit(b))
	return out
}

func (s *scenario) dump() string {
	var out []string
	it, err := s.eng.NewIter(storage.IterOptions{Lower: keys.TableMin})
	require.NoError(s.t, err)
	for ok := it.First(); ok; ok = it.Next() {
		b, err := it.Value()
		require.NoError(s.t, err)
		if it.Version().IsEmpty() {
			var in intent
			require.NoError(s.t, decodeIntent(b, &in))
			line := s.intent(Intent{Key: it.Key(), Txn: in.txn})
			for _, w := range in.history {
				line += fmt.Sprintf(", seq %d %s", w.seq, show(w.value, !w.tombstone, hlc.Timestamp{WallNanos: -1}))
			}
			out = append(out, strings.ReplaceAll(line, "@-1", ""))
			continue
		}
		v, live, err := decodeValue(b)
		require.NoError(s.t, err)
		out = append(out, fmt.Sprintf("%s: %s", it.Key()[1:], show(v, live, it.Version())))
	}
	require.NoError(s.t, it.Close())
	return strings.Join(out, "\n")
}
