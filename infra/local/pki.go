package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is that of every certificate of the local cluster, its CA included: the cluster
// is thrown away long before, and nothing renews them.
const certificateLife = 10 * 365 * 24 * time.Hour

// authority signs the certificates of one cluster.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// pair is a certificate with its private key, in PEM.
type pair struct{ cert, key []byte }

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "atoll-local-ca"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certificateLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	return &authority{key: key, cert: cert, pem: pemBlock("CERTIFICATE", der)}, nil
}

// issue signs a certificate for servers and clients alike. Kubernetes reads the common name as the
// user and the organizations as groups; hosts are IP addresses or DNS names.
func (a *authority) issue(now time.Time, user string, groups []string, hosts ...string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", user, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", user, err)
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: user, Organization: groups},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     a.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", user, err)
	}
	keyPEM, err := keyBlock(key)
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", user, err)
	}
	return pair{cert: pemBlock("CERTIFICATE", der), key: keyPEM}, nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func keyBlock(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pemBlock("EC PRIVATE KEY", der), nil
}

// kubeconfig renders a client configuration that holds its certificates itself. JSON is YAML.
func kubeconfig(context, server string, ca []byte, p pair) ([]byte, error) {
	type named map[string]any
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []named{{"name": context, "cluster": named{
			"server": server, "certificate-authority-data": ca}}},
		"users": []named{{"name": context, "user": named{
			"client-certificate-data": p.cert, "client-key-data": p.key}}},
		"contexts":        []named{{"name": context, "context": named{"cluster": context, "user": context}}},
		"current-context": context,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", context, err)
	}
	return append(b, '\n'), nil
}

// credentials writes every certificate, key and kubeconfig of the cluster below dir: cp/ for the
// control plane, node/NAME/ for each node, and kubeconfig for people. It does nothing when that
// file is there, since it is written last.
func (c Config) credentials(dir string, now time.Time) error {
	admin := filepath.Join(dir, "kubeconfig")
	if _, err := os.Stat(admin); err == nil {
		return nil
	}
	ca, err := newAuthority(now)
	if err != nil {
		return err
	}
	w := &credentialWriter{ca: ca, now: now, dir: dir}
	local := fmt.Sprintf("https://127.0.0.1:%d", apiPort)
	remote := fmt.Sprintf("https://%s:%d", controlIP, apiPort)

	w.file("cp/ca.crt", ca.pem)
	w.pair("cp/apiserver", "kube-apiserver", nil, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc."+clusterZone, "localhost", "127.0.0.1", controlIP, serviceAPI)
	w.pair("cp/kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"})
	w.signer("cp/ca.key", ca.key)
	w.serviceAccountKey("cp/sa")
	w.config("cp/controller-manager.kubeconfig", local, "system:kube-controller-manager", nil)
	w.config("cp/scheduler.kubeconfig", local, "system:kube-scheduler", nil)
	for _, n := range c.Nodes() {
		d := "node/" + n.Name + "/"
		w.file(d+"ca.crt", ca.pem)
		w.pair(d+"kubelet", "system:node:"+n.Name, []string{"system:nodes"}, n.Name, n.IP())
		w.config(d+"kubelet.kubeconfig", remote, "system:node:"+n.Name, []string{"system:nodes"})
		w.config(d+"proxy.kubeconfig", remote, "system:kube-proxy", nil)
		w.config(d+"dns.kubeconfig", remote, "atoll:dns", nil)
		w.config(d+"volumes.kubeconfig", remote, "atoll:volumes", nil)
	}
	w.config("kubeconfig", fmt.Sprintf("https://127.0.0.1:%d", c.APIPort), "admin", []string{"system:masters"})
	return w.err
}

// credentialWriter writes files until the first one fails.
type credentialWriter struct {
	ca  *authority
	now time.Time
	dir string
	err error
}

func (w *credentialWriter) file(name string, data []byte) {
	if w.err != nil {
		return
	}
	path := filepath.Join(w.dir, name)
	if w.err = os.MkdirAll(filepath.Dir(path), 0o700); w.err != nil {
		return
	}
	w.err = writeFile(path, data, 0o600)
}

func (w *credentialWriter) pair(name, user string, groups []string, hosts ...string) {
	if w.err != nil {
		return
	}
	var p pair
	if p, w.err = w.ca.issue(w.now, user, groups, hosts...); w.err == nil {
		w.file(name+".crt", p.cert)
		w.file(name+".key", p.key)
	}
}

func (w *credentialWriter) config(name, server, user string, groups []string) {
	if w.err != nil {
		return
	}
	var p pair
	if p, w.err = w.ca.issue(w.now, user, groups); w.err != nil {
		return
	}
	var b []byte
	context := "atoll-local"
	if b, w.err = kubeconfig(context, server, w.ca.pem, p); w.err == nil {
		w.file(name, b)
	}
}

func (w *credentialWriter) signer(name string, key *ecdsa.PrivateKey) {
	if w.err != nil {
		return
	}
	var b []byte
	if b, w.err = keyBlock(key); w.err == nil {
		w.file(name, b)
	}
}

// serviceAccountKey writes the key pair that signs the tokens of service accounts.
func (w *credentialWriter) serviceAccountKey(name string) {
	if w.err != nil {
		return
	}
	var key *ecdsa.PrivateKey
	if key, w.err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); w.err != nil {
		return
	}
	w.signer(name+".key", key)
	var der []byte
	if der, w.err = x509.MarshalPKIXPublicKey(&key.PublicKey); w.err == nil {
		w.file(name+".pub", pemBlock("PUBLIC KEY", der))
	}
}
