package rowenc

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/encoding"
	"github.com/atolldb/atoll/node/sql/types"
)

// ordered lists values of each type in PostgreSQL's order; "=" joins equal ones.
var ordered = map[string][][]string{
	"bool":        {{"f"}, {"t"}},
	"int8":        {{"-9223372036854775808"}, {"-257"}, {"-1"}, {"0"}, {"1"}, {"255"}, {"256"}, {"9223372036854775807"}},
	"float8":      {{"-Infinity"}, {"-1e300"}, {"-1"}, {"-0", "0"}, {"1e-300"}, {"1"}, {"Infinity"}, {"NaN"}},
	"numeric":     {{"-Infinity"}, {"-1e100"}, {"-10.5"}, {"-1"}, {"-0.001"}, {"0", "0.00"}, {"0.001"}, {"1", "1.0", "1.00"}, {"1.5", "1.50"}, {"10"}, {"100", "100.0"}, {"1e100"}, {"Infinity"}, {"NaN"}},
	"text":        {{""}, {"a"}, {"a b"}, {"aa"}, {"b"}, {"é"}},
	"bpchar":      {{"", "  "}, {"a", "a  "}, {"a b"}, {"b", "b "}},
	"bytea":       {{`\x`}, {`\x00`}, {`\x0000`}, {`\x0001`}, {`\x00ff`}, {`\x01`}, {`\xff`}, {`\xff00`}, {`\xffff`}},
	"uuid":        {{"00000000-0000-0000-0000-000000000000"}, {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, {"ffffffff-ffff-ffff-ffff-ffffffffffff"}},
	"date":        {{"-infinity"}, {"0044-03-15 BC"}, {"1999-12-31"}, {"2000-01-01"}, {"2024-02-29"}, {"infinity"}},
	"timestamptz": {{"-infinity"}, {"0044-03-15 00:00 BC"}, {"1999-12-31"}, {"2000-01-01 00:00:00.000001"}, {"infinity"}},
	"time":        {{"00:00"}, {"12:00:00.5"}, {"24:00"}},
	"timetz":      {{"10:00+05"}, {"10:00+00"}, {"08:00-02:00:01"}, {"10:00-05"}},
	"interval":    {{"-1 mon"}, {"-1 day"}, {"0"}, {"1 day", "24 hours"}, {"1 mon", "30 days", "29 days 24 hours"}, {"1 year"}},
	"int4[]":      {{"{}"}, {"{1}"}, {"{1,1}"}, {"{{1,1}}"}, {"{1,2}"}, {"[2:3]={1,2}"}, {"{2}"}, {"{NULL}"}},
	"text[]":      {{"{}"}, {"{a}"}, {"{a,b}"}, {"{aa}"}, {"{NULL}"}},
	"jsonb": {{"[]"}, {"null"}, {`""`}, {`"a"`}, {`"aa"`}, {"-1"}, {"0", "0.0"}, {"1", "1.0"}, {"false"}, {"true"},
		{"[1]"}, {"[2]"}, {"[[]]"}, {"[{}]"}, {"[1,1]"}, {"{}"}, {`{"a":1}`}, {`{"a":2}`}, {`{"b":0}`}, {`{"a":1,"b":1}`}},
}

func parseType(t testing.TB, name string) types.OID {
	array := false
	if n := len(name); n > 2 && name[n-2:] == "[]" {
		name, array = name[:n-2], true
	}
	ty, ok := types.LookupName(name)
	require.True(t, ok, name)
	if array {
		return ty.Array
	}
	return ty.OID
}

type dirCase struct {
	dir        encoding.Direction
	nullsFirst bool
}

var dirs = []dirCase{{encoding.Ascending, false}, {encoding.Ascending, true}, {encoding.Descending, false}, {encoding.Descending, true}}

func TestKeyOrder(t *testing.T) {
	for name, groups := range ordered {
		oid := parseType(t, name)
		for _, dc := range dirs {
			var prev []byte
			seq := slices.Clone(groups)
			if dc.dir == encoding.Descending {
				slices.Reverse(seq)
			}
			null, err := AppendKey(nil, oid, types.Null, dc.dir, dc.nullsFirst)
			require.NoError(t, err)
			for i, group := range seq {
				var first []byte
				for _, text := range group {
					d, err := types.ParseText(oid, -1, text, nil)
					require.NoError(t, err, "%s %q", name, text)
					key, err := AppendKey(nil, oid, d, dc.dir, dc.nullsFirst)
					require.NoError(t, err)
					if first == nil {
						first = key
					}
					require.Equal(t, first, key, "%s %q", name, text)
					require.Equal(t, dc.nullsFirst, bytes.Compare(null, key) < 0, "NULL against %s %q", name, text)
					if prev != nil {
						require.Negative(t, bytes.Compare(prev, key), "%s: %v before %q, %v", name, seq[i-1], text, dc)
						require.False(t, bytes.HasPrefix(key, prev))
					}
					got, rest, err := DecodeKey(append(slices.Clone(key), "tail"...), oid, -1, dc.dir)
					require.NoError(t, err, "%s %q", name, text)
					require.Equal(t, "tail", string(rest))
					if !NeedsValue(oid, -1, d) {
						require.Equal(t, types.Text(oid, d, nil), types.Text(oid, got, nil), name)
					}
				}
				prev = first
			}
			// The comparison function must agree with the keys.
			for i := 1; i < len(groups); i++ {
				a, _ := types.ParseText(oid, -1, groups[i-1][0], nil)
				for _, text := range groups[i] {
					b, _ := types.ParseText(oid, -1, text, nil)
					require.Equal(t, -1, types.Comparator(oid)(a, b), "%s %q %q", name, groups[i-1][0], text)
					c, _ := types.ParseText(oid, -1, groups[i][0], nil)
					require.Zero(t, types.Comparator(oid)(c, b))
					require.Equal(t, types.Hash(oid, c), types.Hash(oid, b), "%s %q", name, text)
				}
			}
		}
	}
}

func TestNeedsValue(t *testing.T) {
	mod, err := types.EncodeTypmod(types.OIDNumeric, []int32{10, 2})
	require.NoError(t, err)
	for _, c := range []struct {
		oid    types.OID
		typmod int32
		text   string
		want   bool
	}{
		{types.OIDNumeric, -1, "1.5", false}, {types.OIDNumeric, -1, "1.50", true}, {types.OIDNumeric, -1, "0.0", true},
		{types.OIDNumeric, -1, "0", false}, {types.OIDNumeric, -1, "100", false}, {types.OIDNumeric, mod, "1.50", false},
		{types.OIDNumeric, mod, "0.00", false}, {types.OIDNumeric, mod, "NaN", false},
		{types.OIDFloat8, -1, "-0", true}, {types.OIDFloat8, -1, "0", false}, {types.OIDInt4, -1, "7", false},
		{types.OIDInterval, -1, "1 mon", true}, {types.OIDInterval, -1, "3 days 01:00", false}, {types.OIDInterval, -1, "25:00", true},
		{types.OIDBPChar, 9, "ab   ", false}, {types.OIDBPChar, -1, "ab ", true}, {types.OIDBPChar, -1, "ab", false},
		{types.OIDJSONB, -1, "1", true}, {types.OIDInt4Array, -1, "{1}", true},
	} {
		d, err := types.ParseText(c.oid, c.typmod, c.text, nil)
		require.NoError(t, err)
		require.Equal(t, c.want, NeedsValue(c.oid, c.typmod, d), "%v %q", c.oid, c.text)
		if !c.want {
			for _, dc := range dirs {
				key, err := AppendKey(nil, c.oid, d, dc.dir, false)
				require.NoError(t, err)
				got, _, err := DecodeKey(key, c.oid, c.typmod, dc.dir)
				require.NoError(t, err)
				require.Equal(t, types.Text(c.oid, d, nil), types.Text(c.oid, got, nil))
			}
		}
	}
}

func sampleRow(t testing.TB) (ids []int16, oids []types.OID, vals []types.Datum) {
	id := int16(0)
	for _, name := range []string{"bool", "int8", "float8", "numeric", "text", "bytea", "uuid", "date", "timestamptz", "time", "interval", "jsonb", "int4[]", "text[]"} {
		oid := parseType(t, name)
		for _, group := range ordered[name] {
			for _, text := range group {
				d, err := types.ParseText(oid, -1, text, nil)
				require.NoError(t, err)
				id += 1 + id%3*7
				ids, oids, vals = append(ids, id), append(oids, oid), append(vals, d)
				id++
				ids, oids, vals = append(ids, id), append(oids, oid), append(vals, types.Null)
			}
		}
	}
	return ids, oids, vals
}

func TestRowRoundTrip(t *testing.T) {
	ids, oids, vals := sampleRow(t)
	row, err := AppendRow(nil, ids, vals)
	require.NoError(t, err)
	for step := 1; step <= len(ids); step++ {
		var cols []Column
		for i := 0; i < len(ids); i += step {
			cols = append(cols, Column{ID: ids[i], Slot: i, Missing: types.NewString("missing")})
		}
		out := make([]types.Datum, len(ids))
		require.NoError(t, NewDecoder(cols).Decode(row, out))
		for i := range ids {
			if i%step != 0 {
				require.True(t, out[i].IsNull())
				continue
			}
			require.Equal(t, vals[i].Kind(), out[i].Kind())
			require.Equal(t, types.Text(oids[i], vals[i], nil), types.Text(oids[i], out[i], nil))
		}
	}
}

func TestRowMissingAndVersion(t *testing.T) {
	row, err := AppendRow(nil, []int16{2, 5}, []types.Datum{types.NewInt(7), types.Null})
	require.NoError(t, err)
	dec := NewDecoder([]Column{{ID: 9, Slot: 3, Missing: types.NewInt(9)}, {ID: 1, Slot: 0, Missing: types.NewInt(1)}, {ID: 5, Slot: 2, Missing: types.NewInt(5)}, {ID: 2, Slot: 1}})
	out := make([]types.Datum, 4)
	require.NoError(t, dec.Decode(row, out))
	require.Equal(t, []types.Datum{types.NewInt(1), types.NewInt(7), types.Null, types.NewInt(9)}, out)
	out = []types.Datum{types.NewInt(-1), types.NewInt(-1), types.NewInt(-1), types.NewInt(-1)}
	require.NoError(t, dec.DecodePresent(row, out))
	require.Equal(t, []types.Datum{types.NewInt(-1), types.NewInt(7), types.Null, types.NewInt(-1)}, out)
	row[0] = 2
	require.ErrorContains(t, dec.Decode(row, out), "version 2")
	require.Error(t, dec.Decode(nil, out))
	_, err = AppendRow(nil, []int16{3, 3}, make([]types.Datum, 2))
	require.Error(t, err)
}

func TestRecordAndLongPayload(t *testing.T) {
	vals := make([]types.Datum, 300)
	for i := range vals {
		vals[i] = types.NewString(fmt.Sprint("element ", i))
	}
	arr := types.NewArray1(types.OIDText, vals)
	rec := types.NewRecord(&types.Record{Types: []types.OID{types.OIDInt4, types.OIDTextArray}, Values: []types.Datum{types.NewInt(1), arr}})
	row, err := AppendRow(nil, []int16{1, 2}, []types.Datum{rec, types.NewInt(5)})
	require.NoError(t, err)
	out := make([]types.Datum, 2)
	require.NoError(t, NewDecoder([]Column{{ID: 1, Slot: 0}, {ID: 2, Slot: 1}}).Decode(row, out))
	require.Equal(t, types.Text(types.OIDRecord, rec, nil), types.Text(types.OIDRecord, out[0], nil))
	require.Equal(t, int64(5), out[1].Int())
	out[1] = types.Null
	require.NoError(t, NewDecoder([]Column{{ID: 2, Slot: 1}}).Decode(row, out), "a record that nobody wants is skipped")
	require.Equal(t, int64(5), out[1].Int())
}

func TestDecodeAllocatesNothing(t *testing.T) {
	vals := []types.Datum{types.NewInt(1), types.NewString("hello"), types.NewFloat(1.5), types.NewTimestamp(12), types.NewBool(true), types.NewInt(1 << 40)}
	row, err := AppendRow(nil, []int16{1, 2, 3, 4, 5, 6}, vals)
	require.NoError(t, err)
	key, err := AppendKey(nil, types.OIDInt8, types.NewInt(123456), encoding.Ascending, false)
	require.NoError(t, err)
	key, err = AppendKey(key, types.OIDText, types.NewString("abc"), encoding.Ascending, false)
	require.NoError(t, err)
	var cols []Column
	for i := range vals {
		cols = append(cols, Column{ID: int16(i + 1), Slot: i})
	}
	dec := NewDecoder(cols)
	out := make([]types.Datum, len(vals))
	var buf []byte
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := dec.Decode(row, out); err != nil {
			panic(err)
		}
		_, rest, err := DecodeKey(key, types.OIDInt8, -1, encoding.Ascending)
		if err != nil {
			panic(err)
		}
		if _, _, err = DecodeKey(rest, types.OIDText, -1, encoding.Ascending); err != nil {
			panic(err)
		}
		if types.Compare(out[0], out[5]) >= 0 {
			panic("order")
		}
	}))
	buf, err = AppendRow(buf, []int16{1, 2, 3, 4, 5, 6}, vals)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := AppendRow(buf[:0], []int16{1, 2, 3, 4, 5, 6}, vals); err != nil {
			panic(err)
		}
	}))
}

func FuzzDecodeRow(f *testing.F) {
	ids, _, vals := sampleRow(f)
	row, err := AppendRow(nil, ids, vals)
	require.NoError(f, err)
	f.Add(row)
	for i := range ids {
		one, err := AppendRow(nil, ids[i:i+1], vals[i:i+1])
		require.NoError(f, err)
		f.Add(one)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var cols []Column
		for id := int16(1); id < 40; id++ {
			cols = append(cols, Column{ID: id, Slot: int(id)})
		}
		out := make([]types.Datum, 40)
		if NewDecoder(cols).Decode(b, out) != nil {
			return
		}
		// What decodes can be written and read again.
		var ids []int16
		for id := int16(1); id < 40; id++ {
			ids = append(ids, id)
		}
		again, err := AppendRow(nil, ids, out[1:])
		require.NoError(t, err)
		out2 := make([]types.Datum, 40)
		require.NoError(t, NewDecoder(cols).Decode(again, out2))
		again2, err := AppendRow(nil, ids, out2[1:])
		require.NoError(t, err)
		require.Equal(t, again, again2)
	})
}

func FuzzDecodeKey(f *testing.F) {
	var oids []types.OID
	for name, groups := range ordered {
		oid := parseType(f, name)
		oids = append(oids, oid)
		for _, group := range groups {
			d, err := types.ParseText(oid, -1, group[0], nil)
			require.NoError(f, err)
			key, err := AppendKey(nil, oid, d, encoding.Ascending, false)
			require.NoError(f, err)
			f.Add(key, uint8(len(oids)), false)
		}
	}
	slices.Sort(oids)
	f.Fuzz(func(t *testing.T, b []byte, which uint8, desc bool) {
		oid := oids[int(which)%len(oids)]
		dir := encoding.Ascending
		if desc {
			dir = encoding.Descending
		}
		d, rest, err := DecodeKey(b, oid, -1, dir)
		if err != nil || d.IsNull() {
			return
		}
		require.LessOrEqual(t, len(rest), len(b))
		again, err := AppendKey(nil, oid, d, dir, false)
		require.NoError(t, err)
		d2, rest, err := DecodeKey(again, oid, -1, dir)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Zero(t, types.Comparator(oid)(d, d2))
	})
}
