package types

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// testdata/text.txt holds lines
//
//	TYPE "input" => "output" BINARY-HEX   or   TYPE "input" => ERROR SQLSTATE message [DETAIL: ..] [HINT: ..]
//
// that a PostgreSQL 15 server produced (see pgdiff_test.go), with TimeZone as the last "zone" line says.
type textCase struct {
	line          int
	zone          string
	typ, in, want string
	wantBin       string
}

func readTextCases(t testing.TB, path string) []textCase {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var out []textCase
	zone := "UTC"
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		if z, ok := strings.CutPrefix(line, "zone "); ok {
			zone = z
			continue
		}
		left, want, _ := strings.Cut(line, " => ")
		i := strings.Index(left, ` "`)
		require.Positive(t, i, "line %d: %s", n, line)
		in, err := strconv.Unquote(left[i+1:])
		require.NoError(t, err, "line %d: %s", n, line)
		c := textCase{line: n, zone: zone, typ: strings.TrimSpace(left[:i]), in: in, want: want}
		if q, err := strconv.QuotedPrefix(want); err == nil {
			c.want, c.wantBin = q, strings.TrimSpace(want[len(q):])
		}
		out = append(out, c)
	}
	require.NoError(t, sc.Err())
	return out
}

// parseTestType reads name[(mods)][[]].
func parseTestType(s string) (OID, int32, error) {
	name, array := strings.CutSuffix(s, "[]")
	var mods []int32
	if i := strings.IndexByte(name, '('); i >= 0 {
		j := strings.IndexByte(name, ')')
		for _, m := range strings.Split(name[i+1:j], ",") {
			v, err := strconv.Atoi(strings.TrimSpace(m))
			if err != nil {
				return 0, 0, err
			}
			mods = append(mods, int32(v))
		}
		name = name[:i] + name[j+1:]
	}
	t, ok := LookupName(strings.Trim(name, `"`))
	if !ok {
		return 0, 0, fmt.Errorf("no type %q", name)
	}
	mod, err := EncodeTypmod(t.OID, mods)
	if array {
		return t.Array, mod, err
	}
	return t.OID, mod, err
}

func errorText(err error) string {
	var pe *pgerror.Error
	if !errors.As(err, &pe) {
		return "ERROR (not a pgerror) " + err.Error()
	}
	s := "ERROR " + pe.Code + " " + pe.Message
	if pe.Detail != "" {
		s += " DETAIL: " + pe.Detail
	}
	if pe.Hint != "" {
		s += " HINT: " + pe.Hint
	}
	return s
}

func runTextCase(c textCase) (got, gotBin string) {
	oid, mod, err := parseTestType(c.typ)
	if err != nil {
		return errorText(err), ""
	}
	env := DefaultEnv()
	env.Now = time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)
	if env.Location, err = LoadZone(c.zone); err != nil {
		return errorText(err), ""
	}
	d, err := ParseText(oid, -1, c.in, env)
	if oid == OIDInterval {
		d, err = ParseText(oid, mod, c.in, env)
	}
	if err == nil {
		d, err = ApplyTypmod(oid, mod, true, d)
	}
	if err != nil {
		return errorText(err), ""
	}
	bin, err := AppendBinary(nil, oid, d, env)
	if err != nil {
		return errorText(err), ""
	}
	back, err := ParseBinary(oid, -1, bin, env)
	if err != nil {
		return "binary does not read back: " + errorText(err), ""
	}
	if a, b := Text(oid, d, env), Text(oid, back, env); a != b {
		return fmt.Sprintf("binary reads back as %q, text is %q", b, a), ""
	}
	if Compare(d, back) != 0 || Hash(oid, d) != Hash(oid, back) {
		return "binary does not read back equal", ""
	}
	return strconv.Quote(Text(oid, d, env)), hex.EncodeToString(bin)
}

func TestTextCases(t *testing.T) {
	for _, c := range readTextCases(t, "testdata/text.txt") {
		got, bin := runTextCase(c)
		if got != c.want || c.wantBin != "" && bin != c.wantBin {
			t.Errorf("text.txt:%d: %s %q in %s\n got %s %s\nwant %s %s", c.line, c.typ, c.in, c.zone, got, bin, c.want, c.wantBin)
		}
	}
}
