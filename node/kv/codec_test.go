package kv

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fill sets every field below v to a non-zero value that differs from field to field, so
// that a codec that forgets or swaps one can't pass.
func fill(t *testing.T, v reflect.Value, next *int64, enumLast map[reflect.Type]int64) {
	*next++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), next, enumLast)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(t, v.Field(i), next, enumLast)
			}
		}
	case reflect.Slice:
		n := 2
		if v.Type().Elem().Kind() == reflect.Uint8 {
			n = 200 // a length beyond one byte
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(t, v.Index(i), next, enumLast)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), next, enumLast)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("s", *next))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(*next)
	case reflect.Uint64:
		v.SetUint(uint64(*next))
	case reflect.Uint8:
		if last, ok := enumLast[v.Type()]; ok {
			v.SetUint(uint64(*next%last) + 1)
		} else {
			v.SetUint(uint64(*next%250) + 1)
		}
	default:
		t.Fatalf("no value for kind %s of %s", v.Kind(), v.Type())
	}
}

var enums = map[reflect.Type]int64{
	reflect.TypeFor[WaitPolicy]():        int64(WaitSkipLocked),
	reflect.TypeFor[LockStrength]():      int64(LockExclusive),
	reflect.TypeFor[Isolation]():         int64(ReadCommitted),
	reflect.TypeFor[TxnStatus]():         int64(TxnAborted),
	reflect.TypeFor[PushKind]():          int64(PushTouch),
	reflect.TypeFor[ReplicaChangeKind](): int64(DemoteToNonVoter),
	reflect.TypeFor[ReplicaType]():       int64(NewWitness),
	reflect.TypeFor[Quarantine]():        int64(LostLog),
	reflect.TypeFor[RetryReason]():       int64(RetryUncertainty),
}

func filled[T any](t *testing.T, m T, seed int64) T {
	fill(t, reflect.ValueOf(m).Elem(), &seed, enums)
	return m
}

func TestEveryRequestAndResponseRoundTrips(t *testing.T) {
	for n := 1; n < len(methods); n++ {
		req, resp := filled(t, methods[n].request(), 5), filled(t, methods[n].response(), 9)
		require.EqualValues(t, n, requestNumber(req))
		require.EqualValues(t, n, responseNumber(resp))
		t.Run(strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", req), "*kv."), "Request"), func(t *testing.T) {
			ba := &BatchRequest{Requests: []Request{req, methods[n].request()}}
			filled(t, &ba.Header, 3)
			got, err := DecodeBatchRequest(EncodeBatchRequest([]byte("x"), ba)[1:])
			require.NoError(t, err)
			require.Equal(t, ba, got)

			one, err := DecodeRequest(EncodeRequest(nil, req))
			require.NoError(t, err)
			require.Equal(t, req, one)

			br := &BatchResponse{Responses: []Response{resp, resp}}
			br.Txn = filled(t, new(Txn), 1)
			br.Timestamp.WallNanos, br.Now.WallNanos = 7, 8
			br.RangeDescriptors = []RangeDescriptor{*filled(t, new(RangeDescriptor), 2)}
			gotResp, err := DecodeBatchResponse(EncodeBatchResponse(nil, br))
			require.NoError(t, err)
			require.Equal(t, br, gotResp)

			br2, rerr, err := DecodeReply(EncodeReply(nil, br, nil))
			require.NoError(t, err)
			require.NoError(t, rerr)
			require.Equal(t, br, br2)
		})
	}
	// Header and BatchResponse themselves: a new field must not be forgotten.
	require.Equal(t, 16, reflect.TypeFor[Header]().NumField(), "Header has a new field: extend the codec")
	require.Equal(t, 5, reflect.TypeFor[BatchResponse]().NumField(), "BatchResponse has a new field: extend the codec")
}

func TestEveryErrorRoundTrips(t *testing.T) {
	for n := 1; n < len(errorTypes); n++ {
		e := filled(t, errorTypes[n](), 4)
		require.NotEmpty(t, e.Error())
		require.EqualValues(t, n, errorNumber(e))
		got, err := DecodeError(EncodeError(nil, fmt.Errorf("wrapped: %w", e)))
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	got, err := DecodeError(EncodeError(nil, errors.Join(errors.New("a"), &AbortedError{Reason: "b"})))
	require.NoError(t, err)
	require.Equal(t, &AbortedError{Reason: "b"}, got)
	for _, e := range []error{context.Canceled, context.DeadlineExceeded} {
		got, err := DecodeError(EncodeError(nil, fmt.Errorf("call: %w", e)))
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	_, got, err = DecodeReply(EncodeReply(nil, nil, errors.New("boom")))
	require.NoError(t, err)
	require.Equal(t, &InternalError{Detail: "boom"}, got)
}

func TestStoredFormsShareNoMemory(t *testing.T) {
	desc := *filled(t, new(RangeDescriptor), 1)
	txn := filled(t, new(Txn), 1)
	db, tb, mb := EncodeRangeDescriptor(nil, &desc), EncodeTxn(nil, txn), EncodeTxnMeta(nil, &txn.TxnMeta)
	gotDesc, err := DecodeRangeDescriptor(db)
	require.NoError(t, err)
	gotTxn, err := DecodeTxn(tb)
	require.NoError(t, err)
	gotMeta, err := DecodeTxnMeta(mb)
	require.NoError(t, err)
	for _, b := range [][]byte{db, tb, mb} {
		clear(b)
	}
	require.Equal(t, desc, gotDesc)
	require.Equal(t, txn, gotTxn)
	require.Equal(t, txn.TxnMeta, gotMeta)
}

// TestCodecKnowsEveryType reads the contract's source, so that a type added there and not
// here fails.
func TestCodecKnowsEveryType(t *testing.T) {
	known := map[string]bool{}
	for n := 1; n < len(methods); n++ {
		known[reflect.TypeOf(methods[n].request()).Elem().Name()] = true
		known[reflect.TypeOf(methods[n].response()).Elem().Name()] = true
	}
	for n := 1; n < len(errorTypes); n++ {
		known[reflect.TypeOf(errorTypes[n]()).Elem().Name()] = true
	}
	fset, found := token.NewFileSet(), 0
	for _, file := range []string{"api.go", "errors.go"} {
		f, err := parser.ParseFile(fset, file, nil, 0)
		require.NoError(t, err)
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			star, ok := fn.Recv.List[0].Type.(*ast.StarExpr)
			if name := fn.Name.Name; ok && (name == "request" || name == "response" || name == "Error") {
				found++
				require.True(t, known[star.X.(*ast.Ident).Name], "%s has no codec", star.X.(*ast.Ident).Name)
			}
		}
	}
	require.Greater(t, found, 50)
}

func TestDecodeRefuses(t *testing.T) {
	good := EncodeBatchRequest(nil, &BatchRequest{Requests: []Request{&GetRequest{Key: []byte("k")}}})
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{nil, "empty"},
		{[]byte{9}, "format version 9"},
		{good[:len(good)-1], "cannot decode"},
		{make([]byte, MaxMessageBytes+1), "limit"},
		{[]byte{1, 15<<3 | 2, 3, 0xfa, 0x06, 0}, "unknown request"},
		{[]byte{1, 15<<3 | 2, 0}, "empty request"},
		{[]byte{1, 8 << 3, 77}, "unknown value 77"},
	} {
		_, err := DecodeBatchRequest(c.b)
		require.ErrorContains(t, err, c.want)
	}
	// Unknown fields of later versions of this format are skipped.
	ba, err := DecodeBatchRequest(append(good, 30<<3&0x7f|0x80, 1, 5))
	require.NoError(t, err)
	require.Len(t, ba.Requests, 1)
}

func TestReplicaChangeKindsAreBounded(t *testing.T) {
	for kind := range AddWitness + 2 {
		in := &AdminChangeReplicasRequest{Key: []byte("k"), Generation: 3, Kind: kind, Node: 2}
		ba, err := DecodeBatchRequest(EncodeBatchRequest(nil, &BatchRequest{Requests: []Request{in}}))
		if kind > AddWitness {
			require.ErrorContains(t, err, "unknown value 5")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, []Request{in}, ba.Requests)
	}
}

func fuzzSeeds(f *testing.F) {
	t := &testing.T{}
	for n := 1; n < len(methods); n++ {
		f.Add(EncodeBatchRequest(nil, &BatchRequest{Requests: []Request{filled(t, methods[n].request(), 3)}}))
		f.Add(EncodeReply(nil, &BatchResponse{Responses: []Response{filled(t, methods[n].response(), 3)}}, nil))
	}
	for kind := range DemoteToNonVoter + 1 {
		f.Add(EncodeBatchRequest(nil, &BatchRequest{Requests: []Request{&AdminChangeReplicasRequest{Key: []byte("k"), Generation: 3, Kind: kind, Node: 2}}}))
	}
	for n := 1; n < len(errorTypes); n++ {
		f.Add(EncodeReply(nil, nil, filled(t, errorTypes[n](), 3)))
	}
	f.Add(EncodeTxn(nil, filled(t, new(Txn), 3)))
	f.Add(EncodeRangeDescriptor(nil, filled(t, new(RangeDescriptor), 3)))
}

// FuzzDecode feeds bytes to every decoder: none may panic, and what one accepts must
// encode to something that decodes to the same.
func FuzzDecode(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if ba, err := DecodeBatchRequest(b); err == nil {
			again, err := DecodeBatchRequest(EncodeBatchRequest(nil, ba))
			require.NoError(t, err)
			require.Equal(t, EncodeBatchRequest(nil, ba), EncodeBatchRequest(nil, again))
		}
		if br, rerr, err := DecodeReply(b); err == nil {
			_, _, err := DecodeReply(EncodeReply(nil, br, rerr))
			require.NoError(t, err)
			if rerr != nil {
				_ = rerr.Error()
			}
		}
		if txn, err := DecodeTxn(b); err == nil {
			again, err := DecodeTxn(EncodeTxn(nil, txn))
			require.NoError(t, err)
			require.Equal(t, txn, again)
		}
		if desc, err := DecodeRangeDescriptor(b); err == nil {
			again, err := DecodeRangeDescriptor(EncodeRangeDescriptor(nil, &desc))
			require.NoError(t, err)
			require.Equal(t, desc, again)
		}
		_, _ = DecodeBatchResponse(b)
		_, _ = DecodeTxnMeta(b)
		_, _ = DecodeRequest(b)
		_, _ = DecodeError(b)
	})
}

// TestMutatedInputNeverPanics is the fuzz test's smoke run with damaged valid messages.
func TestMutatedInputNeverPanics(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		n := 1 + rng.IntN(len(methods)-1)
		b := EncodeReply(nil, &BatchResponse{Responses: []Response{filled(t, methods[n].response(), 3)}}, nil)
		for range 3 {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		_, _, _ = DecodeReply(b[:rng.IntN(len(b)+1)])
	}
}

func BenchmarkPutBatch(b *testing.B) {
	ba := &BatchRequest{}
	ba.Txn = &Txn{TxnMeta: TxnMeta{ID: TxnID{1}, Key: []byte("anchor")}}
	for range 4 {
		ba.Requests = append(ba.Requests, &PutRequest{Key: make([]byte, 20), Value: make([]byte, 100)})
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = EncodeBatchRequest(buf[:0], ba)
		if _, err := DecodeBatchRequest(buf); err != nil {
			b.Fatal(err)
		}
	}
}
