package cluster

import (
	"errors"
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/wire"
)

// wireVersion is the first byte of every record and message of this package; the rest is in
// protobuf wire format, unknown fields are skipped.
const wireVersion = 1

// ErrCorrupt marks bytes from disk or network that are no record or message.
var ErrCorrupt = errors.New("cluster: corrupt encoding")

// maxNodes bounds a plan's members and a directory.
const maxNodes = 4096

// NodeState says what a node takes part in.
type NodeState uint8

const (
	Live            NodeState = iota
	Draining                  // gives its leases away and takes none
	Decommissioned            // for good; its ID is never used again (SAFETY S18)
	Decommissioning           // its replicas are moved away
	Joining                   // it got its ID; whether it has noted it down, nobody knows yet
)

// String names the state.
func (s NodeState) String() string {
	switch s {
	case Live:
		return "live"
	case Draining:
		return "draining"
	case Decommissioned:
		return "decommissioned"
	case Decommissioning:
		return "decommissioning"
	case Joining:
		return "joining"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// NodeInfo is a node's entry in the directory.
type NodeInfo struct {
	ID       keys.NodeID
	Version  int64 // the higher one wins
	Addr     string
	SQLAddr  string
	HTTPAddr string
	Region   string
	Zone     string
	State    NodeState
	// Attributes say what the node is made of, for instance "ssd": sorted, separated by commas.
	Attributes string
	// Lost: an operator gave the node up for good when ranges had lost their quorums, so it may hold
	// what the others went on without. It is Decommissioned as well, and not even listened to (S18).
	Lost bool
}

// AttributeList returns the attributes one by one.
func (n *NodeInfo) AttributeList() []string {
	if n.Attributes == "" {
		return nil
	}
	return strings.Split(n.Attributes, ",")
}

func (n *NodeInfo) append(b []byte) []byte {
	b = wire.AppendUint(b, 1, uint64(n.ID))
	b = wire.AppendUint(b, 2, uint64(n.Version))
	b = wire.AppendString(b, 3, n.Addr)
	b = wire.AppendString(b, 4, n.SQLAddr)
	b = wire.AppendString(b, 5, n.HTTPAddr)
	b = wire.AppendString(b, 6, n.Region)
	b = wire.AppendString(b, 7, n.Zone)
	b = wire.AppendUint(b, 8, uint64(n.State))
	b = wire.AppendString(b, 9, n.Attributes)
	if n.Lost {
		b = wire.AppendUint(b, 10, 1)
	}
	return b
}

// Encode returns the entry as the directory's system key holds it.
func (n *NodeInfo) Encode() []byte { return n.append([]byte{wireVersion}) }

// DecodeNodeInfo parses what Encode wrote.
func DecodeNodeInfo(b []byte) (NodeInfo, error) {
	b, err := body(b)
	if err != nil {
		return NodeInfo{}, err
	}
	return nodeInfo(b)
}

func nodeInfo(b []byte) (NodeInfo, error) {
	var n NodeInfo
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			n.ID = keys.NodeID(v)
		case 2:
			n.Version = int64(v)
		case 3:
			n.Addr = string(data)
		case 4:
			n.SQLAddr = string(data)
		case 5:
			n.HTTPAddr = string(data)
		case 6:
			n.Region = string(data)
		case 7:
			n.Zone = string(data)
		case 8:
			n.State = NodeState(v)
		case 9:
			n.Attributes = string(data)
		case 10:
			n.Lost = v != 0
		}
		return nil
	})
	return n, err
}

func (id Identity) encode() []byte {
	b := wire.AppendString([]byte{wireVersion}, 1, id.ClusterID)
	return wire.AppendUint(b, 2, uint64(id.Node))
}

func decodeIdentity(b []byte) (Identity, error) {
	var id Identity
	b, err := body(b)
	if err == nil {
		err = wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) error {
			switch num {
			case 1:
				id.ClusterID = string(data)
			case 2:
				id.Node = keys.NodeID(v)
			}
			return nil
		})
	}
	if err == nil && (id.ClusterID == "" || id.Node <= 0) {
		err = fmt.Errorf("%w: identity %+v", ErrCorrupt, id)
	}
	return id, err
}

// Plan is what a cluster is founded from: the first ranges depend on nothing else.
type Plan struct {
	ClusterID string
	CreatedAt int64 // Unix nanoseconds, from the clock of whoever ran init
	Members   []NodeInfo
	// Verifier is the first user's SCRAM-SHA-256 verifier; empty: no password.
	Verifier string
}

func (p *Plan) append(b []byte) []byte {
	b = wire.AppendString(b, 1, p.ClusterID)
	b = wire.AppendUint(b, 2, uint64(p.CreatedAt))
	for i := range p.Members {
		b = wire.AppendBytes(b, 3, p.Members[i].append(nil))
	}
	return wire.AppendString(b, 4, p.Verifier)
}

func decodePlan(b []byte) (Plan, error) {
	var p Plan
	err := wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) error {
		switch num {
		case 1:
			p.ClusterID = string(data)
		case 2:
			p.CreatedAt = int64(v)
		case 3:
			n, err := nodeInfo(data)
			if err != nil {
				return err
			}
			if len(p.Members) == maxNodes {
				return fmt.Errorf("%w: more than %d members", ErrCorrupt, maxNodes)
			}
			p.Members = append(p.Members, n)
		case 4:
			p.Verifier = string(data)
		}
		return nil
	})
	if err == nil {
		err = p.validate()
	}
	return p, err
}

// proposal is a plan with the receiver's place in it; also the record of its acceptance.
type proposal struct {
	Plan Plan
	Self keys.NodeID
}

func (p *proposal) encode() []byte {
	b := wire.AppendBytes([]byte{wireVersion}, 1, p.Plan.append(nil))
	return wire.AppendUint(b, 2, uint64(p.Self))
}

func decodeProposal(b []byte) (*proposal, error) {
	p := &proposal{}
	b, err := body(b)
	if err == nil {
		err = wire.Fields(b, ErrCorrupt, func(num wire.Number, v uint64, data []byte) (err error) {
			switch num {
			case 1:
				p.Plan, err = decodePlan(data)
			case 2:
				p.Self = keys.NodeID(v)
			}
			return err
		})
	}
	if err == nil {
		if _, ok := p.Plan.member(p.Self); !ok {
			err = fmt.Errorf("%w: plan without member %d", ErrCorrupt, p.Self)
		}
	}
	return p, err
}

// status is a node's answer to init's question.
type status struct {
	Info     NodeInfo // as the node describes itself; ID only once it has one
	Identity *Identity
	Plan     *Plan // accepted
}

func (s *status) encode() []byte {
	b := wire.AppendBytes([]byte{wireVersion}, 1, s.Info.append(nil))
	if s.Identity != nil {
		b = wire.AppendBytes(b, 2, s.Identity.encode())
	}
	if s.Plan != nil {
		b = wire.AppendBytes(b, 3, s.Plan.append(nil))
	}
	return b
}

func decodeStatus(b []byte) (*status, error) {
	s := &status{}
	b, err := body(b)
	if err == nil {
		err = wire.Fields(b, ErrCorrupt, func(num wire.Number, _ uint64, data []byte) (err error) {
			switch num {
			case 1:
				s.Info, err = nodeInfo(data)
			case 2:
				var id Identity
				id, err = decodeIdentity(data)
				s.Identity = &id
			case 3:
				var p Plan
				p, err = decodePlan(data)
				s.Plan = &p
			}
			return err
		})
	}
	return s, err
}

// admission is the answer to a node that joins.
type admission struct {
	Identity  Identity
	Directory []NodeInfo
}

func (a *admission) encode() []byte {
	b := wire.AppendBytes([]byte{wireVersion}, 1, a.Identity.encode())
	for i := range a.Directory {
		b = wire.AppendBytes(b, 2, a.Directory[i].append(nil))
	}
	return b
}

func decodeAdmission(b []byte) (*admission, error) {
	a := &admission{}
	b, err := body(b)
	if err == nil {
		err = wire.Fields(b, ErrCorrupt, func(num wire.Number, _ uint64, data []byte) (err error) {
			switch num {
			case 1:
				a.Identity, err = decodeIdentity(data)
			case 2:
				var n NodeInfo
				if n, err = nodeInfo(data); err == nil && len(a.Directory) < maxNodes {
					a.Directory = append(a.Directory, n)
				}
			}
			return err
		})
	}
	if err == nil && a.Identity.Node <= 0 {
		err = fmt.Errorf("%w: admission without identity", ErrCorrupt)
	}
	return a, err
}

func encodeInfos(infos []NodeInfo) []byte {
	b := []byte{wireVersion}
	for i := range infos {
		b = wire.AppendBytes(b, 1, infos[i].append(nil))
	}
	return b
}

func decodeInfos(b []byte) (infos []NodeInfo, err error) {
	if b, err = body(b); err != nil {
		return nil, err
	}
	err = wire.Fields(b, ErrCorrupt, func(num wire.Number, _ uint64, data []byte) error {
		if num != 1 {
			return nil
		}
		n, err := nodeInfo(data)
		if err == nil && len(infos) == maxNodes {
			err = fmt.Errorf("%w: more than %d nodes", ErrCorrupt, maxNodes)
		}
		infos = append(infos, n)
		return err
	})
	return infos, err
}

// body strips the version.
func body(b []byte) ([]byte, error) { return wire.Body(b, wireVersion, ErrCorrupt) }
