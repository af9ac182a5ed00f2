package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBadInput throws bytes at the SQL port that no client sends. The server answers or hangs
// up, keeps its memory, and goes on for others.
func TestBadInput(t *testing.T) {
	c := StartCluster(t)
	healthy := c.Connect(t, 0)
	before := memory(t, c, 0)
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	startup := message(0, append([]byte{0, 3, 0, 0}, "user\x00postgres\x00database\x00postgres\x00\x00"...))
	for _, tc := range []struct {
		name    string
		startup bool
		send    []byte
	}{
		{"noise", false, noise},
		{"HTTP", false, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"zeros", false, make([]byte, 4096)},
		{"2 GiB startup", false, []byte{0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0}},
		{"negative startup", false, []byte{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0}},
		{"startup of 3 bytes", false, []byte{0, 0, 0, 3}},
		{"protocol 9", false, message(0, []byte{0, 9, 0, 0, 0})},
		{"2 GiB query", true, []byte{'Q', 0x7f, 0xff, 0xff, 0xff, 'S', 'E'}},
		{"2 GiB bind", true, []byte{'B', 0x7f, 0xff, 0xff, 0xff}},
		{"negative length", true, []byte{'Q', 0x80, 0, 0, 0}},
		{"length 0", true, []byte{'Q', 0, 0, 0, 0}},
		{"unknown message", true, message(0x01, []byte("what"))},
		{"noise after startup", true, noise},
		{"query without end", true, message('Q', []byte("SELECT 1"))},
		{"bind with 65535 parameters and none there", true, message('B', []byte{0, 0, 0, 0, 0xff, 0xff})},
		{"parse with a cut string", true, message('P', []byte("name"))},
		{"copy data outside of a copy", true, append(message('d', noise), message('Q', []byte("SELECT 1\x00"))...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nc, err := net.DialTimeout("tcp", loopback(c.sqlPort), 5*time.Second)
			require.NoError(t, err)
			defer nc.Close()
			require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
			if tc.startup {
				_, err := nc.Write(startup)
				require.NoError(t, err)
				awaitReadyForQuery(t, nc)
			}
			_, _ = nc.Write(tc.send) // it may hang up in the middle
			if tcp, ok := nc.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			_, err = io.Copy(io.Discard, nc)
			require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "the server neither answers nor hangs up")
			var one int
			require.NoError(t, healthy.QueryRow(t.Context(), "SELECT 1").Scan(&one), "another client's connection")
		})
	}
	t.Run("2 GiB is not waited for", func(t *testing.T) {
		// The client keeps its side open: the announced length alone must be refused.
		nc, err := net.DialTimeout("tcp", loopback(c.sqlPort), 5*time.Second)
		require.NoError(t, err)
		defer nc.Close()
		require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = nc.Write(startup)
		require.NoError(t, err)
		awaitReadyForQuery(t, nc)
		_, err = nc.Write([]byte{'Q', 0x7f, 0xff, 0xff, 0xff, 'S', 'E'})
		require.NoError(t, err)
		got, err := io.ReadAll(nc)
		require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still waiting; got %q", got)
		require.Contains(t, string(got), "E", "an ErrorResponse before the connection closes")
	})
	require.Less(t, memory(t, c, 0)-before, float64(512<<20), "memory grew by the announced lengths")
	c.Connect(t, 0)
}

// message frames a protocol message; kind 0 is the startup message, which has no kind.
func message(kind byte, body []byte) []byte {
	var b []byte
	if kind != 0 {
		b = append(b, kind)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	return append(b, body...)
}

// awaitReadyForQuery reads messages until the session is ready.
func awaitReadyForQuery(t *testing.T, r io.Reader) {
	t.Helper()
	var h [5]byte
	for {
		_, err := io.ReadFull(r, h[:])
		require.NoError(t, err)
		body := make([]byte, binary.BigEndian.Uint32(h[1:])-4)
		_, err = io.ReadFull(r, body)
		require.NoError(t, err)
		require.NotEqual(t, byte('E'), h[0], "startup failed: %q", body)
		if h[0] == 'Z' {
			return
		}
	}
}

var residentMemory = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)

// memory is a node's resident memory as its metrics tell.
func memory(t *testing.T, c *Cluster, node int) float64 {
	t.Helper()
	_, body, err := c.Get(node, "/metrics")
	require.NoError(t, err)
	m := residentMemory.FindStringSubmatch(body)
	require.NotNil(t, m, "process_resident_memory_bytes is missing")
	v, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	return v
}
