package policies

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWithOptions(t *testing.T) {
	base := &Policy{Name: "p", Survive: SurviveZone, Voters: 3, OneRegion: true}
	p, err := base.With(Option{"survive", "region"}, Option{"voters", "5"}, Option{"zones", "us-b=replica, us-a = primary"},
		Option{"lease_preferences", "us-a, region=eu"}, Option{"one_region", "false"}, Option{"return_probation", "30s"}, Option{"regions", "{eu: {role: read-only}}"})
	require.NoError(t, err)
	require.Equal(t, `name: "p"
survive: region
voters: 5
regions:
  "eu": {role: read-only}
zones:
  "us-a": {role: primary}
  "us-b": {role: replica}
lease_preferences: ["us-a", "region=eu"]
return_probation: 30s
`, p.Format())
	require.Equal(t, 3, base.Voters, "the base stays as it was")

	again, err := p.With(Option{"zones", ""}, Option{"lease_preferences", "[]"})
	require.NoError(t, err)
	require.Empty(t, again.Zones)
	require.Empty(t, again.LeasePreferences)
	require.Equal(t, 5, again.Voters)

	_, err = base.With(Option{"name", "q"}, Option{"surviv", "zone"}, Option{"zones", "us-a"})
	for _, want := range []string{`unknown option "name"`, `unknown option "surviv"; the options are survive, voters`, `"us-a" has no role; write it as us-a=replica`} {
		require.ErrorContains(t, err, want)
	}
	_, err = base.With(Option{"voters", "four"}, Option{"survive", "everything\nvoters: 5"}, Option{"zones", "us-a=main"})
	for _, want := range []string{"voters must be a whole number", `is unknown; use node, zone or region`, `role "main" is unknown`} {
		require.ErrorContains(t, err, want)
	}
	_, err = base.With(Option{"zones", "{us-a: ["})
	require.ErrorContains(t, err, "option zones")
}
