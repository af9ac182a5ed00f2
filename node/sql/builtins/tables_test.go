package builtins

import "testing"

func TestTablesLoad(t *testing.T) {
	n := 0
	for _, p := range Procs() {
		if p.impl != nil {
			n++
		}
	}
	t.Log(n, "of", len(Procs()), "functions are implemented")
}
