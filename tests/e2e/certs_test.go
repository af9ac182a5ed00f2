package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{}
	a.cert, a.key, a.pem = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func sign(t *testing.T, c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// folder writes what --certs reads: a certificate with a common name, and the CA's.
func (a *authority) folder(t *testing.T, cn string) string {
	t.Helper()
	dir := tempDir(t)
	_, key, crt := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for name, b := range map[string][]byte{"ca.crt": a.pem, "node.crt": crt, "node.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	return dir
}

// TestCertificatesAndPasswords founds a cluster as a deployment does: without a node's certificate
// nobody joins, without the password nobody logs in, and without TLS nobody is asked for it.
func TestCertificatesAndPasswords(t *testing.T) {
	bin, ca := Binary(t), newAuthority(t, "a test's CA")
	certs := ca.folder(t, "node")
	base := freePorts(t, 12)
	start := func(i int, certs string) *process {
		p := base + 3*i
		return spawn(t, bin, "start", "--store", filepath.Join(tempDir(t), "data"), "--locality", fmt.Sprintf("region=r,zone=%c", 'a'+i%3), "--certs", certs,
			"--listen", loopback(p), "--sql-listen", loopback(p+1), "--http-listen", loopback(p+2), "--join", loopback(base))
	}
	var addrs []string
	var nodes []*process
	for i := range 3 {
		nodes = append(nodes, start(i, certs))
		addrs = append(addrs, loopback(base+3*i))
	}
	secret := filepath.Join(tempDir(t), "password")
	initWith := func(password, certs string, timeout time.Duration) (int, string) {
		require.NoError(t, os.WriteFile(secret, []byte(password+"\n"), 0o600))
		p := spawn(t, bin, "init", "--cluster-id", "0c1bd2ac-31b5-4f5c-9b4d-4df83f4af0a1", "--nodes", strings.Join(addrs, ","), "--certs", certs,
			"--password-file", secret, "--timeout", timeout.String())
		return p.exit(t, timeout+20*time.Second), p.out.String()
	}
	code, out := initWith("", certs, time.Second)
	require.Equal(t, 2, code, out)
	require.Contains(t, out, "want one line of 1 to 1024 bytes")
	code, out = initWith("stolen", newAuthority(t, "another CA").folder(t, "node"), 2*time.Second)
	require.Equal(t, 1, code, "founded with a certificate of another CA: %s", out)
	code, out = initWith("stolen", ca.folder(t, "loadbalancer"), 2*time.Second)
	require.Equal(t, 1, code, "founded with a certificate that is no node's: %s", out)
	for _, password := range []string{"Grünkohl & 3 'Pinkel", "a later one"} {
		code, out = initWith(password, certs, startTimeout)
		require.Equal(t, 0, code, out) // the second one changes nothing
	}
	for i := range 3 {
		eventually(t, startTimeout, "the node serves", func() string {
			if code, body := readyz(base + 3*i + 2); code != 200 {
				return body + tail(nodes[i].out.String(), 5)
			}
			return ""
		})
	}

	login := func(node int, user, password, mode string) error {
		cfg, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=%s sslrootcert=%s connect_timeout=10", base+3*node+1, user, mode, filepath.Join(certs, "ca.crt")))
		require.NoError(t, err)
		cfg.Password = password
		c, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer c.Close(t.Context())
		_, err = c.Exec(t.Context(), "SELECT 1")
		return err
	}
	for i := range 3 {
		require.NoError(t, login(i, "postgres", "Grünkohl & 3 'Pinkel", "verify-full"))
		require.Equal(t, "28P01", sqlState(login(i, "postgres", "a later one", "verify-full")))
		require.Equal(t, "28P01", sqlState(login(i, "nobody", "x", "verify-full")))
		require.Equal(t, "28000", sqlState(login(i, "postgres", "Grünkohl & 3 'Pinkel", "disable")))
	}
	t.Run("psql and a user of one's own", func(t *testing.T) {
		url := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=verify-full sslrootcert=%s", base+4, filepath.Join(certs, "ca.crt"))
		psql := func(url, password, sql string) (int, string) {
			p := spawnEnv(t, []string{"PGPASSWORD=" + password}, Tool(t, "psql", "postgresql-client-15"), "-X", "-v", "ON_ERROR_STOP=1", "-At", "-d", url, "-c", sql)
			return p.exit(t, toolTimeout), p.out.String()
		}
		code, out := psql(url, "Grünkohl & 3 'Pinkel", "CREATE ROLE app LOGIN PASSWORD 'hunter2'; CREATE TABLE t (i int PRIMARY KEY); CREATE TABLE own (i int); GRANT SELECT ON t TO app")
		require.Zero(t, code, out)
		app := strings.Replace(url, "user=postgres", "user=app", 1)
		code, out = psql(app, "hunter2", "SELECT current_user, count(*) FROM t")
		require.Zero(t, code, out)
		require.Contains(t, out, "app|0")
		for _, sql := range []string{"INSERT INTO t VALUES (1)", "SELECT * FROM own", "DROP TABLE t"} {
			code, out = psql(app, "hunter2", sql)
			require.NotZero(t, code, sql)
			require.Regexp(t, "permission denied for table|must be owner of table", out, sql)
		}
		code, out = psql(url, "Grünkohl & 3 'Pinkel", "ALTER ROLE app PASSWORD 'other'; REVOKE SELECT ON t FROM app")
		require.Zero(t, code, out)
		require.Equal(t, "28P01", sqlState(login(2, "app", "hunter2", "verify-full")))
		code, out = psql(app, "other", "SELECT * FROM t")
		require.NotZero(t, code)
		require.Contains(t, out, "permission denied for table t")
	})
	t.Run("a stranger does not join", func(t *testing.T) {
		p := start(3, ca.folder(t, "app"))
		eventually(t, 30*time.Second, "the stranger is told why", func() string {
			if out := p.out.String(); !strings.Contains(out, "common name") {
				return out
			}
			return ""
		})
		code, _ := readyz(base + 11)
		require.NotEqual(t, 200, code)
	})
}
