package workload

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConfigListsEveryFault(t *testing.T) {
	_, err := Start(context.Background(), Config{Writers: 65, Readers: -1})
	require.ErrorContains(t, err, "no connections")
	require.ErrorContains(t, err, "65 writers")
	require.ErrorContains(t, err, "-1 readers")
}

func TestGap(t *testing.T) {
	at := time.Unix(100, 0)
	g := &gap{}
	g.answered(at)
	g.answered(at.Add(time.Second))
	g.answered(at.Add(1100 * time.Millisecond))
	require.Equal(t, time.Second, g.take(at.Add(1200*time.Millisecond)))
	require.Equal(t, 3*time.Second, g.take(at.Add(4100*time.Millisecond)), "a gap that goes on counts")
}

// The judge must bite.
func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		name, want    string
		rows, journal []pair
	}{
		{"all is there", "", []pair{{0, 3}}, []pair{{0, 1}, {0, 2}, {0, 3}}},
		{"the last one was sent and happened", "", []pair{{0, 4}}, []pair{{0, 1}, {0, 2}, {0, 3}, {0, 4}}},
		{"a lost write", "holds 2 at the end; 3 was acknowledged", []pair{{0, 2}}, []pair{{0, 1}, {0, 2}}},
		{"a lost line", "line 2 of writer 0 was acknowledged and is not", []pair{{0, 3}}, []pair{{0, 1}, {0, 3}}},
		{"half a transaction", "by halves", []pair{{0, 4}}, []pair{{0, 1}, {0, 2}, {0, 3}}},
		{"a write of nobody's", "holds 5 at the end", []pair{{0, 5}}, []pair{{0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}}},
		{"a lost row", "row 0 is gone", nil, []pair{{0, 1}, {0, 2}, {0, 3}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &register{done: []int64{1, 2, 3}}
			r.acked.Store(3)
			r.sent.Store(4)
			w := &Workload{registers: []*register{r}}
			w.compare(tc.rows, tc.journal)
			if tc.want == "" {
				require.Empty(t, w.faults)
				return
			}
			require.NotEmpty(t, w.faults)
			require.Contains(t, w.faults[len(w.faults)-1]+w.faults[0], tc.want)
		})
	}
}

// What a copy must not show.
func TestCheckSnapshot(t *testing.T) {
	for _, tc := range []struct {
		name, want, rows, journal string
	}{
		{"one moment", "", "0\t3\n", "0\t1\n0\t2\n0\t3\n"},
		{"a moment later", "", "0\t4\n", "0\t1\n0\t2\n0\t3\n0\t4\n"},
		{"an earlier moment", "2 in row 0; 3 was acknowledged", "0\t2\n", "0\t1\n0\t2\n"},
		{"two moments", "not one moment's", "0\t4\n", "0\t1\n0\t2\n0\t3\n"},
		{"a hole", "not one moment's", "0\t3\n", "0\t1\n0\t3\n"},
		{"a lost row", "lacks row 0", "", "0\t1\n"},
		{"a write of nobody's", "holds 5 in row 0", "0\t5\n", "0\t1\n0\t2\n0\t3\n0\t4\n0\t5\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &register{}
			r.sent.Store(4)
			w := &Workload{registers: []*register{r}}
			rows, err := parsePairs(tc.rows)
			require.NoError(t, err)
			journal, err := parsePairs(tc.journal)
			require.NoError(t, err)
			w.checkSnapshot(map[int]int64{0: 3}, rows, journal)
			if tc.want == "" {
				require.Empty(t, w.faults)
				return
			}
			require.Len(t, w.faults, 1)
			require.Contains(t, w.faults[0], tc.want)
		})
	}
	_, err := parsePairs("0\tx\n")
	require.ErrorContains(t, err, "two integers")
}
