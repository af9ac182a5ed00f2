package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/server"
	"github.com/atolldb/atoll/policies"
)

// three is a whole cluster of three zones.
func three() []sight {
	var nodes []server.NodeRow
	for i, z := range []string{"a", "b", "c"} {
		nodes = append(nodes, server.NodeRow{ID: int32(i + 1), Region: "r", Zone: z, State: "live", Live: true})
	}
	var out []sight
	for i := range 3 {
		out = append(out, sight{addr: string(rune('a'+i)) + ":1", overview: &server.Overview{Node: int32(i + 1), Ready: true, Revision: "2",
			Nodes: append([]server.NodeRow(nil), nodes...), Placement: &server.Placement{Known: true},
			Ranges: []server.RangeRow{{ID: 7, Replicas: "n1 n2 n3", Leaseholder: 1, Applied: 100}}}})
	}
	return out
}

func newborn(addr string) sight {
	return sight{addr: addr, overview: &server.Overview{Newborn: true, Revision: "2"}}
}

func TestJudge(t *testing.T) {
	silent := func(addr string) sight { return sight{addr: addr, err: context.DeadlineExceeded} }
	absent := func(addr string) sight { return sight{addr: addr, absent: true, err: context.Canceled} }
	w := rollout{all: []string{"a:1", "b:1", "c:1"}, updated: []string{"a:1"}, revision: "2", founded: true}
	for name, c := range map[string]struct {
		change func(s []sight)
		want   string // of the error; empty: over
	}{
		"whole":          {func([]sight) {}, ""},
		"old revision":   {func(s []sight) { s[0].overview.Revision = "1" }, `runs revision "1", not "2" yet`},
		"another zone's": {func(s []sight) { s[1].overview.Revision = "1" }, ""},
		"not ready":      {func(s []sight) { s[2].overview.Ready = false }, "c:1 is not ready"},
		"silent":         {func(s []sight) { s[1] = silent("b:1") }, "b:1 does not answer"},
		"not seen":       {func(s []sight) { s[1].overview.Nodes[2].Live = false }, "node 2 does not see node 3"},
		"gone for good": {func(s []sight) {
			s[0].overview.Nodes = append(s[0].overview.Nodes, server.NodeRow{ID: 9, Zone: "a", Region: "r", State: "decommissioned"})
		}, ""},
		"never came up": {func(s []sight) {
			s[0].overview.Nodes = append(s[0].overview.Nodes, server.NodeRow{ID: 9, Zone: "a", Region: "r", State: "joining"})
		}, ""},
		"fewer replicas by policy": {func(s []sight) { s[0].overview.Ranges[0].Replicas = "n1 n2" }, ""},
		"a replica less": {func(s []sight) {
			s[1].overview.Placement = &server.Placement{Known: true, Lacking: 2, Reason: "range 7: a voter is missing"}
		}, "2 of the ranges that node 2 leads lack something: range 7: a voter is missing"},
		"no policies yet": {func(s []sight) { s[1].overview.Placement = &server.Placement{} }, "node 2 does not know the placement policies yet"},
		"a replica less, an older version": {func(s []sight) {
			s[2].overview.Placement, s[0].overview.Ranges[0].Replicas = nil, "n1 n2"
		}, "range 7 has 2 of 3 replicas"},
		"replica not there":      {func(s []sight) { s[2].overview.Ranges = nil }, "node 3 has no replica yet"},
		"behind":                 {func(s []sight) { s[2].overview.Ranges[0].Applied = 99 }, "node 3 has applied 99 of 100"},
		"no leaseholder":         {func(s []sight) { s[0].overview.Ranges[0].Leaseholder = 0 }, "no leaseholder"},
		"stranger":               {func(s []sight) { s[0].overview.Ranges[0].Replicas = "n1 n2 n8" }, "node 8, which is not among --http"},
		"lost volume":            {func(s []sight) { s[0], s[1] = newborn("a:1"), silent("b:1") }, "a:1 is not ready"},
		"a member's pod is gone": {func(s []sight) { s[1] = absent("b:1") }, "range 7 has a replica on node 2, which is not among --http"},
		"and it is missed": {func(s []sight) {
			s[1], s[0].overview.Nodes[1].Live = absent("b:1"), false
		}, "node 1 does not see node 2"},
		"never made": {func(s []sight) { s[0], s[1], s[2] = absent("a:1"), absent("b:1"), absent("c:1") }, "a:1 does not answer"},
	} {
		now := three()
		c.change(now)
		_, err := w.judge(now, three())
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.want, name)
		}
	}
	_, err := w.judge(three(), nil)
	require.ErrorContains(t, err, "one look more")
	// A zone or a node that comes later in the same rollout.
	_, err = w.judge(append(three(), absent("d:1")), append(three(), absent("d:1")))
	require.NoError(t, err)
	_, err = w.judge(append(three(), absent("d:1")), []sight{absent("a:1"), absent("b:1"), absent("c:1"), absent("d:1")})
	require.ErrorContains(t, err, "one look more")
	// A volume that came back with its zone.
	now := three()
	now[0].overview.Nodes[0].State = "decommissioned"
	_, err = w.judge(now, three())
	require.ErrorContains(t, err, "a:1 has the volume of node 1, which was decommissioned and never comes back: delete it")
	require.ErrorAs(t, err, &refusal{})
	// A first installation, one that got stuck, or volumes that are opened again zone by zone: the
	// nodes of this zone are all that there can be.
	w.founded = false
	for _, others := range [][]sight{{absent("b:1"), absent("c:1")}, {silent("b:1"), absent("c:1")}} {
		_, err = w.judge(append([]sight{newborn("a:1")}, others...), nil)
		require.NoError(t, err)
		_, err = w.judge(append([]sight{silent("a:1")}, others...), nil)
		require.ErrorContains(t, err, "a:1 does not answer")
	}
	require.True(t, unborn([]sight{newborn("a:1"), silent("b:1")}))
	require.False(t, unborn(three()))
}

func TestWaitLooksUntilItIsWhole(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		o := server.Overview{Node: 1, Ready: asked.Add(1) > 1, Nodes: []server.NodeRow{{ID: 1, Zone: "a", State: "live", Live: true}},
			Ranges: []server.RangeRow{{ID: 7, Replicas: "n1", Leaseholder: 1, Applied: 5}}}
		_ = json.NewEncoder(rw).Encode(o)
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, rollout{all: []string{addr}, updated: []string{addr}, founded: true}.wait(ctx, io.Discard))
	require.GreaterOrEqual(t, asked.Load(), int32(2))
	srv.Close()
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	err := rollout{all: []string{addr}, updated: []string{addr}, founded: true}.wait(short, io.Discard)
	require.ErrorContains(t, err, "time is up: "+addr+" does not answer")
}

func TestANameThatDoesNotExistIsAbsent(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s := lookAt(ctx, "127.0.0.1:1")
	require.False(t, s.absent, "nobody listens: that is no answer, not no node")
	require.Error(t, s.err)
}

func TestRetirees(t *testing.T) {
	zone, err := policies.Ready("survive-zone")
	require.NoError(t, err)
	inForce := []*policies.Policy{zone}
	node := func(id, zone, addr string) member { return member{id, "r", zone, addr, "live", ""} }
	members := []member{node("1", "a", "a0"), node("2", "b", "b0"), node("3", "a", "a1"), {"4", "r", "c", "c9", "decommissioned", ""}, node("5", "c", "c0")}
	leave, err := retirees(members, []string{"a0", "b0", "c0"}, inForce)
	require.NoError(t, err)
	require.Equal(t, []member{node("3", "a", "a1")}, leave)
	leave, err = retirees(members, []string{"a0", "a1", "b0", "c0", "d0"}, inForce)
	require.NoError(t, err)
	require.Empty(t, leave)
	_, err = retirees(members, []string{"a0", "a1", "c0"}, inForce)
	require.ErrorContains(t, err, "node 2 (b0) of zone b, can't be taken away: without them, policy \"survive-zone\": survive: zone with 3 voters needs 3 zones that vote, there are 2 (a, c)")

	// A zone may go where the others can keep every policy, also one that names it.
	members = append(members, node("6", "d", "d0"))
	leave, err = retirees(members, []string{"a0", "a1", "b0", "d0"}, inForce)
	require.NoError(t, err)
	require.Equal(t, []member{node("5", "c", "c0")}, leave)
	named, err := zone.WithRoles(policies.ZoneRole{Zone: "c", Role: policies.Replica})
	require.NoError(t, err)
	_, err = retirees(members, []string{"a0", "a1", "b0", "d0"}, append(inForce, named))
	require.NoError(t, err)
	primary, err := zone.WithRoles(policies.ZoneRole{Zone: "c", Role: policies.Primary})
	require.NoError(t, err)
	primary.Needs = []policies.Role{policies.Primary}
	_, err = retirees(members, []string{"a0", "a1", "b0", "d0"}, append(inForce, primary))
	require.ErrorContains(t, err, "needs a zone with the role primary")

	// What can't be kept even now is no reason to empty a zone.
	_, err = retirees(members[:3], []string{"a0", "a1"}, inForce)
	require.ErrorContains(t, err, "a zone is emptied, and even now")
	_, err = retirees(members[:3], []string{"a0", "b0"}, inForce)
	require.NoError(t, err)
}
