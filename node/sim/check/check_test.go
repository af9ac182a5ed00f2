package check

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(ms int) time.Time { return time.UnixMilli(int64(ms)) }

func app(k, v int) Op         { return Op{Key: k, Append: true, Value: v} }
func read(k int, l ...int) Op { return Op{Key: k, List: l} }
func txn(start, end int, ops ...Op) Txn {
	return Txn{Ops: ops, Start: at(start), End: at(end)}
}

func with(t Txn, o Outcome) Txn { t.Outcome = o; return t }

func TestInRealTime(t *testing.T) {
	for name, tc := range map[string]struct {
		history []Txn
		fault   string // empty: none
	}{
		"serial":         {[]Txn{txn(0, 1, app(1, 10)), txn(2, 3, read(1, 10), app(1, 11)), txn(4, 5, read(1, 10, 11))}, ""},
		"own appends":    {[]Txn{txn(0, 1, app(1, 10), read(1, 10))}, ""},
		"overlap":        {[]Txn{txn(0, 9, app(1, 10)), txn(1, 8, read(1)), txn(2, 9, read(1, 10))}, ""},
		"lost write":     {[]Txn{txn(0, 1, app(1, 10)), txn(2, 3, read(1))}, "lost"},
		"stale read":     {[]Txn{txn(0, 1, app(1, 10)), txn(2, 3, read(1)), txn(4, 5, read(1, 10))}, "cycle"},
		"aborted read":   {[]Txn{with(txn(0, 1, app(1, 10)), Aborted), txn(2, 3, read(1, 10))}, "aborted"},
		"unknown read":   {[]Txn{with(txn(0, 1, app(1, 10)), Unknown), txn(2, 3, read(1, 10))}, ""},
		"unknown unread": {[]Txn{with(txn(0, 1, app(1, 10)), Unknown), txn(2, 3, read(1))}, ""},
		"from nowhere":   {[]Txn{txn(0, 1, read(1, 77))}, "nobody"},
		"twice":          {[]Txn{txn(0, 1, app(1, 10)), txn(2, 3, read(1, 10, 10))}, "twice"},
		"fork":           {[]Txn{txn(0, 9, app(1, 10)), txn(0, 9, app(1, 11)), txn(10, 11, read(1, 10, 11)), txn(10, 11, read(1, 11))}, "disagrees"},
		"write skew": {[]Txn{txn(0, 9, read(1), app(2, 20)), txn(0, 9, read(2), app(1, 10)),
			txn(10, 11, read(1, 10), read(2, 20))}, "cycle"},
		"lost update":    {[]Txn{txn(0, 9, read(1), app(1, 10)), txn(0, 9, read(1), app(1, 11)), txn(10, 11, read(1, 10, 11))}, "cycle"},
		"long fork":      {[]Txn{txn(0, 9, app(1, 10)), txn(0, 9, app(2, 20)), txn(1, 8, read(1, 10), read(2)), txn(1, 8, read(1), read(2, 20))}, "cycle"},
		"no own appends": {[]Txn{txn(0, 1, app(1, 10), read(1))}, "own appends"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := InRealTime(tc.history, 0)
			if tc.fault == "" {
				require.Empty(t, faults)
				return
			}
			require.NotEmpty(t, faults)
			require.ErrorContains(t, faults[0], tc.fault)
		})
	}
}

// What clocks that differ by up to 5 promise, and what they don't.
func TestRealTimeWithinTheClockOffset(t *testing.T) {
	through := func(gateway int, t Txn) Txn { t.Gateway = gateway; return t }
	reverse := func(first, second int, gap int) []Txn {
		// The long one reads key 2 before the first appends to it, and appends to key 1 after the second.
		return []Txn{
			through(first, txn(1, 2, app(2, 20))),
			through(second, txn(2+gap, 3+gap, app(1, 10))),
			through(3, txn(0, 30, read(2), app(1, 11))),
			through(3, txn(40, 41, read(1, 10, 11), read(2, 20))),
		}
	}
	offset := at(5).Sub(at(0))
	require.Empty(t, InRealTime(reverse(1, 2, 1), offset), "causal reverse is allowed")
	require.NotEmpty(t, InRealTime(reverse(1, 1, 1), offset), "not through one gateway")
	require.NotEmpty(t, InRealTime(reverse(1, 2, 6), offset), "not beyond the offset")
	require.NotEmpty(t, InRealTime(reverse(1, 2, 1), 0))
	stale := []Txn{through(1, txn(0, 1, app(1, 10))), through(2, txn(2, 3, read(1))), through(1, txn(4, 5, read(1, 10)))}
	require.NotEmpty(t, InRealTime(stale, offset), "a stale read is one however close")
	lost := []Txn{through(1, txn(0, 1, read(1))), through(2, txn(2, 3, app(1, 10))), through(1, txn(4, 5, read(1, 10)))}
	require.Empty(t, InRealTime(lost, offset))
}

func TestLinearizable(t *testing.T) {
	ok := []RegisterOp{
		{Key: 1, Write: true, Value: 1, Call: at(0), Return: at(2)},
		{Key: 1, Value: 1, Call: at(3), Return: at(4)},
		{Key: 1, Write: true, Value: 2, Call: at(5)}, // unknown
		{Key: 1, Value: 1, Call: at(6), Return: at(7)},
		{Key: 1, Value: 2, Call: at(8), Return: at(9)},
	}
	require.NoError(t, Linearizable(ok, time.Minute))
	stale := append(ok, RegisterOp{Key: 1, Value: 1, Call: at(10), Return: at(11)})
	require.Error(t, Linearizable(stale, time.Minute))
}
