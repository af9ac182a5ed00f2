package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// planVersion is the format of demo.json.
const planVersion = 1

// Plan is what a demo's store remembers: who its members are. Ports may change between runs.
type Plan struct {
	Version   int      `json:"version"`
	ClusterID string   `json:"cluster_id"`
	Founded   bool     `json:"founded"`
	Zones     []string `json:"zones"`
	PerZone   int      `json:"nodes_per_zone"`
	SQLPort   int      `json:"sql_port"`
	HTTPPort  int      `json:"http_port"`
	PeerPort  int      `json:"peer_port"`
}

// Member is one node of a demo.
type Member struct {
	Index           int    `json:"index"`
	Zone            string `json:"zone"`
	Peer, SQL, HTTP string
}

func planPath(store string) string { return filepath.Join(store, "demo.json") }

// ReadPlan returns the plan of the demo in a store.
func ReadPlan(store string) (*Plan, error) {
	b, err := os.ReadFile(planPath(store))
	if err != nil {
		return nil, err
	}
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", planPath(store), err)
	}
	if p.Version != planVersion {
		return nil, fmt.Errorf("%s has version %d, this binary knows %d: use the binary that wrote it, or another --store", planPath(store), p.Version, planVersion)
	}
	return &p, nil
}

// loadPlan opens a store's plan, or makes one for an empty store.
func loadPlan(cfg Config) (*Plan, error) {
	p, err := ReadPlan(cfg.Store)
	switch {
	case errors.Is(err, os.ErrNotExist):
		p = &Plan{Version: planVersion, ClusterID: uuid.NewString(), Zones: cfg.Zones, PerZone: cfg.NodesPerZone}
	case err != nil:
		return nil, err
	case !slices.Equal(p.Zones, cfg.Zones) || p.PerZone != cfg.NodesPerZone:
		return nil, fmt.Errorf("--store %s holds a cluster with --zones %s --nodes-per-zone %d, not %s and %d: use these, or another --store",
			cfg.Store, strings.Join(p.Zones, ","), p.PerZone, strings.Join(cfg.Zones, ","), cfg.NodesPerZone)
	}
	p.SQLPort, p.HTTPPort, p.PeerPort = cfg.SQLPort, cfg.HTTPPort, cfg.PeerPort
	return p, p.save(cfg.Store)
}

// save writes the plan so that a crash leaves the old or the new one.
func (p *Plan) save(store string) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	tmp := planPath(store) + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, werr := f.Write(append(b, '\n'))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, planPath(store))
}

// Members lists the nodes: node k is the k-th, zone by zone in turn, so that the first
// nodes are one per zone.
func (p *Plan) Members() []Member {
	var out []Member
	for round := range p.PerZone {
		for zi, z := range p.Zones {
			k := round*len(p.Zones) + zi
			out = append(out, Member{
				Index: k, Zone: z,
				Peer: fmt.Sprintf("127.0.0.1:%d", p.PeerPort+k),
				SQL:  fmt.Sprintf("127.0.0.1:%d", p.SQLPort+k),
				HTTP: fmt.Sprintf("127.0.0.1:%d", p.HTTPPort+k),
			})
		}
	}
	return out
}
