package policies

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/topology"
)

// CheckBuilt refuses what is sound but not carried out by this version of the node: a policy
// that promises more than happens is worse than none. It shrinks as the node learns.
func (p *Policy) CheckBuilt(t topology.Topology) error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("policy %q: "+format, append([]any{p.Name}, args...)...))
	}
	for _, z := range t.Zones() {
		if p.RoleOf(z.Locality()) == Witness {
			add("zone %q has the role witness, which this version does not carry out yet; use replica", z.Name)
		}
	}
	return errors.Join(faults...)
}
