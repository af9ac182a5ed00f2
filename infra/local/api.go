package local

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxAnswerBytes bounds what is read of one answer of the API server.
const maxAnswerBytes = 64 << 20

// apiClient speaks the few verbs of the Kubernetes API that the platform itself needs. It is this
// small on purpose: the node's agent lists and patches two kinds of objects, and a client library
// would weigh more than all the rest of the program.
type apiClient struct {
	server string
	http   *http.Client
}

// apiError is an answer of the API server that is no success.
type apiError struct {
	Status int
	Reason string
	msg    string
}

func (e *apiError) Error() string { return e.msg }

// apiStatus says whether err is the API server's answer with this status.
func apiStatus(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// newAPIClient reads a kubeconfig that kubeconfig wrote.
func newAPIClient(path string) (*apiClient, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeKubeconfig(path, b)
}

func decodeKubeconfig(path string, b []byte) (*apiClient, error) {
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, fmt.Errorf("%s: %d clusters and %d users, want one of each", path, len(k.Clusters), len(k.Users))
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(k.Clusters[0].Cluster.CA) {
		return nil, fmt.Errorf("%s: no certificate authority in it", path)
	}
	return &apiClient{
		server: k.Clusters[0].Cluster.Server,
		http: &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 3 * time.Second}).DialContext,
			TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns:        4,
			IdleConnTimeout:     30 * time.Second,
		}},
	}, nil
}

// do sends one request and decodes the answer into out, unless out is nil.
func (a *apiClient) do(ctx context.Context, method, path, contentType string, in, out any) error {
	resp, err := a.send(ctx, method, path, contentType, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// send returns the answer to a request that succeeded; the caller closes its body.
func (a *apiClient) send(ctx context.Context, method, path, contentType string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.server+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var status struct{ Reason, Message string }
	_ = json.Unmarshal(b, &status) // not everything in the way answers in JSON
	if status.Message == "" {
		status.Message = tail(string(b), 300)
	}
	return nil, &apiError{Status: resp.StatusCode, Reason: status.Reason,
		msg: fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, status.Message)}
}

func (a *apiClient) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, "", nil, out)
}

// applyObject creates or changes an object by server-side apply.
func (a *apiClient) applyObject(ctx context.Context, obj object) error {
	kind, _ := obj["kind"].(string)
	version, _ := obj["apiVersion"].(string)
	name, _ := obj["metadata"].(object)["name"].(string)
	base := "/apis/" + version
	if !strings.Contains(version, "/") {
		base = "/api/" + version
	}
	plural := strings.ToLower(kind) + "s"
	if strings.HasSuffix(kind, "Class") {
		plural = strings.ToLower(kind) + "es"
	}
	return a.do(ctx, http.MethodPatch, base+"/"+plural+"/"+name+"?fieldManager=localkube&force=true",
		"application/apply-patch+yaml", obj, nil)
}

// waitChange returns when an object below path changes after resourceVersion, or after about as
// long as patience: with a long poll, so that nothing is asked for over and over.
func (a *apiClient) waitChange(ctx context.Context, path, resourceVersion string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience+5*time.Second)
	defer cancel()
	resp, err := a.send(ctx, http.MethodGet, fmt.Sprintf("%s?watch=1&resourceVersion=%s&timeoutSeconds=%d",
		path, resourceVersion, int(patience/time.Second)), "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var first [1]byte
	if _, err := resp.Body.Read(first[:]); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// nodeReady reads from the API whether each node is ready.
func (a *apiClient) nodeReady(ctx context.Context) (map[string]bool, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := a.get(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" {
				ready[n.Metadata.Name] = c.Status == "True"
			}
		}
	}
	return ready, nil
}
