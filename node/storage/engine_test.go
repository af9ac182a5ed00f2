package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func openState(t testing.TB, fs FS) *StateEngine {
	t.Helper()
	s, err := OpenState(StateOptions{Dir: "/store/state", FS: fs, Small: true, OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	return s
}

func openLog(t testing.TB, fs FS) *LogEngine {
	t.Helper()
	l, err := OpenLog(LogOptions{Dir: "/store/log", FS: fs, Small: true, OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	return l
}

func ts(wall int64, logical int32) hlc.Timestamp {
	return hlc.Timestamp{WallNanos: wall, Logical: logical}
}

func TestReadWrite(t *testing.T) {
	s := openState(t, MemFS())
	defer s.Close()
	b := s.NewBatch()
	k := keys.Key("\x04a")
	require.NoError(t, b.Set(k, []byte("meta")))
	require.NoError(t, b.SetVersion(k, ts(10, 0), 'v', []byte("10")))
	require.NoError(t, b.SetVersion(k, ts(10, 3), 'v', []byte("10,3")))
	require.NoError(t, b.SetVersion(k, ts(20, 0), 'v', []byte("20")))
	require.NoError(t, b.SetVersion(keys.Key("\x04a\x00"), ts(5, 0), 'o', []byte("ther")))
	require.Error(t, b.SetVersion(k, hlc.Timestamp{}, 0, nil))
	v, ok, err := b.Get(k)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "meta", string(v))
	_, ok, err = s.Get(k)
	require.NoError(t, err)
	require.False(t, ok, "not applied yet")
	repr := append([]byte(nil), b.Repr()...)
	require.NoError(t, b.Close())
	orig := append([]byte(nil), repr...)
	applied := keys.RangeLocal(7, "applied")
	require.NoError(t, s.ApplyRepr(repr, func(w Writer) error { return w.Set(applied, []byte("1")) }))
	require.Equal(t, orig, repr, "the command is shared with raft and must not change")

	want := []string{"\x04a 0 meta", "\x04a 20 v20", "\x04a 10,3 v10,3", "\x04a 10 v10", "\x04a\x00 5 other"}
	it, err := s.NewIter(IterOptions{Lower: keys.TableMin})
	require.NoError(t, err)
	show := func() string {
		v, err := it.Value()
		require.NoError(t, err)
		l := ""
		if it.Version().Logical > 0 {
			l = fmt.Sprintf(",%d", it.Version().Logical)
		}
		return fmt.Sprintf("%s %d%s %s", string(it.Key()), it.Version().WallNanos, l, v)
	}
	var got []string
	for ok := it.First(); ok; ok = it.Next() {
		got = append(got, show())
	}
	require.Equal(t, want, got)
	require.True(t, it.SeekPrefix(k, hlc.Timestamp{}))
	require.True(t, it.NextKey() == false, "prefix iteration ends with the key")
	require.True(t, it.SeekGE(k, ts(15, 0)))
	require.Equal(t, want[2], show())
	require.True(t, it.SeekLT(k, ts(15, 0)))
	require.Equal(t, want[1], show())
	require.True(t, it.NextKey())
	require.Equal(t, want[4], show())
	require.NoError(t, it.Close())

	_, ok, err = s.DurableGet(applied)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, s.Flush())
	v, ok, err = s.DurableGet(applied)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "1", string(v))

	require.NoError(t, s.ClearRange(keys.Span{Key: k}))
	it, err = s.NewIter(IterOptions{Lower: keys.TableMin})
	require.NoError(t, err)
	require.True(t, it.First())
	require.Equal(t, want[4], show())
	require.NoError(t, it.Close())
}

func TestLockRefused(t *testing.T) {
	fs := MemFS()
	s := openState(t, fs)
	_, err := OpenState(StateOptions{Dir: "/store/state", FS: fs, Small: true})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, s.Close())
	require.NoError(t, openState(t, fs).Close())

	dir := t.TempDir()
	l, err := OpenLog(LogOptions{Dir: dir, Small: true})
	require.NoError(t, err)
	_, err = OpenLog(LogOptions{Dir: dir, Small: true})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, l.Close())
	_, err = OpenState(StateOptions{Dir: dir, Small: true})
	require.ErrorContains(t, err, "belongs to a log engine")
}

func TestFormatRefused(t *testing.T) {
	fs := MemFS()
	require.NoError(t, openState(t, fs).Close())
	write := func(s string) {
		f, err := fs.Create("/store/state/"+formatFile, "")
		require.NoError(t, err)
		_, err = f.Write([]byte(s))
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	write("state 2\n")
	_, err := OpenState(StateOptions{Dir: "/store/state", FS: fs, Small: true})
	require.ErrorIs(t, err, ErrNewerFormat)
	write("gibberish")
	_, err = OpenState(StateOptions{Dir: "/store/state", FS: fs, Small: true})
	require.ErrorContains(t, err, "damaged")
	require.NoError(t, fs.Remove("/store/state/"+formatFile))
	_, err = OpenState(StateOptions{Dir: "/store/state", FS: fs, Small: true})
	require.ErrorContains(t, err, "but no ATOLL_FORMAT")
	write("state 1\n")
	require.NoError(t, openState(t, fs).Close())
}

// Both engines work, crash, reopen and end all their goroutines inside synctest bubbles,
// several after each other (Pebble pools objects across them).
func TestInsideSynctest(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			fs := MemFS()
			for i := range 3 {
				l, s := openLog(t, fs), openState(t, fs)
				r, err := l.RaftLog(1, 1)
				require.NoError(t, err)
				last, err := r.LastIndex()
				require.NoError(t, err)
				require.EqualValues(t, i*100, last)
				for range 100 {
					last++
					require.NoError(t, r.StoreLog(&raft.Log{Index: last, Term: 1, Data: make([]byte, 100)}))
					require.NoError(t, s.ApplyRepr(nil, func(w Writer) error { return w.Set(keys.RangeLocal(1, "x"), make([]byte, 20000)) }))
				}
				clone := CrashClone(fs, 50, rand.New(rand.NewPCG(1, uint64(i))))
				require.NoError(t, s.CloseWithoutFlush())
				require.NoError(t, l.Close())
				fs = clone
			}
		})
	}
}

func TestLocalRecords(t *testing.T) {
	fs := MemFS()
	l := openLog(t, fs)
	require.NoError(t, l.SetLocal([]byte("a/1"), []byte("x")))
	require.NoError(t, l.SetLocal([]byte("a/2"), []byte("y")))
	require.NoError(t, l.SetLocal([]byte("b"), nil))
	require.NoError(t, l.DeleteLocal([]byte("a/1")))
	bad := errors.New("no")
	require.ErrorIs(t, l.UpdateLocal(func(u *LocalUpdate) error {
		require.NoError(t, u.Delete([]byte("a/2")))
		return bad
	}), bad)
	crashed := CrashClone(fs, 0, nil)
	require.NoError(t, l.Close())
	_, _, err := l.GetLocal([]byte("b"))
	require.ErrorIs(t, err, ErrClosed)
	l = openLog(t, crashed)
	defer l.Close()
	got, err := l.ScanLocal([]byte("a/"))
	require.NoError(t, err)
	require.Equal(t, []LocalRecord{{[]byte("a/2"), []byte("y")}}, got)
	v, ok, err := l.GetLocal([]byte("b"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Empty(t, v)
}

func TestMetricsAndClose(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, err := OpenState(StateOptions{Dir: "/s", FS: MemFS(), Small: true, Registerer: reg})
	require.NoError(t, err)
	m, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, m, 10)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, _, err = s.Get(keys.Key("x"))
	require.ErrorIs(t, err, ErrClosed)
	m, err = reg.Gather()
	require.NoError(t, err)
	require.Empty(t, m)
}
