package builtins

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func byteaFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		x, y := a[0].Bytes(), a[1].Bytes()
		return types.NewBytes(append(append(make([]byte, 0, len(x)+len(y)), x...), y...)), nil
	}, "byteacat")
	sub := func(b []byte, start, length int64, bounded bool) (types.Datum, error) {
		end := int64(len(b)) + 1
		if bounded {
			if length < 0 {
				return types.Null, errNegativeSubstring()
			}
			if e, ok := addInt(start, length); ok {
				end = min(end, e)
			}
		}
		start = max(start, 1)
		if start >= end {
			return types.NewBytes([]byte{}), nil
		}
		return types.NewBytes(b[start-1 : end-1 : end-1]), nil
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return sub(a[0].Bytes(), a[1].Int(), a[2].Int(), true)
	}, "bytea_substr")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return sub(a[0].Bytes(), a[1].Int(), 0, false)
	}, "bytea_substr_no_len")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return integer(bytes.Index(a[0].Bytes(), a[1].Bytes()) + 1)
	}, "byteapos")
	trims := map[string]func([]byte, string) []byte{"byteatrim": bytes.Trim, "bytealtrim": bytes.TrimLeft, "byteartrim": bytes.TrimRight}
	for name := range trims {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			b, set := a[0].Bytes(), a[1].Bytes()
			in := func(c byte) bool { return bytes.IndexByte(set, c) >= 0 }
			for name != "byteartrim" && len(b) > 0 && in(b[0]) {
				b = b[1:]
			}
			for name != "bytealtrim" && len(b) > 0 && in(b[len(b)-1]) {
				b = b[:len(b)-1]
			}
			return types.NewBytes(b), nil
		}, name)
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		sum := md5.Sum(a[0].Bytes())
		return str(hex.EncodeToString(sum[:]))
	}, "md5_bytea")
	for name, bits := range map[string]int{"sha224_bytea": 224, "sha256_bytea": 256, "sha384_bytea": 384, "sha512_bytea": 512} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			return types.NewBytes(sha(a[0].Bytes(), bits)), nil
		}, name)
	}
	index := func(b []byte, i int64) error {
		if i < 0 || i >= int64(len(b)) {
			return pgerror.New(pgerrcode.ArraySubscriptError, "index %d out of valid range, 0..%d", i, len(b)-1)
		}
		return nil
	}
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if err := index(a[0].Bytes(), a[1].Int()); err != nil {
			return types.Null, err
		}
		return integer(int(a[0].Bytes()[a[1].Int()]))
	}, "byteaGetByte")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if err := index(a[0].Bytes(), a[1].Int()); err != nil {
			return types.Null, err
		}
		b := bytes.Clone(a[0].Bytes())
		b[a[1].Int()] = byte(a[2].Int())
		return types.NewBytes(b), nil
	}, "byteaSetByte")
	r.fn(encodeBytes, "binary_encode")
	r.fn(decodeBytes, "binary_decode")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if err := onlyUTF8(a[1].Str()); err != nil {
			return types.Null, err
		}
		s := string(a[0].Bytes())
		if err := types.ValidateText(s); err != nil {
			return types.Null, err
		}
		return str(s)
	}, "pg_convert_from")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		if err := onlyUTF8(a[1].Str()); err != nil {
			return types.Null, err
		}
		return types.NewBytes([]byte(a[0].Str())), nil
	}, "pg_convert_to")
}

func onlyUTF8(name string) error {
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name)) {
	case "utf8", "unicode", "sqlascii":
		return nil
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "conversion between %s and UTF8 is not supported", strings.ToUpper(name))
}

func errEncoding(name string) error {
	return pgerror.New(pgerrcode.InvalidParameterValue, "unrecognized encoding: \"%s\"", name)
}

func encodeBytes(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	b := a[0].Bytes()
	switch strings.ToLower(a[1].Str()) {
	case "hex":
		return str(hex.EncodeToString(b))
	case "escape":
		var out []byte
		for _, c := range b {
			switch {
			case c == 0 || c >= 0x80:
				out = append(out, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
			case c == '\\':
				out = append(out, '\\', '\\')
			default:
				out = append(out, c)
			}
		}
		return str(string(out))
	case "base64":
		const line = 76
		s := base64.StdEncoding.EncodeToString(b)
		var out strings.Builder
		for len(s) > line {
			out.WriteString(s[:line] + "\n")
			s = s[line:]
		}
		return str(out.String() + s)
	}
	return types.Null, errEncoding(a[1].Str())
}

func decodeBytes(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	s := a[0].Str()
	switch strings.ToLower(a[1].Str()) {
	case "hex":
		b, err := types.ParseBytea(`\x` + s)
		return types.NewBytes(b), err
	case "escape":
		if strings.HasPrefix(s, `\x`) {
			return types.Null, pgerror.New(pgerrcode.InvalidTextRepresentation, "invalid input syntax for type bytea")
		}
		b, err := types.ParseBytea(s)
		return types.NewBytes(b), err
	case "base64":
		return decodeBase64(s)
	}
	return types.Null, errEncoding(a[1].Str())
}

func decodeBase64(s string) (types.Datum, error) {
	clean := strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\n' || r == '\r' {
			return -1
		}
		return r
	}, s)
	for _, r := range clean {
		if r != '+' && r != '/' && r != '=' && !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid symbol \"%s\" found while decoding base64 sequence", string(r))
		}
	}
	b, err := base64.StdEncoding.DecodeString(clean)
	if err != nil {
		return types.Null, pgerror.New(pgerrcode.InvalidParameterValue, "invalid base64 end sequence").
			WithHint("Input data is missing padding, is truncated, or is otherwise corrupted.")
	}
	return types.NewBytes(b), nil
}
