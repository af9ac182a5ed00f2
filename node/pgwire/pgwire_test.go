package pgwire

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"github.com/xdg-go/scram"
)

// testTimeout bounds every wait on a socket: a hang is a failure, not a stuck test.
const testTimeout = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func startServer(t testing.TB, cfg Config) (*Server, string) {
	s, err := NewServer(cfg, &fakeEngine{})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close(testContext(t)))
		require.NoError(t, <-done)
	})
	return s, l.Addr().String()
}

func dial(t testing.TB, addr, params string) *pgconn.PgConn {
	c, err := pgconn.Connect(testContext(t), "postgres://u@"+addr+"/db?sslmode=disable"+params)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestSimpleQuery(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	ctx := testContext(t)
	res, err := c.Exec(ctx, "rows 2; rows 1").ReadAll()
	require.NoError(t, err)
	require.Len(t, res, 2)
	require.Equal(t, "row 1", string(res[0].Rows[1][1]))
	require.Equal(t, "SELECT 2", res[0].CommandTag.String())

	res, err = c.Exec(ctx, "last; last").ReadAll()
	require.NoError(t, err)
	require.Equal(t, "f", string(res[0].Rows[0][0]), "more statements follow the first")
	require.Equal(t, "t", string(res[1].Rows[0][0]), "Sync follows the second")

	_, err = c.Exec(ctx, "rows 1; fail; rows 1").ReadAll()
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, [4]any{"42601", int32(3), "hint", "detail"}, [4]any{pe.Code, pe.Position, pe.Hint, pe.Detail})

	res, err = c.Exec(ctx, "  ;").ReadAll()
	require.NoError(t, err)
	require.Len(t, res, 1)
}

func TestExtendedQuery(t *testing.T) {
	_, addr := startServer(t, Config{})
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, "postgres://u@"+addr+"/db?sslmode=disable")
	require.NoError(t, err)
	defer conn.Close(ctx)
	var n int64
	require.NoError(t, conn.QueryRow(ctx, "arg", int64(42)).Scan(&n)) // binary both ways
	require.Equal(t, int64(42), n)
	var last bool
	require.NoError(t, conn.QueryRow(ctx, "last").Scan(&last))
	require.True(t, last, "pgx sends Sync right after Execute")

	var pe *pgconn.PgError
	_, err = conn.Exec(ctx, "failcommit")
	require.ErrorAs(t, err, &pe, "a commit that fails at Sync is the statement's failure")
	require.Equal(t, "40001", pe.Code)
	require.NoError(t, conn.QueryRow(ctx, "arg", int64(7)).Scan(&n))

	batch := &pgx.Batch{}
	batch.Queue("arg", int64(1))
	batch.Queue("last")
	br := conn.SendBatch(ctx, batch)
	require.NoError(t, br.QueryRow().Scan(&n))
	require.NoError(t, br.QueryRow().Scan(&last))
	require.NoError(t, br.Close())
}

// TestPortalSuspends fetches through a portal with a row limit.
func TestPortalSuspends(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	nc, fe := c.Conn(), c.Frontend()
	require.NoError(t, nc.SetDeadline(time.Now().Add(testTimeout)))
	fe.Send(&pgproto3.Query{String: "begin"})
	require.NoError(t, fe.Flush())
	readUntilReady(t, fe)
	fe.SendParse(&pgproto3.Parse{Query: "rows 5"})
	fe.SendBind(&pgproto3.Bind{DestinationPortal: "p"})
	fe.SendExecute(&pgproto3.Execute{Portal: "p", MaxRows: 2})
	fe.SendSync(&pgproto3.Sync{})
	require.NoError(t, fe.Flush())
	require.Equal(t, "12DDsZ", readUntilReady(t, fe), "two rows, PortalSuspended; the portal outlives Sync in a transaction")
	fe.SendExecute(&pgproto3.Execute{Portal: "p"})
	fe.SendExecute(&pgproto3.Execute{Portal: "p"})
	fe.SendSync(&pgproto3.Sync{})
	require.NoError(t, fe.Flush())
	require.Equal(t, "DDDCCZ", readUntilReady(t, fe), "the rest, then an empty second run")
	fe.Send(&pgproto3.Query{String: "commit"})
	require.NoError(t, fe.Flush())
	readUntilReady(t, fe)
	fe.SendExecute(&pgproto3.Execute{Portal: "p"})
	fe.SendSync(&pgproto3.Sync{})
	require.NoError(t, fe.Flush())
	require.Equal(t, "EZ", readUntilReady(t, fe), "the transaction's end drops its portals")
}

// TestErrorSkipsToSync checks that nothing after a failure runs before Sync.
func TestErrorSkipsToSync(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	fe := c.Frontend()
	require.NoError(t, c.Conn().SetDeadline(time.Now().Add(testTimeout)))
	for _, q := range []string{"fail", "rows 1"} {
		fe.SendParse(&pgproto3.Parse{Query: q})
		fe.SendBind(&pgproto3.Bind{})
		fe.SendExecute(&pgproto3.Execute{})
	}
	fe.SendSync(&pgproto3.Sync{})
	require.NoError(t, fe.Flush())
	require.Equal(t, "EZ", readUntilReady(t, fe))
}

// readUntilReady returns the types of the messages up to ReadyForQuery.
func readUntilReady(t testing.TB, fe *pgproto3.Frontend) string {
	var b strings.Builder
	for {
		m, err := fe.Receive()
		require.NoError(t, err)
		buf, err := m.Encode(nil)
		require.NoError(t, err)
		b.WriteByte(buf[0])
		if buf[0] == 'Z' {
			return b.String()
		}
	}
}

func TestCopy(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	ctx := testContext(t)
	tag, err := c.CopyFrom(ctx, strings.NewReader("1\n2\n3\n"), "copyin")
	require.NoError(t, err)
	require.Equal(t, "COPY 3", tag.String())
	_, err = c.CopyFrom(ctx, strings.NewReader("1\nbad\n"+strings.Repeat("more\n", 100_000)), "copyin")
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "22P04", pe.Code)
	var out bytes.Buffer
	tag, err = c.CopyTo(ctx, &out, "copyout")
	require.NoError(t, err)
	require.Equal(t, "COPY 2", tag.String())
	require.Equal(t, "a\nb\n", out.String())
}

func TestCancel(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	mrr := c.Exec(testContext(t), "wait")
	require.NoError(t, c.CancelRequest(testContext(t)))
	_, err := mrr.ReadAll()
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "57014", pe.Code)
}

func TestNotice(t *testing.T) {
	_, addr := startServer(t, Config{})
	cfg, err := pgconn.ParseConfig("postgres://u@" + addr + "/db?sslmode=disable")
	require.NoError(t, err)
	var got string
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { got = n.Message }
	c, err := pgconn.ConnectConfig(testContext(t), cfg)
	require.NoError(t, err)
	defer c.Close(context.Background())
	_, err = c.Exec(testContext(t), "notice").ReadAll()
	require.NoError(t, err)
	require.Equal(t, "hello", got)
}

func TestTooManyConnections(t *testing.T) {
	_, addr := startServer(t, Config{MaxConnections: 1})
	dial(t, addr, "")
	_, err := pgconn.Connect(testContext(t), "postgres://u@"+addr+"/db?sslmode=disable")
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "53300", pe.Code)
}

func TestMissingDatabase(t *testing.T) {
	_, addr := startServer(t, Config{})
	_, err := pgconn.Connect(testContext(t), "postgres://u@"+addr+"/missing?sslmode=disable")
	var pe *pgconn.PgError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, [2]string{"3D000", "FATAL"}, [2]string{pe.Code, pe.Severity})
}

func TestShutdownTellsClients(t *testing.T) {
	s, addr := startServer(t, Config{})
	c := dial(t, addr, "")
	require.NoError(t, s.Close(testContext(t)))
	fe := c.Frontend()
	require.NoError(t, c.Conn().SetDeadline(time.Now().Add(testTimeout)))
	m, err := fe.Receive()
	require.NoError(t, err)
	e, ok := m.(*pgproto3.ErrorResponse)
	require.True(t, ok, "%T", m)
	require.Equal(t, "57P01", e.Code)
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// verifiers is an Authenticator from a map.
type verifiers map[string]string

func (v verifiers) Credential(_ context.Context, user, _ string, _ bool) (Credential, error) {
	return Credential{Verifier: v[user]}, nil
}

func TestSCRAM(t *testing.T) {
	client, err := scram.SHA256.NewClient("", "secret", "")
	require.NoError(t, err)
	stored := client.GetStoredCredentials(scram.KeyFactors{Salt: "0123456789abcdef", Iters: 4096})
	v := "SCRAM-SHA-256$4096:" + b64([]byte("0123456789abcdef")) + "$" + b64(stored.StoredKey) + ":" + b64(stored.ServerKey)
	_, addr := startServer(t, Config{Auth: verifiers{"u": v}})
	connect := func(user, password string) error {
		c, err := pgconn.Connect(testContext(t), "postgres://"+user+":"+password+"@"+addr+"/db?sslmode=disable")
		if err == nil {
			_ = c.Close(context.Background())
		}
		return err
	}
	require.NoError(t, connect("u", "secret"))
	for _, bad := range [][2]string{{"u", "wrong"}, {"nobody", "secret"}} {
		var pe *pgconn.PgError
		require.ErrorAs(t, connect(bad[0], bad[1]), &pe)
		require.Equal(t, "28P01", pe.Code)
	}
}

// TestGarbage sends what no client sends: the server answers or closes, and goes on serving.
func TestGarbage(t *testing.T) {
	s, addr := startServer(t, Config{StartupTimeout: testTimeout})
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "u"}}).Encode(nil)
	require.NoError(t, err)
	huge := append(append([]byte(nil), startup...), 'Q')
	huge = binary.BigEndian.AppendUint32(huge, 2<<30-1)
	for name, raw := range map[string][]byte{
		"http":           []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"zeros":          make([]byte, 64),
		"bad length":     {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"2 GiB message":  huge,
		"unknown type":   append(append([]byte(nil), startup...), '!', 0, 0, 0, 4),
		"negative size":  append(append([]byte(nil), startup...), 'Q', 0, 0, 0, 1),
		"truncated bind": append(append([]byte(nil), startup...), 'B', 0, 0, 0, 5, 'x'),
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			defer nc.Close()
			require.NoError(t, nc.SetDeadline(time.Now().Add(testTimeout)))
			_, err = nc.Write(raw)
			require.NoError(t, err)
			reply, err := io.ReadAll(nc) // ends because the server closes
			if err != nil {
				var ne net.Error
				require.False(t, errors.As(err, &ne) && ne.Timeout(), "the server neither answered nor closed")
			}
			require.Contains(t, string(reply), "FATAL")
			require.Contains(t, string(reply), "08P01")
		})
	}
	dial(t, addr, "")
	// The server closes a socket before it forgets the connection.
	require.Eventually(t, func() bool { return s.Connections() == 1 }, testTimeout, time.Millisecond)
}

func FuzzConnection(f *testing.F) {
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "u"}}).Encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append([]byte(nil), startup...), "Q\x00\x00\x00\x0brows 1\x00"...))
	f.Add(append(append([]byte(nil), startup...), "P\x00\x00\x00\x0e\x00rows 1\x00\x00\x00S\x00\x00\x00\x04"...))
	s, err := NewServer(Config{MaxMessageBytes: 1 << 20}, &fakeEngine{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("wait")) {
			return // it waits for a cancel request
		}
		client, server := net.Pipe()
		c := newConn(s, server)
		done := make(chan struct{})
		go func() { c.serve(false); close(done) }()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_ = client.SetWriteDeadline(time.Now().Add(testTimeout))
		_, _ = client.Write(data)
		_ = client.Close()
		<-done
	})
}
