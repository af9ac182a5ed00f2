package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// RegisterOp is an operation on one register. A write whose outcome is unknown may take
// effect at any time after its start: leave Return zero.
type RegisterOp struct {
	Client       int
	Key          int
	Write        bool
	Value        int // written, or read; 0 is "absent"
	Call, Return time.Time
}

// String prints the operation for people.
func (o RegisterOp) String() string {
	what, until := "read", "unknown"
	if o.Write {
		what = "write"
	}
	if !o.Return.IsZero() {
		until = o.Return.Format("05.000000")
	}
	return fmt.Sprintf("client %d %s(%d)=%d %s..%s", o.Client, what, o.Key, o.Value, o.Call.Format("05.000000"), until)
}

// Linearizable judges histories of single registers, each for itself. Operations that
// certainly did not happen must be left out. limit bounds the search for each register.
func Linearizable(ops []RegisterOp, limit time.Duration) error {
	by := map[int][]RegisterOp{}
	var end time.Time
	for _, o := range ops {
		by[o.Key] = append(by[o.Key], o)
		for _, t := range []time.Time{o.Call, o.Return} {
			if t.After(end) {
				end = t
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(by)) {
		if err := linearizable(key, by[key], end.Add(time.Hour), limit); err != nil {
			return err
		}
	}
	return nil
}

var registerModel = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		if o := input.(RegisterOp); o.Write {
			return true, o.Value
		}
		return output.(int) == state.(int), state
	},
}

// linearizable judges one register. What never returned may take effect until never.
func linearizable(key int, ops []RegisterOp, never time.Time, limit time.Duration) error {
	h := make([]porcupine.Operation, len(ops))
	for i, o := range ops {
		ret := o.Return
		if ret.IsZero() {
			ret = never
		}
		h[i] = porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call.UnixNano(), Output: o.Value, Return: ret.UnixNano()}
	}
	switch porcupine.CheckOperationsTimeout(registerModel, h, limit) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("linearizability of register %d: no verdict on %d operations within %s", key, len(ops), limit)
	}
	slices.SortFunc(ops, func(a, b RegisterOp) int { return a.Call.Compare(b.Call) })
	var list strings.Builder
	for _, o := range ops {
		fmt.Fprintf(&list, "\n  %s", o)
	}
	return fmt.Errorf("register %d is not linearizable, no order explains these operations:%s", key, list.String())
}
