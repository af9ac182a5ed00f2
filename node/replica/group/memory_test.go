package group

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/replica/raftcmd"
	"github.com/atolldb/atoll/node/storage"
)

func commandID(n int) (id raftcmd.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

// born returns a command of which the birth is its number.
func (n *testNode) born(number int, key, value string) *raftcmd.Command {
	c := n.command(key, value)
	c.ID, c.Birth, c.Outcome = commandID(number), int64(number), []byte("out")
	return c
}

func (n *testNode) propose(c *raftcmd.Command) error {
	c.Term, _ = n.g.Leading()
	_, err := n.g.Propose(n.t.Context(), c)
	return err
}

// A late try of a command that the range has forgotten is rejected, on every replica, after a
// crash, from a snapshot, and on both sides of a split (S12, S20). Without the rule it is applied
// a second time.
func TestForgottenCommandsAreRejected(t *testing.T) {
	for _, planted := range []bool{false, true} {
		t.Run(fmt.Sprintf("planted=%t", planted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestClusterWith(t, 3, func(cfg *Config) { cfg.RememberIDs, cfg.PlantNoHorizon = 32, planted })
				l := c.leader()
				require.NoError(t, l.propose(l.born(1, "k", "first")))
				require.NoError(t, l.put("k", "second"))
				for i := 2; i < 60; i++ {
					require.NoError(t, l.propose(l.born(i, "other", "x")))
				}
				late := l.born(1, "k", "first")
				err := l.propose(late)
				if planted {
					require.NoError(t, err)
					require.Equal(t, "first", l.get("k"), "the rule's absence must show")
					c.close()
					return
				}
				require.ErrorIs(t, err, ErrRejected)
				require.Equal(t, "second", l.get("k"))

				_, applied, horizon := l.g.LookupCommand(late.ID)
				require.False(t, applied)
				require.NotZero(t, horizon)
				unseen := l.born(1, "k", "never seen, but as old")
				unseen.ID, unseen.Birth = commandID(500), horizon
				require.ErrorIs(t, l.propose(unseen), ErrRejected)
				require.NoError(t, l.propose(l.born(1000, "k", "young")))

				c.settle()
				l.crash(rand.New(rand.NewPCG(3, 4)))
				l = c.leader()
				_, _, again := l.g.LookupCommand(late.ID)
				require.GreaterOrEqual(t, again, horizon)
				require.ErrorIs(t, l.propose(late), ErrRejected)

				// A replica that came by a snapshot says the same.
				n := c.add(9)
				n.open()
				require.NoError(t, l.g.ChangeConfig(t.Context(), AddLearner, ServerID(9, 9), 0))
				c.settle()
				_, _, there := n.g.LookupCommand(late.ID)
				require.Equal(t, again, there)

				left, right := c.desc.Clone(), c.desc.Clone()
				left.End, left.Generation = keys.Key("m"), 2
				right.RangeID, right.Start, right.Generation = 8, keys.Key("m"), 2
				require.NoError(t, l.propose(&raftcmd.Command{Split: &raftcmd.SplitTrigger{Left: left, Right: right}}))
				c.settle()
				for _, n := range c.nodes {
					ids, err := loadIDs(n.state, 8, 32)
					require.NoError(t, err)
					require.Greater(t, ids.horizon, again, "what the right side did not inherit has expired there")
					require.Len(t, ids.byID, 32/inheritedPart)
				}
				c.close()
			})
		})
	}
}

// The right side of a split inherits the newest commands, and a horizon that covers the others. It
// forgets what it inherited a tenth at a time, not all at once.
func TestInheritedMemoryIsForgottenInParts(t *testing.T) {
	eng, err := storage.OpenState(storage.StateOptions{Dir: "/s", FS: storage.MemFS(), Small: true, OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.CloseWithoutFlush()) }()
	a, err := loadIDs(eng, 7, 160)
	require.NoError(t, err)
	apply := func(fn func(w storage.Writer) error) { require.NoError(t, eng.ApplyRepr(nil, fn)) }
	apply(func(w storage.Writer) error {
		for i := 1; i <= 160; i++ {
			if err := a.add(w, uint64(i), int64(i), []idRecord{{id: commandID(i), outcome: []byte{byte(i)}}}); err != nil {
				return err
			}
		}
		return a.inherit(w, 8, 161, []idRecord{{id: commandID(161)}})
	})
	b, err := loadIDs(eng, 8, 160)
	require.NoError(t, err)
	require.Len(t, b.byID, 160/inheritedPart)
	require.Equal(t, []byte{142}, b.byID[commandID(142)].outcome)
	require.Equal(t, int64(141), b.horizon)
	require.Len(t, b.order, InitialIndex)
	require.Equal(t, int64(161), b.order[InitialIndex-1].birth)
	apply(func(w storage.Writer) error {
		for i := 162; i <= 312; i++ {
			if err := b.add(w, uint64(i), int64(i), []idRecord{{id: commandID(i)}}); err != nil {
				return err
			}
		}
		return nil
	})
	require.Equal(t, int64(153), b.horizon)
	require.NotContains(t, b.byID, commandID(153))
	require.Contains(t, b.byID, commandID(154))
	// What is on disk says the same.
	again, err := loadIDs(eng, 8, 160)
	require.NoError(t, err)
	require.Equal(t, b, again)
}

// Large outcomes count by their bytes, on both sides of a split.
func TestOutcomesAreBoundedByBytes(t *testing.T) {
	eng, err := storage.OpenState(storage.StateOptions{Dir: "/s", FS: storage.MemFS(), Small: true, OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.CloseWithoutFlush()) }()
	a, err := loadIDs(eng, 7, 0)
	require.NoError(t, err)
	require.NoError(t, eng.ApplyRepr(nil, func(w storage.Writer) error {
		for i := 1; i <= 100; i++ {
			if err := a.add(w, uint64(i), int64(i), []idRecord{{id: commandID(i), outcome: make([]byte, 16<<10)}}); err != nil {
				return err
			}
		}
		require.LessOrEqual(t, a.bytes, outcomeBytesAtAll)
		require.Positive(t, a.horizon)
		return a.inherit(w, 8, 101, nil)
	}))
	b, err := loadIDs(eng, 8, 0)
	require.NoError(t, err)
	require.Equal(t, maxOutcomeBytes/inheritedPart, b.bytes)
	require.Equal(t, int64(96), b.horizon)
	require.Contains(t, b.byID, commandID(97))
}

// Entries from before births are applied as they were then, and leave the same bytes (S17).
func TestEntriesWithoutBirthsAreReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClusterWith(t, 1, func(cfg *Config) { cfg.RememberIDs = 16 })
		l := c.leader()
		old := func(n int, value string) raft.ApplyFuture {
			cmd := l.born(n, "k", value)
			cmd.Birth, cmd.Outcome = 0, nil
			f := l.g.apply(raftcmd.AppendToEntry([]byte{1}, cmd.Encode()))
			require.NoError(t, f.Error())
			return f
		}
		require.Empty(t, old(1, "one").Response().([]outcome)[0].rejected)
		first, ok, err := l.state.Get(idsKey(7, l.g.AppliedIndex()))
		require.NoError(t, err)
		require.True(t, ok)
		id := commandID(1)
		require.Equal(t, append(append([]byte{1}, id[:]...), 0), first)
		require.True(t, old(1, "again").Response().([]outcome)[0].duplicate)
		for i := 2; i < 60; i++ {
			old(i, "x")
		}
		_, ok, err = l.state.Get(keys.RangeLocal(7, horizonSuffix))
		require.NoError(t, err)
		require.False(t, ok)
		// The first command with a birth needs one, and finds all that is remembered.
		require.ErrorIs(t, l.propose(l.born(0, "k", "unborn")), ErrRejected)
		dup := l.born(59, "k", "dup")
		r, err := l.g.Propose(t.Context(), dup)
		require.NoError(t, err)
		require.True(t, r.Duplicate)
		require.NoError(t, l.propose(l.born(100, "k", "born")))
		l.crash(rand.New(rand.NewPCG(3, 4)))
		l = c.leader()
		require.Equal(t, "born", l.get("k"))
		c.close()
	})
}

func TestIDsOfUnknownVersion(t *testing.T) {
	_, _, err := decodeIDs([]byte{9, 1, 2})
	require.ErrorContains(t, err, "newer binary")
	_, _, err = decodeIDs([]byte{idsBornVersion, 1})
	require.Error(t, err)
}
