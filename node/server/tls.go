package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// certificates reads a node's certificate and CA, and reads them again when the files change,
// so that rotation needs no restart.
type certificates struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	checked time.Time
	changed time.Time
	cert    *tls.Certificate
	pool    *x509.CertPool
}

// certCheckEvery is how often the files' times are looked at.
const certCheckEvery = 10 * time.Second

func openCertificates(dir string, log *slog.Logger) (*certificates, error) {
	c := &certificates{dir: dir, log: log}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.loadLocked(); err != nil {
		return nil, fmt.Errorf("--certs %s: %w", dir, err)
	}
	return c, nil
}

func (c *certificates) path(name string) string { return filepath.Join(c.dir, name) }

func (c *certificates) loadLocked() error {
	cert, err := tls.LoadX509KeyPair(c.path("node.crt"), c.path("node.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(c.path("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("ca.crt holds no certificate")
	}
	c.cert, c.pool, c.checked, c.changed = &cert, pool, time.Now(), c.newest()
	return nil
}

func (c *certificates) newest() time.Time {
	var t time.Time
	for _, n := range []string{"node.crt", "node.key", "ca.crt"} {
		if st, err := os.Stat(c.path(n)); err == nil && st.ModTime().After(t) {
			t = st.ModTime()
		}
	}
	return t
}

// current returns what is in force; a change that can't be read leaves the old ones.
func (c *certificates) current() (*tls.Certificate, *x509.CertPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) > certCheckEvery {
		c.checked = time.Now()
		if c.newest().After(c.changed) {
			if err := c.loadLocked(); err != nil {
				c.log.Error("the changed certificates can't be read; those read before stay in force", "dir", c.dir, "err", err)
			} else {
				c.log.Info("read the changed certificates", "dir", c.dir, "until", c.cert.Leaf.NotAfter)
			}
		}
	}
	return c.cert, c.pool
}

// peer returns the configurations for connections between nodes: mutual, TLS 1.3.
func (c *certificates) peer() (server, client *tls.Config) {
	server = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cert, pool := c.current()
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, VerifyConnection: isNode}, nil
	}}
	client = &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _ := c.current()
			return cert, nil
		},
		// The chain is checked by hand against the current CA, so that its rotation counts; a
		// node's name is not its address: isNode looks at the common name.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection below does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, pool := c.current()
			opts := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool()}
			for _, ic := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(ic)
			}
			if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
				return err
			}
			return isNode(cs)
		},
	}
	return server, client
}

// NodeName is the common name of certificates whose bearers may speak as nodes. Others of the same
// CA, a load balancer's or a client's, may not.
const NodeName = "node"

func isNode(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("server: the peer has no certificate")
	}
	if cn := cs.PeerCertificates[0].Subject.CommonName; cn != NodeName {
		return fmt.Errorf("server: the peer's certificate has the common name %q; nodes' certificates have %q", cn, NodeName)
	}
	return nil
}

// sql returns the configuration of the SQL port.
func (c *certificates) sql() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, _ := c.current()
		return cert, nil
	}}
}
