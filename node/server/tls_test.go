package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCert(t *testing.T, cn string, by *testCA) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn}, SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	} else {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &testCA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// write puts a certificate and the CAs to trust into a folder, with a time of change.
func (c *testCA) write(t *testing.T, dir string, changed time.Time, cas ...*testCA) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	require.NoError(t, err)
	var ca []byte
	for _, a := range cas {
		ca = append(ca, a.pem...)
	}
	for name, b := range map[string][]byte{"ca.crt": ca, "node.crt": c.pem, "node.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		require.NoError(t, os.Chtimes(path, changed, changed))
	}
}

func open(t *testing.T, dir string, log *slog.Logger) *certificates {
	t.Helper()
	c, err := openCertificates(dir, log)
	require.NoError(t, err)
	return c
}

// handshake runs one between two nodes and returns both sides' errors.
func handshake(t *testing.T, server, client *certificates) (atServer, atClient error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a pipe has no buffer: alerts would block
	require.NoError(t, err)
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer b.Close()
	a, err := l.Accept()
	require.NoError(t, err)
	defer a.Close()
	require.NoError(t, a.SetDeadline(time.Now().Add(10*time.Second)))
	require.NoError(t, b.SetDeadline(time.Now().Add(10*time.Second)))
	sc, _ := server.peer()
	_, cc := client.peer()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, sc)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, cc)
	atClient = c.Handshake()
	if atClient == nil {
		_, atClient = c.Read(make([]byte, 1)) // with TLS 1.3 a client learns of a refusal here
	}
	b.Close()
	return <-done, atClient
}

func TestOnlyNodesSpeakAsNodes(t *testing.T) {
	ca, other := newCert(t, "ca", nil), newCert(t, "other", nil)
	log := slog.New(slog.DiscardHandler)
	folder := func(cn string, by *testCA, trust ...*testCA) *certificates {
		dir := t.TempDir()
		newCert(t, cn, by).write(t, dir, time.Now(), trust...)
		return open(t, dir, log)
	}
	node := folder(NodeName, ca, ca)
	atServer, atClient := handshake(t, node, folder(NodeName, ca, ca))
	require.NoError(t, atServer)
	require.NoError(t, atClient)

	atServer, _ = handshake(t, node, folder("app", ca, ca))
	require.ErrorContains(t, atServer, `common name "app"`)
	_, atClient = handshake(t, folder("app", ca, ca), node)
	require.ErrorContains(t, atClient, `common name "app"`)
	atServer, _ = handshake(t, node, folder(NodeName, other, ca, other))
	require.Error(t, atServer, "another CA's client")
	_, atClient = handshake(t, folder(NodeName, other, ca, other), node)
	require.Error(t, atClient, "another CA's server")

	// While a CA is exchanged both count.
	atServer, atClient = handshake(t, folder(NodeName, other, ca, other), folder(NodeName, ca, other, ca))
	require.NoError(t, atServer)
	require.NoError(t, atClient)
}

func TestCertificatesAreReadAgain(t *testing.T) {
	ca, dir := newCert(t, "ca", nil), t.TempDir()
	var out bytes.Buffer
	first, second := newCert(t, NodeName, ca), newCert(t, NodeName, ca)
	first.write(t, dir, time.Now().Add(-time.Hour), ca)
	c := open(t, dir, slog.New(slog.NewTextHandler(&out, nil)))
	now := func() string {
		c.checked = time.Time{} // as if certCheckEvery had passed
		crt, _ := c.current()
		return crt.Leaf.SerialNumber.String()
	}
	require.Equal(t, first.cert.SerialNumber.String(), now())
	require.Empty(t, out.String())

	require.NoError(t, os.WriteFile(c.path("node.key"), []byte("half"), 0o600))
	require.Equal(t, first.cert.SerialNumber.String(), now(), "what can't be read changes nothing")
	require.Contains(t, out.String(), "can't be read")

	second.write(t, dir, time.Now().Add(time.Minute), ca)
	require.Equal(t, second.cert.SerialNumber.String(), now())
	require.Contains(t, out.String(), "read the changed certificates")
}
