package local

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// NodeStatus is what is known of one node.
type NodeStatus struct {
	Name  string `json:"name"`
	Zone  string `json:"zone"`
	IP    string `json:"ip"`
	PID   int    `json:"pid,omitempty"`
	State string `json:"state"` // running, paused, off (killed by a fault), ended (by itself)
	Ready string `json:"ready"` // as Kubernetes sees it: yes, no, unknown
	// DiskFreeMiB is what the node's volumes have left; -1 while it is off.
	DiskFreeMiB int64 `json:"diskFreeMiB"`
}

// Status is what is known of a cluster.
type Status struct {
	Name         string       `json:"name"`
	Dir          string       `json:"dir"`
	Kubeconfig   string       `json:"kubeconfig"`
	ControlPlane string       `json:"controlPlane"` // as a node's State
	API          string       `json:"api"`          // ready, or the error
	Nodes        []NodeStatus `json:"nodes"`
	Cuts         []Cut        `json:"cuts"`
	Forwards     []Forward    `json:"forwards"`
}

// Status looks at every machine, and asks Kubernetes about the nodes.
func (k *Cluster) Status(ctx context.Context) (Status, error) {
	s, err := readState(k.l)
	if err != nil {
		return Status{}, err
	}
	c := s.Config
	out := Status{Name: c.Name, Dir: k.l.dir, Kubeconfig: k.l.kubeconfig(), Cuts: s.Cuts, Forwards: c.Forwards}
	out.ControlPlane = s.stateOf(c.controlMachine(), ControlPlane)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var ready map[string]bool
	api, err := newAPIClient(k.l.kubeconfig())
	if err == nil {
		ready, err = api.nodeReady(ctx)
	}
	out.API = "ready"
	if err != nil {
		out.API = err.Error()
	}
	for _, n := range c.Nodes() {
		m := c.nodeMachine(n)
		ns := NodeStatus{Name: n.Name, Zone: n.Zone, IP: n.IP(), State: s.stateOf(m, n.Zone), Ready: "unknown", DiskFreeMiB: -1}
		if p := s.Processes[m.name]; p.alive() {
			ns.PID = p.PID
			var st unix.Statfs_t
			if err := unix.Statfs(fmt.Sprintf("/proc/%d/root%s", p.PID, nodeVolumes), &st); err == nil {
				ns.DiskFreeMiB = int64(st.Bavail) * st.Bsize >> 20
			}
		}
		if r, ok := ready[n.Name]; ok {
			ns.Ready = map[bool]string{true: "yes", false: "no"}[r]
		}
		out.Nodes = append(out.Nodes, ns)
	}
	return out, nil
}

func (s *state) stateOf(m machine, place string) string {
	switch {
	case slices.Contains(s.Off, place):
		return "off"
	case !s.Processes[m.name].alive():
		return "ended"
	case slices.Contains(s.Paused, place):
		return "paused"
	default:
		return "running"
	}
}
