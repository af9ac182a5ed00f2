package policies

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/topology"
)

// CheckBuilt refuses what is sound but not carried out by this version of the node: a policy
// that promises more than happens is worse than none. It shrinks as the node learns.
func (p *Policy) CheckBuilt(_ topology.Topology) error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("policy %q: "+format, append([]any{p.Name}, args...)...))
	}
	if p.FollowerReads {
		add("follower_reads: true is not built yet in this version; set it to false")
	}
	return errors.Join(faults...)
}
