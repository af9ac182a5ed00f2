package encoding

import (
	"bytes"
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/apd/v3"
	"github.com/stretchr/testify/require"
)

var directions = []Direction{Ascending, Descending}

// checkOrder encodes sorted values both ways and checks their order, that equal values have
// equal encodings and that every one survives.
func checkOrder[T any](t *testing.T, sorted []T, compare func(a, b T) int, enc func([]byte, T, Direction) []byte, dec func([]byte, Direction) (T, []byte, error)) {
	t.Helper()
	for _, d := range directions {
		var prev []byte
		for i, v := range sorted {
			b := enc(nil, v, d)
			require.True(t, b[0] >= 0x02 && b[0] <= 0xfd, "%v: %x", v, b)
			got, rest, err := dec(append(slices.Clip(b), "tail"...), d)
			require.NoError(t, err, "%v: %x", v, b)
			require.Equal(t, "tail", string(rest))
			require.Zero(t, compare(v, got), "%v came back as %v", v, got)
			for n := range b {
				_, _, err := dec(b[:n], d)
				require.ErrorIs(t, err, ErrMalformed, "%v cut to %x", v, b[:n])
			}
			if i > 0 {
				want := compare(sorted[i-1], v)
				if d == Descending {
					want = -want
				}
				require.Equal(t, want, bytes.Compare(prev, b), "%v (%x) and %v (%x)", sorted[i-1], prev, v, b)
			}
			prev = b
		}
	}
}

func TestInt(t *testing.T) {
	vs := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, intSmallMax, intSmallMax + 1, math.MaxInt64}
	for i := range 64 {
		for _, off := range []int64{-1, 0, 1} {
			vs = append(vs, int64(1)<<i+off, -(int64(1)<<i)+off)
		}
	}
	for range 1000 {
		vs = append(vs, int64(rand.Uint64())>>rand.IntN(64))
	}
	slices.Sort(vs)
	checkOrder(t, vs, cmp.Compare[int64], AppendInt, DecodeInt)
	us := make([]uint64, len(vs))
	for i, v := range vs {
		us[i] = uint64(v)
	}
	slices.Sort(us)
	checkOrder(t, us, cmp.Compare[uint64], AppendUint, DecodeUint)
	checkOrder(t, []bool{false, true}, func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case b:
			return -1
		}
		return 1
	}, AppendBool, DecodeBool)
}

func TestFloat(t *testing.T) {
	vs := []float64{math.Inf(-1), -math.MaxFloat64, -1, -math.SmallestNonzeroFloat64, math.Copysign(0, -1), 0, math.SmallestNonzeroFloat64, 1, math.MaxFloat64, math.Inf(1)}
	for range 1000 {
		if f := math.Float64frombits(rand.Uint64()); f == f {
			vs = append(vs, f)
		}
	}
	slices.Sort(vs)
	vs = append(vs, math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1))
	checkOrder(t, vs, func(a, b float64) int {
		switch {
		case a != a && b != b:
			return 0
		case a != a:
			return 1
		case b != b:
			return -1
		}
		return cmp.Compare(a, b)
	}, AppendFloat, DecodeFloat)
}

func TestBytes(t *testing.T) {
	vs := [][]byte{{}, {0}, {0, 0}, {0, 1}, {0, 0xff}, {1}, {0xfe}, {0xff}, {0xff, 0}, {0xff, 0xff}}
	for range 1000 {
		v := make([]byte, rand.IntN(12))
		for i := range v {
			v[i] = []byte{0, 1, 2, 'a', 0xfe, 0xff}[rand.IntN(6)]
		}
		vs = append(vs, v)
	}
	slices.SortFunc(vs, bytes.Compare)
	checkOrder(t, vs, bytes.Compare, AppendBytes, func(b []byte, d Direction) ([]byte, []byte, error) { return DecodeBytes(b, nil, d) })
	for _, v := range vs {
		require.Equal(t, AppendBytes(nil, v, Descending), AppendString(nil, string(v), Descending))
	}
	fixed := slices.DeleteFunc(slices.Clone(vs), func(v []byte) bool { return len(v) != 4 })
	checkOrder(t, fixed, bytes.Compare, AppendFixed, func(b []byte, d Direction) ([]byte, []byte, error) {
		v := make([]byte, 4)
		rest, err := DecodeFixed(b, v, d)
		return v, rest, err
	})
}

func TestDecimal(t *testing.T) {
	var vs []*apd.Decimal
	add := func(s string) {
		v, _, err := apd.NewFromString(s)
		require.NoError(t, err)
		vs = append(vs, v)
	}
	for _, s := range []string{"-Infinity", "Infinity", "0", "-0.00", "1", "1.0", "100", "1e2", "-1", "-10", "0.1", "0.10", "9.99", "99", "101",
		"123456789012345678901234567890.123456789", "-1e-5000", "1e-5000", "1e5000", "-1e5000", "12e-1", "10e-1"} {
		add(s)
	}
	for range 1000 {
		v := apd.New(int64(rand.Uint64())>>rand.IntN(64), int32(rand.IntN(12)-6))
		vs = append(vs, v)
	}
	compare := func(a, b *apd.Decimal) int {
		an, bn := a.Form == apd.NaN, b.Form == apd.NaN
		switch {
		case an && bn:
			return 0
		case an:
			return 1
		case bn:
			return -1
		}
		return a.Cmp(b)
	}
	slices.SortFunc(vs, compare)
	add("NaN")
	checkOrder(t, vs, compare, AppendDecimal, func(b []byte, d Direction) (*apd.Decimal, []byte, error) {
		v := new(apd.Decimal)
		rest, err := DecodeDecimal(b, v, d)
		return v, rest, err
	})
}

func TestNull(t *testing.T) {
	for _, d := range directions {
		for _, v := range []int64{math.MinInt64, 0, math.MaxInt64} {
			require.Negative(t, bytes.Compare(AppendNull(nil, true), AppendInt(nil, v, d)))
			require.Positive(t, bytes.Compare(AppendNull(nil, false), AppendInt(nil, v, d)))
			isNull, rest := DecodeNull(AppendInt(nil, v, d))
			require.False(t, isNull)
			require.NotEmpty(t, rest)
		}
	}
	for _, first := range []bool{true, false} {
		isNull, rest := DecodeNull(append(AppendNull(nil, first), 'x'))
		require.True(t, isNull)
		require.Equal(t, "x", string(rest))
	}
}

// What decodes must be what the encoder makes of the value: one value, one encoding.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x0a}, uint8(0))
	f.Add(AppendBytes(nil, []byte("a\x00b"), Descending), uint8(1))
	f.Add(AppendDecimal(nil, apd.New(-12345, -3), Ascending), uint8(0))
	f.Add(AppendFloat(nil, -1.5, Ascending), uint8(0))
	f.Add(AppendInt(nil, -70000, Descending), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, dir uint8) {
		d := Direction(dir % 2)
		same := func(what string, again, rest []byte) {
			if used := b[:len(b)-len(rest)]; !bytes.Equal(used, again) {
				t.Fatalf("%s: %x decodes, but encodes as %x", what, used, again)
			}
		}
		if v, rest, err := DecodeInt(b, d); err == nil {
			same("int", AppendInt(nil, v, d), rest)
		}
		if v, rest, err := DecodeUint(b, d); err == nil {
			same("uint", AppendUint(nil, v, d), rest)
		}
		if v, rest, err := DecodeBool(b, d); err == nil {
			same("bool", AppendBool(nil, v, d), rest)
		}
		if v, rest, err := DecodeFloat(b, d); err == nil {
			same("float", AppendFloat(nil, v, d), rest)
		}
		if v, rest, err := DecodeBytes(b, nil, d); err == nil {
			same("bytes", AppendBytes(nil, v, d), rest)
		}
		var dec apd.Decimal
		if rest, err := DecodeDecimal(b, &dec, d); err == nil {
			same("decimal", AppendDecimal(nil, &dec, d), rest)
		}
		DecodeNull(b)
	})
}

func BenchmarkAppendDecodeKey(b *testing.B) {
	buf := make([]byte, 0, 64)
	for i := 0; b.Loop(); i++ {
		buf = AppendInt(buf[:0], int64(i), Ascending)
		buf = AppendString(buf, "hello", Ascending)
		_, rest, _ := DecodeInt(buf, Ascending)
		if _, _, err := DecodeBytes(rest, buf[32:32], Ascending); err != nil {
			b.Fatal(err)
		}
	}
}
