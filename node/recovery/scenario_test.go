package recovery

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
)

// scenario builds inventories from lines of text:
//
//	dir ID ZONE [STATE]                             an entry of every node's directory
//	node ID [live=ID,...]                           a node that answers
//	  ID/REPLICA [START,END) gen=G voters=N/R,... last=INDEX@TERM [FLAG...]   one of its replicas
//	  spent RANGE LOWEST
//
// Keys are min, meta, sys, max, or letters of table data. "none" as span is a replica without data.
type scenario struct {
	dir   []Node
	nodes []Inventory
}

func (s *scenario) key(t *testing.T, name string) Key {
	switch name {
	case "min":
		return Key(keys.MinKey)
	case "sys":
		return Key(keys.MetaMax)
	case "max":
		return Key(keys.MaxKey)
	}
	require.Len(t, name, 1, "key %q", name)
	return Key(binary.BigEndian.AppendUint32(keys.TablePrefix(100), uint32(name[0])))
}

func number(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}

func (s *scenario) server(t *testing.T, text string) Server {
	node, rep, ok := strings.Cut(text, "/")
	require.True(t, ok, text)
	return Server{keys.NodeID(number(t, node)), keys.ReplicaID(number(t, rep))}
}

func (s *scenario) read(t *testing.T, input string) {
	for _, line := range strings.Split(input, "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "dir":
			n := Node{ID: keys.NodeID(number(t, f[1])), Version: 5, Addr: "addr-" + f[1], Region: "r", Zone: f[2], State: "live"}
			if len(f) > 3 {
				n.State = f[3]
			}
			s.dir = append(s.dir, n)
		case f[0] == "node":
			v := Inventory{Version: InventoryVersion, ClusterID: "c", Node: keys.NodeID(number(t, f[1])), Boot: 3}
			for _, o := range f[2:] {
				name, value, _ := strings.Cut(o, "=")
				switch name {
				case "live":
					for _, id := range strings.Split(value, ",") {
						v.Live = append(v.Live, keys.NodeID(number(t, id)))
					}
				case "cluster":
					v.ClusterID = value
				}
			}
			s.nodes = append(s.nodes, v)
		case f[0] == "spent":
			v := &s.nodes[len(s.nodes)-1]
			v.Spent = append(v.Spent, Spent{keys.RangeID(number(t, f[1])), keys.ReplicaID(number(t, f[2]))})
		default:
			v := &s.nodes[len(s.nodes)-1]
			v.Replicas = append(v.Replicas, s.replica(t, v.Node, f))
		}
	}
	for i := range s.nodes {
		s.nodes[i].Nodes = s.dir
	}
}

func (s *scenario) replica(t *testing.T, node keys.NodeID, f []string) Replica {
	id := s.server(t, f[0])
	r := Replica{Range: keys.RangeID(id.Node), Replica: id.Replica, Role: Removed, Generation: 1, NextReplica: id.Replica + 1}
	if f[1] != "none" {
		from, to, ok := strings.Cut(strings.Trim(f[1], "[)"), ",")
		require.True(t, ok, f[1])
		r.HasData, r.Start, r.End = true, s.key(t, from), s.key(t, to)
	}
	for _, o := range f[2:] {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "gen":
			r.Generation = number(t, value)
		case "voters":
			for _, v := range strings.Split(value, ",") {
				r.Voters = append(r.Voters, s.server(t, v))
			}
		case "non-voters":
			for _, v := range strings.Split(value, ",") {
				r.NonVoters = append(r.NonVoters, s.server(t, v))
			}
		case "last":
			index, term, _ := strings.Cut(value, "@")
			r.LastIndex, r.LastTerm = uint64(number(t, index)), uint64(number(t, term))
			r.Commit, r.Applied, r.Term = r.LastIndex, r.LastIndex, r.LastTerm
		case "commit":
			r.Commit = uint64(number(t, value))
			r.Applied = r.Commit
		case "term":
			r.Term = uint64(number(t, value))
		case "lease":
			r.Lease = true
		case "mute":
			r.Mute, r.Distrust = true, "lost entries that it had acknowledged"
		case "differs":
			r.CorruptData, r.Distrust = true, "differs from the other replicas"
		case "witness":
			r.Role = Witness
		default:
			t.Fatalf("option %q", o)
		}
	}
	self := Server{node, r.Replica}
	switch {
	case r.Role == Witness:
	case slices.Contains(r.Voters, self):
		r.Role = Voter
	case slices.Contains(r.NonVoters, self):
		r.Role = NonVoter
	}
	return r
}

// brief prints a plan without what changes from run to run.
func brief(p *Plan) string {
	var b strings.Builder
	for _, l := range p.Lost {
		fmt.Fprintf(&b, "lost n%d\n", l.Node)
	}
	for i := range p.Ranges {
		r := &p.Ranges[i]
		fmt.Fprintf(&b, "r%d %s from %s %s at %d@%d as %d gen %d above term %d, in doubt %d", r.ID, r.Span, r.Source.Role, r.Source.Server,
			r.Source.LastIndex, r.Source.LastTerm, r.NewReplica, r.Generation, r.Term, r.InDoubt())
		for _, o := range r.Others {
			fmt.Fprintf(&b, "; drop %s at %d@%d", o.Server, o.LastIndex, o.LastTerm)
		}
		b.WriteByte('\n')
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "  note: %s\n", n)
		}
	}
	for _, s := range p.Superseded {
		fmt.Fprintf(&b, "superseded r%d below %d: %d copies\n", s.ID, s.Lowest, len(s.Copies))
	}
	for _, h := range p.Holes {
		fmt.Fprintf(&b, "hole %s\n", h)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	fmt.Fprintf(&b, "floors: range %d, node %d\n", p.RangeIDFloor, p.NodeIDFloor)
	return b.String()
}

// TestScenarios works out plans from what nodes say.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{}
		var plan *Plan
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				s, plan = &scenario{}, nil
				s.read(t, d.Input)
				return ""
			case "plan":
				in := Input{Inventories: s.nodes, AcceptLostSpans: d.HasArg("accept"), Now: time.Unix(1_700_000_000, 0)}
				for _, a := range d.CmdArgs {
					if a.Key == "lost" {
						for _, v := range a.Vals {
							in.Lost = append(in.Lost, keys.NodeID(number(t, v)))
						}
					}
				}
				var err error
				if plan, err = Make(in); err != nil {
					return "refused:\n" + err.Error() + "\n"
				}
				b, err := plan.Encode()
				require.NoError(t, err)
				back, err := DecodePlan(b)
				require.NoError(t, err)
				require.Equal(t, brief(plan), brief(back))
				return brief(plan)
			case "report":
				st, err := Look(s.nodes, plan)
				if err != nil {
					return "refused: " + err.Error() + "\n"
				}
				var b strings.Builder
				for _, r := range st.Ranges {
					fmt.Fprintf(&b, "r%d %s leaseholder n%d %d of %d: %s\n", r.ID, r.Span, r.Leader, r.Copies, r.Wanted, r.State)
				}
				for _, u := range st.Unavailable {
					fmt.Fprintf(&b, "unavailable %s\n", u)
				}
				for _, p := range st.Problems {
					fmt.Fprintf(&b, "problem: %s\n", p)
				}
				fmt.Fprintf(&b, "whole: %t\n", st.Whole)
				return b.String()
			}
			t.Fatalf("command %q", d.Cmd)
			return ""
		})
	})
}
