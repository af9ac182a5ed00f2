package types

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTypeTable(t *testing.T) {
	int4 := MustLookup(OIDInt4)
	require.Equal(t, "int4", int4.Name)
	require.Equal(t, int16(4), int4.Len)
	require.True(t, int4.ByVal)
	require.Equal(t, OIDInt4Array, int4.Array)
	require.Equal(t, OIDInt4, MustLookup(OIDInt4Array).Elem)
	require.True(t, MustLookup(OIDInt4Array).IsArray())
	require.False(t, MustLookup(OIDInt2Vector).IsArray())
	require.Equal(t, "int2vector", FormatType(OIDInt2Vector, -1))
	for _, ty := range All() {
		if ty.Array != 0 {
			if arr, ok := Lookup(ty.Array); ok && ty.Name != "record" {
				require.Equal(t, ty.OID, arr.Elem, ty.Name)
			}
		}
	}
	for name, want := range map[string]OID{"integer": OIDInt4, "int8": OIDInt8, "_text": OIDTextArray, "double precision": OIDFloat8} {
		got, ok := LookupName(name)
		require.True(t, ok, name)
		require.Equal(t, want, got.OID, name)
	}
	_, ok := LookupName("nosuch")
	require.False(t, ok)
}

// The expected strings come from format_type() in PostgreSQL 15.
func TestFormatType(t *testing.T) {
	num, err := EncodeTypmod(OIDNumeric, []int32{10, 2})
	require.NoError(t, err)
	neg, err := EncodeTypmod(OIDNumeric, []int32{3, -2})
	require.NoError(t, err)
	for _, c := range []struct {
		oid  OID
		mod  int32
		want string
	}{
		{OIDInt4, -1, "integer"}, {OIDVarChar, 14, "character varying(10)"}, {OIDVarChar, -1, "character varying"},
		{OIDBPChar, 7, "character(3)"}, {OIDBPChar, -1, "bpchar"}, {OIDNumeric, num, "numeric(10,2)"},
		{OIDNumeric, neg, "numeric(3,-2)"}, {OIDNumeric, -1, "numeric"},
		{OIDTimestamp, 3, "timestamp(3) without time zone"}, {OIDTimestampTZ, -1, "timestamp with time zone"},
		{OIDTimeTZ, 0, "time(0) with time zone"}, {OIDInt4Array, -1, "integer[]"}, {OIDVarCharArray, 14, "character varying(10)[]"},
		{OIDChar, -1, `"char"`}, {OIDTextArray, -1, "text[]"}, {OIDInterval, 6<<16 | 0xFFFF, "interval year to month"},
		{0, -1, "-"}, {999999, -1, "???"},
	} {
		require.Equal(t, c.want, FormatType(c.oid, c.mod))
	}
	p, s, ok := NumericTypmod(neg)
	require.True(t, ok)
	require.Equal(t, []int32{3, -2}, []int32{p, s})
}
