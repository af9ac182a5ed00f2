package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// ZoneStatus is the state of a zone as the supervisor sees it: what it did to its processes.
type ZoneStatus struct {
	Zone  string       `json:"zone"`
	Nodes []NodeStatus `json:"nodes"`
}

// NodeStatus is the state of one node's process.
type NodeStatus struct {
	Index    int    `json:"index"`
	State    string `json:"state"`
	Isolated bool   `json:"isolated"`
	Restarts int    `json:"restarts"`
	SQL      string `json:"sql"`
	HTTP     string `json:"http"`
}

// Actions on a zone.
var Actions = []string{"kill", "pause", "isolate", "heal"}

// maxSocketPath is what fits into a sockaddr_un on Linux, without the final zero.
const maxSocketPath = 107

func socketPath(store string) string { return filepath.Join(store, "demo.sock") }

// serveControl takes orders on a Unix socket that only this user can open.
func (d *supervisor) serveControl() (io.Closer, error) {
	path := socketPath(d.cfg.Store)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("--store %s: its control socket's path has %d bytes, at most %d are possible: name a folder with a shorter path", d.cfg.Store, len(path), maxSocketPath)
	}
	_ = os.Remove(path) // left by a demo that was killed: the store's lock is ours
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /zones", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.status()) })
	mux.HandleFunc("POST /zones/{zone}/{action}", func(w http.ResponseWriter, r *http.Request) {
		if err := d.act(r.Context(), r.PathValue("zone"), r.PathValue("action")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeJSON(w, d.status())
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(l) }()
	return srv, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// Client gives orders to a demo that runs.
type Client struct {
	store string
	http  *http.Client
}

// Dial returns a client for the demo in a store. It fails when none runs there.
func Dial(store string) (*Client, error) {
	c := &Client{store: store, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socketPath(store))
		},
	}}}
	nc, err := net.DialTimeout("unix", socketPath(store), time.Second)
	if err != nil {
		return nil, fmt.Errorf("no demo runs in %s: start one with `atoll demo`, or name its folder with --store (%w)", store, err)
	}
	return c, nc.Close()
}

// Zones returns the state of every zone's processes.
func (c *Client) Zones(ctx context.Context) ([]ZoneStatus, error) {
	return c.do(ctx, http.MethodGet, "/zones")
}

// Act does one of Actions to a zone.
func (c *Client) Act(ctx context.Context, zone, action string) ([]ZoneStatus, error) {
	return c.do(ctx, http.MethodPost, "/zones/"+zone+"/"+action)
}

func (c *Client) do(ctx context.Context, method, path string) ([]ZoneStatus, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://demo"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(string(bytes.TrimSpace(body)))
	}
	var zs []ZoneStatus
	return zs, json.Unmarshal(body, &zs)
}
