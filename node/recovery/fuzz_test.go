package recovery

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func samplePlan(t testing.TB) (*Plan, []byte) {
	v := Inventory{Version: InventoryVersion, ClusterID: "c", Node: 1, Boot: 3,
		Nodes: []Node{{ID: 1, Version: 2, Addr: "a", State: "live"}, {ID: 2, Version: 2, Addr: "b", State: "live"}},
		Replicas: []Replica{{Range: 1, Replica: 1, HasData: true, Start: everything.Start, End: everything.End, Generation: 1, NextReplica: 3, Role: Voter,
			Voters: []Server{{1, 1}, {2, 2}}, LastIndex: 20, LastTerm: 2, Commit: 19, Newest: time.Unix(100, 5)}}}
	p, err := Make(Input{Inventories: []Inventory{v}, Now: time.Unix(200, 0)})
	require.NoError(t, err)
	b, err := p.Encode()
	require.NoError(t, err)
	return p, b
}

// TestPlanIsNotChanged: a plan is carried out as it was made and approved, or not at all.
func TestPlanIsNotChanged(t *testing.T) {
	p, b := samplePlan(t)
	back, err := DecodePlan(b)
	require.NoError(t, err)
	require.Equal(t, p, back)
	for from, to := range map[string]string{
		`"new_replica": 19`: `"new_replica": 2`, `"cluster_id": "c"`: `"cluster_id": "d"`, `"version": 1`: `"version": 2`,
		`"lost": [`: `"unknown": 1, "lost": [`, p.ID: strings.Repeat("0", 64),
	} {
		changed := strings.Replace(string(b), from, to, 1)
		require.NotEqual(t, string(b), changed, from)
		_, err := DecodePlan([]byte(changed))
		require.ErrorIs(t, err, ErrCorrupt, from)
	}
	_, err = DecodePlan(append(b, '{'))
	require.ErrorContains(t, err, "goes on after its end")
	for _, fault := range []func(*Plan){
		func(p *Plan) { p.Ranges[0].NewReplica = 1 }, func(p *Plan) { p.Survivors = nil }, func(p *Plan) { p.Lost = append(p.Lost, p.Lost[0]) },
		func(p *Plan) { p.Ranges[0].Source.Node = 2 }, func(p *Plan) { p.Ranges[0].Span.End = nil }, func(p *Plan) { p.ClusterID = "" },
	} {
		q, _ := DecodePlan(b)
		fault(q)
		q.ID = q.checksum()
		c, err := q.Encode()
		require.NoError(t, err)
		_, err = DecodePlan(c)
		require.ErrorIs(t, err, ErrCorrupt)
	}
}

func FuzzDecodePlan(f *testing.F) {
	_, b := samplePlan(f)
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		// What its maker signed must not break the reader either: the checksum is set right.
		p := &Plan{}
		if json.Unmarshal(b, p) == nil && p.Version == PlanVersion {
			p.ID = p.checksum()
			if c, err := p.Encode(); err == nil {
				b = c
			}
		}
		got, err := DecodePlan(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := got.Encode()
		require.NoError(t, err)
		same, err := DecodePlan(again)
		require.NoError(t, err)
		require.Equal(t, got, same)
	})
}

func FuzzDecodeInventory(f *testing.F) {
	v := Inventory{Version: InventoryVersion, ClusterID: "c", Node: 1, Nodes: []Node{{ID: 1}}}
	b, err := v.Encode()
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeInventory(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		// Whatever a node says, planning with it ends.
		_, _ = Make(Input{Inventories: []Inventory{*v}, AcceptLostSpans: true})
		_, _ = Look([]Inventory{*v}, nil)
	})
}

func FuzzDecodeStep(f *testing.F) {
	s := Step{Plan: "p", Kind: Recover, Ranges: nil}
	b, err := s.Encode()
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := DecodeStep(b); err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	})
}
