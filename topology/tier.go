package topology

import "slices"

// Tier is a kind of failure domain: what fails as a whole.
type Tier uint8

// The tiers, from the narrowest to the widest.
const (
	NodeTier Tier = iota
	ZoneTier
	RegionTier
)

// Tiers returns every tier, from the narrowest to the widest.
func Tiers() []Tier { return []Tier{NodeTier, ZoneTier, RegionTier} }

// String returns "node", "zone" or "region".
func (t Tier) String() string { return [...]string{"node", "zone", "region"}[t] }

// HasAttributes reports whether a node has every one of the attributes.
func (n Node) HasAttributes(want []string) bool {
	for _, a := range want {
		if !slices.Contains(n.Attributes, a) {
			return false
		}
	}
	return true
}
