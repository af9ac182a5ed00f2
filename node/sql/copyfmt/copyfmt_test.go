package copyfmt

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// chunks yields data in pieces of n bytes, as CopyData messages may cut anywhere.
func chunks(data []byte, n int) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(data) == 0 {
			return nil, io.EOF
		}
		k := min(n, len(data))
		b := append([]byte(nil), data[:k]...)
		data = data[k:]
		return b, nil
	}
}

func readAll(t testing.TB, o Options, data []byte, n int) [][]string {
	d := NewDecoder(o, chunks(data, n))
	var rows [][]string
	for {
		fs, err := d.Next()
		if errors.Is(err, io.EOF) {
			return rows
		}
		require.NoError(t, err)
		row := make([]string, len(fs))
		for i, f := range fs {
			if f.Null {
				row[i] = "<null>"
			} else {
				row[i] = string(f.Data)
			}
		}
		rows = append(rows, row)
	}
}

func TestDecode(t *testing.T) {
	csv := NewOptions(CSV)
	header := csv
	header.Header = true
	backslash := csv
	backslash.Escape = '\\'
	for name, tc := range map[string]struct {
		opts Options
		in   string
		want [][]string
	}{
		"text":           {NewOptions(Text), "1\ta\n2\t\\N\n", [][]string{{"1", "a"}, {"2", "<null>"}}},
		"text escapes":   {NewOptions(Text), `a\tb` + "\t" + `\x41\101\\` + "\t" + `\q` + "\n", [][]string{{"a\tb", "AA\\", "q"}}},
		"text end":       {NewOptions(Text), "1\n\\.\n2\n", [][]string{{"1"}}},
		"text no eol":    {NewOptions(Text), "1\t2", [][]string{{"1", "2"}}},
		"text crlf":      {NewOptions(Text), "1\r\n2\r\n", [][]string{{"1"}, {"2"}}},
		"text empty":     {NewOptions(Text), "\n", [][]string{{""}}},
		"csv":            {csv, "1,a,\n\"x,y\",\"\",\"q\"\"q\"\n", [][]string{{"1", "a", "<null>"}, {"x,y", "", `q"q`}}},
		"csv newline":    {csv, "\"a\nb\",c\n", [][]string{{"a\nb", "c"}}},
		"csv header":     {header, "h1,h2\n1,2\n", [][]string{{"1", "2"}}},
		"csv escape":     {backslash, `"a\"b",c` + "\n", [][]string{{`a"b`, "c"}}},
		"csv last empty": {csv, "1,\n", [][]string{{"1", "<null>"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2, 3, 1000} {
				require.Equal(t, tc.want, readAll(t, tc.opts, []byte(tc.in), n), "chunks of %d", n)
			}
		})
	}
}

func TestDecodeFaults(t *testing.T) {
	_, err := NewDecoder(NewOptions(CSV), chunks([]byte("\"open"), 2)).Next()
	var pe *pgerror.Error
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "22P04", pe.Code)
	// A binary COPY may end without its trailer, but not inside a row.
	binaryRow := append(append([]byte(nil), binarySignature...), 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'x')
	require.Equal(t, [][]string{{"x"}}, readAll(t, NewOptions(Binary), binaryRow, 3))
	for _, keep := range []int{len(binaryRow) - 1, len(binaryRow) - 5, len(binaryRow) - 6} {
		_, err = NewDecoder(NewOptions(Binary), chunks(binaryRow[:keep], 3)).Next()
		require.ErrorAs(t, err, &pe, "%d bytes", keep)
		require.Equal(t, "22P04", pe.Code)
	}
	_, err = NewDecoder(NewOptions(Binary), chunks([]byte("not a signature at all"), 5)).Next()
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "22P04", pe.Code)
}

func TestRoundTrip(t *testing.T) {
	rows := [][]Field{
		{{Data: []byte("plain")}, {Null: true}, {Data: []byte("")}},
		{{Data: []byte("tab\tnl\ncr\rbs\\q\"c,\\.")}, {Data: []byte("\\N")}, {Data: []byte("\x01\x7f")}},
		{{Data: []byte(`\.`)}, {Data: []byte(`"`)}, {Data: []byte(`,`)}},
	}
	for _, f := range []Format{Text, CSV, Binary} {
		o := NewOptions(f)
		b := AppendHeader(nil, &o, nil)
		for _, r := range rows {
			b = AppendRow(b, &o, r)
		}
		b = AppendTrailer(b, &o)
		got := readAll(t, o, b, 7)
		require.Len(t, got, len(rows))
		for i, r := range rows {
			for j, f := range r {
				want := string(f.Data)
				if f.Null {
					want = "<null>"
				}
				require.Equal(t, want, got[i][j])
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("1\ta\n"), byte(0))
	f.Add([]byte("\"a\"\"b\",\n"), byte(1))
	f.Add(append(append([]byte(nil), binarySignature...), 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'x', 0xff, 0xff), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, format byte) {
		d := NewDecoder(NewOptions(Format(format%3)), chunks(data, 3))
		for range 1000 {
			if _, err := d.Next(); err != nil {
				return
			}
		}
	})
}
