package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var issued = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func seed(b byte) []byte { return bytes.Repeat([]byte{b}, SeedBytes) }

func ca(t *testing.T, b byte) *Pair {
	t.Helper()
	p, err := CA("test", seed(b), issued)
	require.NoError(t, err)
	return p
}

func node(t *testing.T, ca *Pair, b byte, hosts ...string) *Pair {
	t.Helper()
	p, err := Node(ca, seed(b), issued, 30, hosts)
	require.NoError(t, err)
	return p
}

func TestPure(t *testing.T) {
	a, b := ca(t, 1), ca(t, 1)
	require.Equal(t, a.Cert, b.Cert)
	require.Equal(t, a.Key, b.Key)
	require.NotEqual(t, a.Key, ca(t, 2).Key)

	n := node(t, a, 3, "b", "a", "10.0.0.1")
	same := node(t, b, 3, "10.0.0.1", "a", "b", "a")
	require.Equal(t, n.Cert, same.Cert, "the order of names is no difference")
	other := node(t, a, 3, "a")
	require.Equal(t, n.Key, other.Key)
	require.NotEqual(t, n.Cert, other.Cert)
	require.NotEqual(t, n.cert.SerialNumber, other.cert.SerialNumber)
	require.NotEqual(t, n.Key, node(t, a, 4, "a").Key)
	require.NotEqual(t, n.Cert, node(t, ca(t, 2), 3, "b", "a", "10.0.0.1").Cert)
}

func TestVerifies(t *testing.T) {
	root := ca(t, 1)
	n := node(t, root, 2, "db.example.org", "*.nodes.example.org", "10.0.0.1")
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(root.Cert)))
	for _, name := range []string{"db.example.org", "a-0.nodes.example.org", "10.0.0.1"} {
		_, err := n.cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: issued.AddDate(0, 0, 29),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		require.NoError(t, err, name)
	}
	_, err := n.cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "other.example.org", CurrentTime: issued})
	require.Error(t, err)
	_, err = n.cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: issued.AddDate(0, 0, 31)})
	require.Error(t, err)
	stranger := x509.NewCertPool()
	stranger.AddCert(ca(t, 9).cert)
	_, err = n.cert.Verify(x509.VerifyOptions{Roots: stranger, CurrentTime: issued})
	require.Error(t, err)
	_, err = tls.X509KeyPair([]byte(n.Cert), []byte(n.Key))
	require.NoError(t, err)
}

// Whoever knows the old CA only accepts a node of the next one that sends the cross certificate.
func TestCross(t *testing.T) {
	old := ca(t, 1)
	next, err := CA("test 2", seed(2), issued.AddDate(1, 0, 0))
	require.NoError(t, err)
	cross, err := Cross(old, next)
	require.NoError(t, err)
	again, err := Cross(old, next)
	require.NoError(t, err)
	require.Equal(t, cross, again, "a pure function")
	n, err := Node(next, seed(3), issued.AddDate(1, 0, 0), 30, []string{"a"})
	require.NoError(t, err)
	verify := func(root *Pair, between string) error {
		roots, chain := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root.cert)
		chain.AppendCertsFromPEM([]byte(between))
		_, err := n.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain, DNSName: "a", CurrentTime: issued.AddDate(1, 0, 1)})
		return err
	}
	require.NoError(t, verify(old, cross))
	require.NoError(t, verify(next, cross))
	require.NoError(t, verify(next, ""))
	require.Error(t, verify(old, ""))
	require.Error(t, verify(ca(t, 9), cross))
	chain, err := tls.X509KeyPair([]byte(n.Cert+cross), []byte(n.Key))
	require.NoError(t, err)
	require.Len(t, chain.Certificate, 2)
	_, err = Cross(old, ca(t, 5))
	require.ErrorContains(t, err, "two names")
	late, err := CA("test 3", seed(4), issued.AddDate(CAYears-1, 0, 0))
	require.NoError(t, err)
	cross, err = Cross(old, late)
	require.NoError(t, err)
	block, _ := pem.Decode([]byte(cross))
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.Equal(t, old.cert.NotAfter, c.NotAfter, "it ends with the old CA")
}

func TestNodeEndsWithItsCA(t *testing.T) {
	root := ca(t, 1)
	late, err := Node(root, seed(2), issued.AddDate(CAYears, 0, -3), 30, []string{"a"})
	require.NoError(t, err)
	require.Equal(t, root.cert.NotAfter, late.cert.NotAfter)
}

func TestFaults(t *testing.T) {
	_, err := CA("test", []byte("short"), issued)
	require.ErrorContains(t, err, "a seed has 32 bytes, not 5")
	_, err = Node(ca(t, 1), seed(1), issued, 30, nil)
	require.ErrorContains(t, err, "at least one name")
	require.NotEqual(t, NewSeed(), NewSeed())
}
