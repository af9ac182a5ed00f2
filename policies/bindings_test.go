package policies

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/topology"
	"github.com/atolldb/atoll/topology/placement"
)

func TestNearestBindingWins(t *testing.T) {
	b := Bindings{{}: "cluster", {Database: 1}: "db", {Database: 1, Table: 5}: "table", {Database: 1, Table: 5, Index: 2}: "index"}
	for o, want := range map[Object]Object{
		{Database: 1, Table: 5, Index: 2}: {Database: 1, Table: 5, Index: 2},
		{Database: 1, Table: 5, Index: 1}: {Database: 1, Table: 5},
		{Database: 1, Table: 6, Index: 1}: {Database: 1},
		{Database: 1}:                     {Database: 1},
		{Database: 2, Table: 9}:           {},
		{}:                                {},
	} {
		name, at := b.InForce(o)
		require.Equal(t, want, at, o.String())
		require.Equal(t, b[want], name)
	}
	name, _ := Bindings{{Database: 1}: "db"}.InForce(Object{Database: 2})
	require.Empty(t, name)
	b[Object{Database: 3}] = "db"
	require.Equal(t, []Object{{Database: 1}, {Database: 3}}, b.Uses("db"))
}

func policy(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Read("p", []byte(text))
	require.NoError(t, err)
	return p
}

func TestRulesBySpan(t *testing.T) {
	top := parseZones(t, "us/a:1 us/b:1 us/c:1")
	named := map[string]*Policy{
		"all": policy(t, "{name: all, survive: zone}"), "some": policy(t, "{name: some, survive: node}"), "idle": policy(t, "{name: idle, survive: region}")}
	b := Bindings{{}: "all", {Database: 1, Table: 2}: "some", {Database: 1, Table: 3}: "some"}
	span := func(table int64) Span {
		return Span{Start: fmt.Appendf(nil, "t%d", table), End: fmt.Appendf(nil, "t%d", table+1), Object: Object{Database: 1, Table: table}}
	}
	m, err := CompileAll(top, named, b, []Span{span(1), span(2), span(3), span(4)})
	require.NoError(t, err)
	require.Len(t, m.Rules, 2, "a policy that holds nowhere is not compiled")
	at := func(key string) string { return m.Rules[m.Rule([]byte(key))].Policy }
	require.Equal(t, "all", at(""))
	require.Equal(t, "all", at("t1zz"))
	require.Equal(t, "some", at("t2"))
	require.Equal(t, "some", at("t3zz"))
	require.Equal(t, "all", at("t4"))
	require.Equal(t, [][]byte{[]byte("t2"), []byte("t4")}, m.Boundaries(nil, nil), "no boundary between tables of one policy")
	require.Empty(t, m.Boundaries([]byte("t2"), []byte("t4")))
	require.Equal(t, [][]byte{[]byte("t4")}, m.Boundaries([]byte("t2x"), []byte("t9")))

	_, err = CompileAll(top, named, Bindings{{Database: 1}: "gone"}, []Span{span(2), span(1)})
	for _, want := range []string{`policy "gone", bound to database 1, does not exist`, "no policy is bound to the cluster", "overlap or are out of order"} {
		require.ErrorContains(t, err, want)
	}
	m, err = CompileAll(top, named, Bindings{{}: "idle"}, nil)
	require.NoError(t, err, "regions that are gone stop nothing")
	require.Equal(t, "idle", m.Rules[m.Rule(nil)].Policy)
}

func TestCompile(t *testing.T) {
	top := parseZones(t, "us/us-a:1:ssd us/us-b:1 us/us-c:1 eu/eu-a:1 eu/eu-b:1 eu/eu-w:1")
	p := policy(t, `
name: p
survive: zone
zones: {us-b: {role: primary}, eu-w: {role: witness}, us-c: {role: read-only}, us-a: {role: replica, attributes: [ssd]}}
lease_preferences: [us-a]
return_probation: 1m
`)
	require.NoError(t, p.Check(top))
	r := p.Compile(top)
	us, eu := func(z string) topology.Locality { return topology.Locality{Region: "us", Zone: z} }, func(z string) topology.Locality { return topology.Locality{Region: "eu", Zone: z} }
	require.Equal(t, []placement.Zone{
		{Locality: eu("eu-a"), Voter: placement.Data, LeaseRank: 2},
		{Locality: eu("eu-b"), Voter: placement.Data, LeaseRank: 2},
		{Locality: eu("eu-w"), Voter: placement.Witness, LeaseRank: placement.NoLease},
		{Locality: us("us-a"), Voter: placement.Data, LeaseRank: 0, Attributes: []string{"ssd"}},
		{Locality: us("us-b"), Voter: placement.Data, LeaseRank: 1},
		{Locality: us("us-c"), NonVoter: placement.Always, LeaseRank: placement.NoLease},
	}, r.Zones)
	require.Equal(t, topology.ZoneTier, r.Survive)
	_, ok := r.Zone("us-d")
	require.False(t, ok)
}

// BenchmarkCompileAll: a thousand policies over ten thousand tables.
func BenchmarkCompileAll(b *testing.B) {
	var zones []topology.Zone
	for _, name := range []string{"a", "b", "c"} {
		z := topology.Zone{Name: name, Region: "us"}
		z.Nodes = []topology.Node{{Name: name, Locality: z.Locality()}}
		zones = append(zones, z)
	}
	top, err := topology.New(zones...)
	require.NoError(b, err)
	named, bind := map[string]*Policy{}, Bindings{{}: "p0"}
	for i := range 1000 {
		name := fmt.Sprint("p", i)
		named[name] = &Policy{Name: name, Survive: SurviveZone, Voters: 3}
	}
	var spans []Span
	for i := int64(1); i <= 10000; i++ {
		o := Object{Database: 1, Table: i}
		bind[o] = fmt.Sprint("p", i%1000)
		spans = append(spans, Span{Start: fmt.Appendf(nil, "%08d", i), End: fmt.Appendf(nil, "%08d", i+1), Object: o})
	}
	b.ResetTimer()
	for range b.N {
		if _, err := CompileAll(top, named, bind, spans); err != nil {
			b.Fatal(err)
		}
	}
}
