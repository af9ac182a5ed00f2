package check

import (
	"fmt"
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

type registerInput struct {
	key   int
	write bool
	value int
}

// Linearizable judges histories of single registers, each for itself. Operations that
// certainly did not happen must be left out.
func Linearizable(ops []RegisterOp, limit time.Duration) error {
	model := porcupine.Model{
		Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
			by := map[int][]porcupine.Operation{}
			for _, o := range h {
				k := o.Input.(registerInput).key
				by[k] = append(by[k], o)
			}
			out := make([][]porcupine.Operation, 0, len(by))
			for _, v := range by {
				out = append(out, v)
			}
			return out
		},
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			in := input.(registerInput)
			if in.write {
				return true, in.value
			}
			return output.(int) == state.(int), state
		},
		DescribeOperation: func(input, output any) string {
			in := input.(registerInput)
			if in.write {
				return fmt.Sprintf("write(%d, %d)", in.key, in.value)
			}
			return fmt.Sprintf("read(%d) = %v", in.key, output)
		},
	}
	var end time.Time
	for _, o := range ops {
		for _, t := range []time.Time{o.Call, o.Return} {
			if t.After(end) {
				end = t
			}
		}
	}
	h := make([]porcupine.Operation, len(ops))
	for i, o := range ops {
		ret := o.Return
		if ret.IsZero() {
			ret = end.Add(time.Hour)
		}
		h[i] = porcupine.Operation{ClientId: o.Client, Input: registerInput{o.Key, o.Write, o.Value}, Call: o.Call.UnixNano(), Output: o.Value, Return: ret.UnixNano()}
	}
	switch res, info := porcupine.CheckOperationsVerbose(model, h, limit); res {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("linearizability: no verdict on %d operations within %s", len(ops), limit)
	default:
		_ = info
		return fmt.Errorf("not linearizable: %d operations have no order that explains them", len(ops))
	}
}
