package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func appliedKey(rng int) keys.Key { return keys.RangeLocal(keys.RangeID(rng), "applied") }

func dataKey(rng int, i uint64) keys.Key {
	return binary.BigEndian.AppendUint64(keys.TablePrefix(uint32(rng)), i)
}

func readUint(t *testing.T, r Reader, key keys.Key) uint64 {
	t.Helper()
	v, ok, err := r.Get(key)
	require.NoError(t, err)
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// A crash leaves the state engine a prefix of the batches, at least up to the last flush,
// and each batch whole: the applied index always tells which data is there (S16). Ingested
// tables overlap the memtable, and batches larger than a memtable take another way in.
func TestStateCrashKeepsPrefix(t *testing.T) {
	const ranges, rounds, steps = 3, 10, 60
	for seed := range uint64(crashSeeds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := MemFS()
		s := openState(t, fs)
		var applied, durable [ranges]uint64
		var lost uint64
		for range rounds {
			for range steps {
				r := rng.IntN(ranges)
				switch n := rng.IntN(20); {
				case n == 0:
					require.NoError(t, s.Flush())
					durable = applied
				case n == 1:
					ingest(t, s, r, &applied[r])
					durable[r] = applied[r] // its own table; the others' order is not affected
				default:
					applied[r]++
					size := rng.IntN(2000)
					if n == 2 {
						size = 400 << 10
					}
					b := s.NewWriteBatch()
					require.NoError(t, b.SetVersion(dataKey(r, applied[r]), ts(int64(applied[r]), 0), 'v', make([]byte, size)))
					if applied[r] > 50 {
						require.NoError(t, b.DeleteRange(dataKey(r, 0), dataKey(r, applied[r]-50)))
					}
					require.NoError(t, s.ApplyRepr(b.Repr(), func(w Writer) error {
						return w.Set(appliedKey(r), binary.BigEndian.AppendUint64(nil, applied[r]))
					}))
					require.NoError(t, b.Close())
				}
				d, _, err := s.DurableGet(appliedKey(r))
				require.NoError(t, err)
				if len(d) > 0 {
					require.GreaterOrEqual(t, binary.BigEndian.Uint64(d), durable[r])
				}
			}
			var promised [ranges]uint64
			for r := range ranges {
				if d, ok, err := s.DurableGet(appliedKey(r)); err == nil && ok {
					promised[r] = binary.BigEndian.Uint64(d)
				}
			}
			crashed := CrashClone(fs, rng.IntN(101), rng)
			require.NoError(t, s.CloseWithoutFlush())
			fs = crashed
			s = openState(t, fs)
			for r := range ranges {
				got := readUint(t, s, appliedKey(r))
				require.GreaterOrEqual(t, got, promised[r], "seed %d: range %d lost what DurableGet had shown", seed, r)
				require.LessOrEqual(t, got, applied[r])
				lost += applied[r] - got
				it, err := s.NewIter(IterOptions{Lower: dataKey(r, 0), Upper: dataKey(r+1, 0)})
				require.NoError(t, err)
				want := uint64(1)
				if got > 50 {
					want = got - 50
				}
				for ok := it.First(); ok; ok = it.Next() {
					require.True(t, it.Key().Equal(dataKey(r, want)), "seed %d range %d applied %d: key %s, want number %d", seed, r, got, it.Key(), want)
					want++
				}
				require.NoError(t, it.Close())
				require.Equal(t, got+1, want, "seed %d range %d", seed, r)
				applied[r], durable[r] = got, got
			}
		}
		require.NotZero(t, lost, "no crash lost anything: the test tests nothing")
		require.NoError(t, s.Close())
	}
}

// ingest replaces a range's state by a table, as a snapshot does.
func ingest(t *testing.T, s *StateEngine, r int, applied *uint64) {
	*applied += 3
	local, err := s.NewTable(fmt.Sprintf("local-%d-%d", r, *applied))
	require.NoError(t, err)
	data, err := s.NewTable(fmt.Sprintf("data-%d-%d", r, *applied))
	require.NoError(t, err)
	require.NoError(t, local.Set(EncodeKey(nil, appliedKey(r)), binary.BigEndian.AppendUint64(nil, *applied)))
	require.NoError(t, data.DeleteRange(dataKey(r, 0), dataKey(r+1, 0)))
	first := uint64(1)
	if *applied > 50 {
		first = *applied - 50
	}
	for i := first; i <= *applied; i++ {
		require.NoError(t, data.Set(EncodeVersion(nil, dataKey(r, i), ts(int64(i), 0)), []byte("vx")))
	}
	require.NoError(t, local.Finish())
	require.NoError(t, data.Finish())
	require.NoError(t, s.Ingest(local, data))
	local.Discard()
	data.Discard()
	require.Equal(t, *applied, readUint(t, s, appliedKey(r)))
}

func entry(rng int, i, term uint64) *raft.Log {
	return &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte(fmt.Sprintf("%d/%d/%d", rng, i, term))}
}

// Entries, terms and votes that a call acknowledged survive a crash at any moment, with a
// torn tail; logs have no gaps; replay from them rebuilds the state, because truncation
// stays at or below the durable applied index (S15, S16).
func TestLogCrashAndReplay(t *testing.T) {
	const ranges = 4
	for seed := range uint64(2 * crashSeeds) {
		rng := rand.New(rand.NewPCG(seed, 2))
		fs := MemFS()
		for range 4 {
			l, s := openLog(t, fs), openState(t, fs)
			var acked, terms [ranges]atomic.Uint64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for r := range ranges {
				log, err := l.RaftLog(keys.RangeID(r+1), 1)
				require.NoError(t, err)
				replay(t, s, log, r)
				_, last := bounds(t, log)
				acked[r].Store(last)
				own := rand.New(rand.NewPCG(seed, uint64(r)+rng.Uint64()))
				wg.Go(func() {
					for i := last + 1; ; {
						select {
						case <-stop:
							return
						default:
						}
						var batch []*raft.Log
						for n := 1 + own.IntN(5); n > 0; n-- {
							batch = append(batch, entry(r, i, 1))
							i++
						}
						if log.StoreLogs(batch) != nil {
							return
						}
						acked[r].Store(i - 1)
						if own.IntN(4) == 0 {
							_ = log.SetUint64([]byte("CurrentTerm"), i)
							terms[r].Store(i)
						}
						if own.IntN(5) == 0 { // a conflicting suffix is replaced
							_ = log.DeleteRange(i-1, i-1)
							_ = log.StoreLog(entry(r, i-1, 2))
						}
						for a := readApplied(s, r) + 1; a < i; a++ {
							_ = s.ApplyRepr(nil, func(w Writer) error {
								return errors.Join(w.Set(dataKey(r, a), []byte{1}), w.Set(appliedKey(r), binary.BigEndian.AppendUint64(nil, a)))
							})
						}
						if own.IntN(6) == 0 {
							_ = s.Flush()
							if d, ok, _ := s.DurableGet(appliedKey(r)); ok {
								_ = log.Truncate(binary.BigEndian.Uint64(d) - 1)
							}
						}
					}
				})

			}
			for range 20 + rng.IntN(200) {
				if acked[rng.IntN(ranges)].Load() > 1<<20 {
					break
				}

				_ = l.SetLocal([]byte("busy"), []byte{1})
			}
			var before, beforeTerms [ranges]uint64
			for r := range ranges {
				before[r], beforeTerms[r] = acked[r].Load(), terms[r].Load()
			}
			crashed := CrashClone(fs, rng.IntN(101), rng)
			close(stop)
			wg.Wait()
			require.NoError(t, s.CloseWithoutFlush())
			require.NoError(t, l.Close())
			fs = crashed

			l, s = openLog(t, fs), openState(t, fs)
			for r := range ranges {
				log, err := l.RaftLog(keys.RangeID(r+1), 1)
				require.NoError(t, err)
				first, last := bounds(t, log)
				require.GreaterOrEqual(t, last+1, before[r], "seed %d: range %d lost acknowledged entries", seed, r) // the last may be under replacement
				require.LessOrEqual(t, first, readApplied(s, r)+1, "seed %d: range %d cannot be replayed", seed, r)
				term, err := log.GetUint64([]byte("CurrentTerm"))
				require.NoError(t, err)
				require.GreaterOrEqual(t, term, beforeTerms[r])
				for i := first; i <= last && i > 0; i++ {
					var e raft.Log
					require.NoError(t, log.GetLog(i, &e))
					require.Equal(t, string(entry(r, i, e.Term).Data), string(e.Data))
				}
			}
			require.NoError(t, s.CloseWithoutFlush())
			require.NoError(t, l.Close())
		}
	}
}

func bounds(t *testing.T, log *RaftLog) (first, last uint64) {
	first, err := log.FirstIndex()
	require.NoError(t, err)
	last, err = log.LastIndex()
	require.NoError(t, err)
	return first, last
}

func readApplied(s *StateEngine, r int) uint64 {
	v, ok, err := s.Get(appliedKey(r))
	if err != nil || !ok {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func replay(t *testing.T, s *StateEngine, log *RaftLog, r int) {
	_, last := bounds(t, log)
	for a := readApplied(s, r) + 1; a <= last; a++ {
		var e raft.Log
		require.NoError(t, log.GetLog(a, &e))
		require.NoError(t, s.ApplyRepr(nil, func(w Writer) error {
			return errors.Join(w.Set(dataKey(r, a), []byte{1}), w.Set(appliedKey(r), binary.BigEndian.AppendUint64(nil, a)))
		}))
	}
	for a := uint64(1); a <= last; a++ {
		_, ok, err := s.Get(dataKey(r, a))
		require.NoError(t, err)
		require.True(t, ok, "range %d: entry %d of %d is neither in the state nor in the log", r, a, last)
	}
}

func TestWriteErrorsAreFatal(t *testing.T) {
	for _, what := range []string{"log sync", "log write", "state flush", "disk full"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // Close must end every goroutine
				var armed atomic.Bool
				cause := error(syscall.EIO)
				if what == "disk full" {
					cause = syscall.ENOSPC
				}
				fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
					if !armed.Load() {
						return nil
					}
					sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
					write := op.Kind == errorfs.OpFileWrite
					if (what == "log sync" && sync) || (what != "log sync" && (write || op.Kind == errorfs.OpCreate)) {
						return cause
					}
					return nil
				}))
				fatal := make(chan error, 10)
				o := Options{Dir: "/e", FS: fs, Small: true, OnFatal: func(err error) { fatal <- err }}
				var err error
				var closer func() error
				if strings.HasPrefix(what, "log") {
					l, oerr := OpenLog(o)
					require.NoError(t, oerr)
					closer = l.Close
					r, oerr := l.RaftLog(1, 1)
					require.NoError(t, oerr)
					require.NoError(t, r.StoreLog(entry(1, 1, 1)))
					armed.Store(true)
					err = r.StoreLog(entry(1, 2, 1))
					require.ErrorIs(t, r.StoreLog(entry(1, 2, 1)), ErrFatal)
					require.ErrorIs(t, l.SetLocal([]byte("a"), nil), ErrFatal)
					last, _ := r.LastIndex()
					require.EqualValues(t, 1, last, "an unsynced entry must not count")
					require.Zero(t, l.SyncStalledFor())
				} else {
					s, oerr := OpenState(o)
					require.NoError(t, oerr)
					closer = s.Close
					require.NoError(t, s.ApplyRepr(nil, func(w Writer) error { return w.Set(appliedKey(1), []byte("1")) }))
					armed.Store(true)
					err = s.Flush()
					_, _, derr := s.DurableGet(appliedKey(1))
					require.ErrorIs(t, derr, ErrFatal)
					require.ErrorIs(t, s.Fatal(), ErrFatal)
				}
				require.ErrorIs(t, err, ErrFatal)
				require.ErrorIs(t, err, cause)
				require.ErrorIs(t, <-fatal, cause)
				require.Empty(t, fatal, "once")
				require.Equal(t, what == "disk full", strings.Contains(err.Error(), "the disk is full"))
				require.ErrorIs(t, closer(), ErrFatal)
			})
		})
	}
}

func TestRaftLog(t *testing.T) {
	fs := MemFS()
	l := openLog(t, fs)
	r, err := l.RaftLog(7, 2)
	require.NoError(t, err)
	other, err := l.RaftLog(7, 3)
	require.NoError(t, err)
	require.NoError(t, other.StoreLog(entry(3, 1, 1)))
	var batch []*raft.Log
	for i := uint64(10); i < 200; i++ {
		batch = append(batch, entry(7, i, 4))
	}
	batch[0].Extensions = []byte("ext")
	require.NoError(t, r.StoreLogs(batch))
	require.ErrorContains(t, r.StoreLog(entry(7, 201, 4)), "does not follow")
	require.ErrorContains(t, r.StoreLog(entry(7, 199, 4)), "does not follow")
	require.ErrorContains(t, r.DeleteRange(20, 30), "gap")
	require.NoError(t, r.SetUint64([]byte("CurrentTerm"), 9))
	require.NoError(t, r.Set([]byte("LastVoteCand"), []byte("me")))

	check := func(r *RaftLog, first, last uint64) {
		f, la := bounds(t, r)
		require.Equal(t, []uint64{first, last}, []uint64{f, la})
		for i := uint64(1); i < 260; i++ {
			var e raft.Log
			err := r.GetLog(i, &e)
			if i < first || i > last || last == 0 {
				require.ErrorIs(t, err, raft.ErrLogNotFound, "%d", i)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, i, e.Index)
			require.EqualValues(t, 4, e.Term)
			require.Equal(t, entry(7, i, 4).Data, e.Data)
			require.Equal(t, i == 10, string(e.Extensions) == "ext")
		}
	}
	check(r, 10, 199)
	reopen := func() *RaftLog {
		crashed := CrashClone(fs, 100, rand.New(rand.NewPCG(1, 1)))
		require.NoError(t, l.Close())
		require.Error(t, r.Set([]byte("a"), nil))
		fs = crashed
		l = openLog(t, fs)
		r, err := l.RaftLog(7, 2)
		require.NoError(t, err)
		return r
	}
	r = reopen()
	check(r, 10, 199)
	require.NoError(t, r.DeleteRange(150, 199)) // range tombstone
	require.NoError(t, r.DeleteRange(140, 300)) // one by one
	require.NoError(t, r.Truncate(5))
	require.NoError(t, r.Truncate(12))
	check(r, 13, 139)
	require.NoError(t, r.StoreLogs([]*raft.Log{entry(7, 140, 4), entry(7, 141, 4)}))
	check(r, 13, 141)
	r = reopen()
	check(r, 13, 141)
	require.NoError(t, r.Truncate(100))
	check(r, 101, 141)
	require.NoError(t, r.Reset())
	check(r, 0, 0)
	require.NoError(t, r.StoreLog(entry(7, 250, 4)))
	check(r, 250, 250)
	r = reopen()
	check(r, 250, 250)
	v, err := r.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.EqualValues(t, 9, v)
	v, err = r.GetUint64([]byte("none"))
	require.NoError(t, err)
	require.Zero(t, v)

	all, err := l.ListRaftLogs()
	require.NoError(t, err)
	require.Equal(t, []ReplicaLog{{7, 2}, {7, 3}}, all)
	require.NoError(t, l.UpdateLocal(func(u *LocalUpdate) error {
		return errors.Join(u.RemoveLog(7, 2), u.Set([]byte("tombstone/7"), []byte{3}))
	}))
	require.ErrorIs(t, r.StoreLog(entry(7, 251, 4)), ErrRemoved)
	require.ErrorIs(t, r.SetUint64([]byte("CurrentTerm"), 10), ErrRemoved)
	var e raft.Log
	require.ErrorIs(t, r.GetLog(250, &e), ErrRemoved)
	r = reopen()
	check(r, 0, 0)
	v, err = r.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.Zero(t, v)
	all, err = l.ListRaftLogs()
	require.NoError(t, err)
	require.Equal(t, []ReplicaLog{{7, 3}}, all)
	require.NoError(t, l.Close())
}

// The memory that cached entries take is given back, and bounded.
func TestLogCacheBounds(t *testing.T) {
	l := openLog(t, MemFS())
	defer l.Close()
	r, err := l.RaftLog(1, 1)
	require.NoError(t, err)
	for i := uint64(1); i <= 20; i++ {
		e := entry(1, i, 1)
		e.Data = make([]byte, 1<<20)
		require.NoError(t, r.StoreLog(e))
	}
	require.LessOrEqual(t, l.cached.Load(), int64(maxCachedBytes))
	require.NotEmpty(t, r.cache)
	var e raft.Log
	require.NoError(t, r.GetLog(1, &e))
	require.Len(t, e.Data, 1<<20)
	require.NoError(t, r.Truncate(20))
	require.Zero(t, l.cached.Load())
}
