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
