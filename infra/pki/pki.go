// Package pki makes certificates as a pure function of seeds: the same seed, times and names give
// the same bytes. So a program that runs again changes nothing, and a certificate is made anew
// exactly when what it depends on changes. The seeds are random, are made once, and live where
// the private keys would.
//
// Keys are ECDSA P-256: every client speaks it, and channel binding of SCRAM-SHA-256-PLUS is
// defined for it (it is not for Ed25519). Signatures are deterministic (RFC 6979), keys come
// from the seed by HKDF-SHA-256.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"
)

// SeedBytes is the length of a seed.
const SeedBytes = 32

// CAYears is how long a CA is valid.
const CAYears = 10

// backdate lets a certificate be used where the clock is a little behind.
const backdate = time.Hour

// NodeName is the common name of nodes' certificates: only its bearers may join as nodes.
const NodeName = "node"

// NewSeed returns a random seed.
func NewSeed() []byte {
	b := make([]byte, SeedBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// Pair is a certificate and its key, as PEM.
type Pair struct {
	Cert, Key string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

// CA returns the certificate authority of a seed, valid for CAYears from issued.
func CA(name string, seed []byte, issued time.Time) (*Pair, error) {
	key, err := deriveKey(seed, "ca key")
	if err != nil {
		return nil, err
	}
	issued = issued.UTC().Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber:          serial(seed, "ca", name, issued.String()),
		Subject:               pkix.Name{CommonName: name, Organization: []string{"atoll"}},
		NotBefore:             issued.Add(-backdate),
		NotAfter:              issued.AddDate(CAYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1, // a CA that comes after it
	}
	return sign(t, t, key, key)
}

// Cross returns a certificate of the CA next that old has signed, as PEM. A server that sends it
// after its own certificate is trusted also by clients that know only old. Their names must
// differ: by them verifiers tell the two apart.
func Cross(old, next *Pair) (string, error) {
	if old.cert.Subject.CommonName == next.cert.Subject.CommonName {
		return "", fmt.Errorf("pki: both CAs are named %q; a cross certificate needs two names", old.cert.Subject.CommonName)
	}
	t := &x509.Certificate{
		SerialNumber:          serial([]byte(next.Cert), "cross", old.Cert),
		Subject:               next.cert.Subject,
		SubjectKeyId:          next.cert.SubjectKeyId,
		NotBefore:             next.cert.NotBefore,
		NotAfter:              next.cert.NotAfter,
		KeyUsage:              next.cert.KeyUsage,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	if t.NotAfter.After(old.cert.NotAfter) {
		t.NotAfter = old.cert.NotAfter
	}
	p, err := sign(t, old.cert, next.key, old.key)
	if err != nil {
		return "", err
	}
	return p.Cert, nil
}

// Node returns a node's certificate for these names and addresses. It serves as server and as
// client. It ends with the CA at the latest.
func Node(ca *Pair, seed []byte, issued time.Time, validDays int, hosts []string) (*Pair, error) {
	if len(hosts) == 0 {
		return nil, errors.New("pki: a certificate needs at least one name")
	}
	hosts = slices.Clone(hosts)
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	key, err := deriveKey(seed, "node key")
	if err != nil {
		return nil, err
	}
	issued = issued.UTC().Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: serial(seed, "node", ca.Cert, issued.String(), fmt.Sprint(validDays), strings.Join(hosts, "\x00")),
		Subject:      pkix.Name{CommonName: NodeName, Organization: []string{"atoll"}},
		NotBefore:    issued.Add(-backdate),
		NotAfter:     issued.AddDate(0, 0, validDays),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return sign(t, ca.cert, key, ca.key)
}

func sign(t, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*Pair, error) {
	// Without a source of randomness the signature is deterministic (RFC 6979).
	der, err := x509.CreateCertificate(nil, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("pki: sign the certificate of %q: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &Pair{
		Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		cert: cert, key: key,
	}, nil
}

// deriveKey maps a seed to a key: a number in [1, n-1], from 128 bits more than n has, so that
// the bias is negligible (FIPS 186-5, A.2.1).
func deriveKey(seed []byte, use string) (*ecdsa.PrivateKey, error) {
	if len(seed) != SeedBytes {
		return nil, fmt.Errorf("pki: a seed has %d bytes, not %d; the Secret that holds it was changed by hand", SeedBytes, len(seed))
	}
	wide, err := hkdf.Key(sha256.New, seed, nil, "atoll "+use, 48)
	if err != nil {
		return nil, err
	}
	curve := elliptic.P256()
	d := new(big.Int).SetBytes(wide)
	d.Mod(d, new(big.Int).Sub(curve.Params().N, big.NewInt(1)))
	d.Add(d, big.NewInt(1))
	return ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, 32)))
}

// serial is a positive number of at most 159 bits that depends on all parts.
func serial(seed []byte, parts ...string) *big.Int {
	h := sha256.New()
	h.Write(seed)
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	b := h.Sum(nil)[:20]
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
