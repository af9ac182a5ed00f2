package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stateVersion is that of state.json. A newer one is refused, since its faults and processes
// would be misread.
const stateVersion = 1

// ErrNotUp says that a folder holds no cluster.
var ErrNotUp = errors.New("no local cluster")

// process is a process that we started. Start and Boot tell it from a later one with its number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot: field 22 of /proc/PID/stat
	Boot  string `json:"boot"`  // the machine's boot_id
}

// sysctl is a setting of the host that had to be raised, to be put back by Down.
type sysctl struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// programs are the folders that hold what was built.
type programs struct {
	Kubernetes string `json:"kubernetes"`
	CoreDNS    string `json:"coredns"`
	Pause      string `json:"pause"`
}

// state is what a cluster's folder remembers between commands.
type state struct {
	Version   int                `json:"version"`
	Config    Config             `json:"config"`
	Created   time.Time          `json:"created"`
	CNI       string             `json:"cni"`
	Programs  programs           `json:"programs"`
	Processes map[string]process `json:"processes"`
	Sysctls   map[string]sysctl  `json:"sysctls"`
	Cuts      []Cut              `json:"cuts"`
	Paused    []string           `json:"paused"` // zones, or ControlPlane
	Off       []string           `json:"off"`    // likewise, killed and not powered on again
}

// layout names the files of a cluster's folder.
type layout struct{ dir string }

func (l layout) state() string              { return filepath.Join(l.dir, "state.json") }
func (l layout) lock() string               { return filepath.Join(l.dir, "lock") }
func (l layout) program() string            { return filepath.Join(l.dir, "localkube") }
func (l layout) kubeconfig() string         { return filepath.Join(l.dir, "creds", "kubeconfig") }
func (l layout) creds() string              { return filepath.Join(l.dir, "creds") }
func (l layout) images() string             { return filepath.Join(l.dir, "images") }
func (l layout) logs() string               { return filepath.Join(l.dir, "logs") }
func (l layout) etcd() string               { return filepath.Join(l.dir, "etcd") }
func (l layout) node(name string) string    { return filepath.Join(l.dir, "nodes", name) }
func (l layout) nodeVar(name string) string { return filepath.Join(l.node(name), "var") }
func (l layout) disk(name string) string    { return filepath.Join(l.node(name), "disk.img") }
func (l layout) machineLog(name string) string {
	return filepath.Join(l.logs(), name+".log")
}

// readState reads a cluster's state, or returns ErrNotUp.
func readState(l layout) (*state, error) {
	b, err := os.ReadFile(l.state())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; localkube up makes one", ErrNotUp, l.dir)
	}
	if err != nil {
		return nil, err
	}
	return decodeState(l.state(), b)
}

func decodeState(path string, b []byte) (*state, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w; the folder is not one that localkube made, or it is damaged", path, err)
	}
	if s.Version < 1 || s.Version > stateVersion {
		return nil, fmt.Errorf("%s: version %d, this program knows up to %d; use the program that made it", path, s.Version, stateVersion)
	}
	if err := s.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Processes == nil {
		s.Processes = map[string]process{}
	}
	if s.Sysctls == nil {
		s.Sysctls = map[string]sysctl{}
	}
	return &s, nil
}

func (s *state) write(l layout) error { return writeFile(l.state(), asJSON(s), 0o600) }

// writeFile replaces a file as a whole: readers see the old or the new one.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
