package raftnet

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
)

func TestServerID(t *testing.T) {
	require.Equal(t, raft.ServerID("n3/17"), ServerID(3, 17))
	n, r, err := ParseServerID("n3/17")
	require.NoError(t, err)
	require.Equal(t, keys.NodeID(3), n)
	require.Equal(t, keys.ReplicaID(17), r)
	for _, bad := range []raft.ServerID{"", "n", "n3", "n/1", "n3/", "x3/1", "n0/1", "n1/0", "n-1/1", "127.0.0.1:80", "n3/1/2", "n99999999999/1"} {
		_, _, err := ParseServerID(bad)
		require.Error(t, err, "%q", bad)
	}
}

func sampleAppend() *appendRequest {
	r := &appendRequest{envelope: envelope{rangeID: 7, from: 1, to: 300, generation: 2}}
	r.Term, r.PrevLogEntry, r.PrevLogTerm, r.LeaderCommitIndex = 5, 1000, 4, 999
	r.Entries = []*raft.Log{
		{Index: 1001, Term: 5, Type: raft.LogCommand, Data: []byte("hello"), AppendedAt: time.Unix(0, 12345)},
		{Index: 1002, Term: 5, Type: raft.LogNoop, Extensions: []byte{1, 2}},
		{Index: 1003, Term: 5, Type: raft.LogConfiguration, Data: bytes.Repeat([]byte{9}, 300)},
	}
	return r
}

func TestRaftCodecRoundTrip(t *testing.T) {
	a := sampleAppend()
	var back appendRequest
	b := a.encode(nil)
	require.LessOrEqual(t, len(b), a.size())
	require.NoError(t, back.decode(b))
	require.Equal(t, a, &back)
	id, ok := peekRange(b)
	require.True(t, ok)
	require.Equal(t, keys.RangeID(7), id)

	ar := appendResponse{fortified: true, epoch: 1<<32 | 9}
	ar.Term, ar.LastLog, ar.Success, ar.NoRetryBackoff = 3, 4, true, true
	var ar2 appendResponse
	require.NoError(t, ar2.decode(ar.encode(nil)))
	require.Equal(t, ar, ar2)

	v := voteRequest{envelope: a.envelope, term: 9, lastIndex: 8, lastTerm: 7, transfer: true, token: releaseToken{3, 8}}
	var v2 voteRequest
	require.NoError(t, v2.decode(v.encode(nil)))
	require.Equal(t, v, v2)
	vr := voteResponse{term: 9, granted: true, limit: 1 << 60}
	var vr2 voteResponse
	require.NoError(t, vr2.decode(vr.encode(nil)))
	require.Equal(t, vr, vr2)
	tn := timeoutNowRequest{envelope: a.envelope, term: 9, low: 77}
	var tn2 timeoutNowRequest
	require.NoError(t, tn2.decode(tn.encode(nil)))
	require.Equal(t, tn, tn2)
	in := installRequest{envelope: a.envelope}
	in.Term, in.LastLogIndex, in.LastLogTerm, in.Configuration, in.ConfigurationIndex, in.Size, in.SnapshotVersion = 1, 2, 3, []byte("cfg"), 4, 5, 1
	var in2 installRequest
	require.NoError(t, in2.decode(in.encode(nil)))
	require.Equal(t, in, in2)
	h := hello{minProto: 1, maxProto: 2, id: Identity{"c", 3, 4}, nonce: 5, class: Bulk, target: 6, anonymous: true, reject: 7, message: "m", seenBoot: 8}
	h2, err := decodeHello(appendHello(nil, &h))
	require.NoError(t, err)
	require.Equal(t, h, h2)
	// A field of a later version is skipped.
	require.NoError(t, vr2.decode(append(vr.encode(nil), 0xa2, 0x06, 1, 'x')))
	require.Equal(t, vr, vr2)
}

func TestFrameChecksum(t *testing.T) {
	b := appendFrame(nil, &frame{kind: kindRequest, method: MethodKVBatch, id: 5, aux: 6, payload: []byte("payload")})
	var f frame
	require.NoError(t, readFrame(bufio.NewReader(bytes.NewReader(b)), &f))
	require.Equal(t, frame{kind: kindRequest, method: MethodKVBatch, id: 5, aux: 6, payload: []byte("payload")}, f)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x10
		require.Error(t, readFrame(bufio.NewReader(bytes.NewReader(c)), &f), "byte %d", i)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(nil, &frame{kind: kindRequest, method: MethodKVBatch, id: 5, payload: []byte("payload")}))
	f.Add([]byte{0xff, 0xff, 0xff, 0x03, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var fr frame
		if readFrame(bufio.NewReader(bytes.NewReader(b)), &fr) == nil {
			out := appendFrame(nil, &fr)
			if !bytes.HasPrefix(b, out) {
				t.Fatalf("%x decodes to %+v, which encodes to %x", b, fr, out)
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	_ = writeHello(&b, &hello{minProto: 1, maxProto: 1, id: Identity{"c", 3, 4}, nonce: 5})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readHello(bytes.NewReader(b))
		_, _ = decodeHello(b)
	})
}

// FuzzRaftMessages: no decoder panics, and what decodes survives another round trip.
func FuzzRaftMessages(f *testing.F) {
	f.Add(sampleAppend().encode(nil))
	f.Add((&voteRequest{term: 9, token: releaseToken{3, 8}}).encode(nil))
	f.Add(encodeList([][]byte{{1, 2}, nil, {3}}))
	f.Add(encodeRelease(envelope{rangeID: 3}, 9, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, a2 appendRequest
		if a.decode(b) == nil {
			e := a.encode(nil)
			require.LessOrEqual(t, len(e), a.size())
			require.NoError(t, a2.decode(e))
			require.Equal(t, len(a.Entries), len(a2.Entries))
			require.Equal(t, a.envelope, a2.envelope)
		}
		var ar, ar2 appendResponse
		if ar.decode(b) == nil {
			require.NoError(t, ar2.decode(ar.encode(nil)))
			require.Equal(t, ar, ar2)
		}
		var v, v2 voteRequest
		if v.decode(b) == nil {
			require.NoError(t, v2.decode(v.encode(nil)))
			require.Equal(t, v, v2)
		}
		_ = new(voteResponse).decode(b)
		_ = new(timeoutNowRequest).decode(b)
		_ = new(installRequest).decode(b)
		_, _ = decodeList(b)
		_, _, _, _ = decodeRelease(b)
		_, _ = peekRange(b)
		_, _, _ = ParseServerID(raft.ServerID(b))
	})
}
