package raftnet

import "errors"

var errIsolated = errors.New("raftnet: this node is isolated by fault injection")

// Isolate cuts the node off from all others, both ways, as a network does that drops every
// packet: nothing is refused, nothing arrives. Demos and tests call it. Healing closes the
// connections, since what was dropped is never sent again.
func (t *TCP) Isolate(on bool) {
	if t.isolated.Swap(on) == on || on {
		return
	}
	t.mu.Lock()
	all := make([]*conn, 0, len(t.conns))
	for k := range t.conns {
		all = append(all, k)
	}
	t.mu.Unlock()
	for _, k := range all {
		k.fail(errIsolated)
	}
}
