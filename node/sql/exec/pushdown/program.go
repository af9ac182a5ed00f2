package pushdown

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/atolldb/atoll/node/sql/plan/expr"
	"github.com/atolldb/atoll/node/sql/types"
)

// decoder reads a specification; its first error stays.
type decoder struct {
	b      []byte
	slots  int
	consts []types.Datum
	err    error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("pushdown: malformed specification: %s", what)
	}
}

func (d *decoder) uint(limit uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail(fmt.Sprintf("a number is cut off or above %d", limit))
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) limited(limit int) int { return int(d.uint(uint64(limit))) }

// slot reads the number of a slot.
func (d *decoder) slot() int {
	if d.slots == 0 {
		d.fail("a slot of a row without slots")
		return 0
	}
	return d.limited(d.slots - 1)
}

func (d *decoder) bytes() []byte {
	n := d.limited(len(d.b))
	if d.err != nil || n > len(d.b) {
		d.fail("bytes are cut off")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) node(depth int) node {
	if d.err == nil && depth > maxDepth {
		d.fail("the program is too deep")
	}
	if d.err != nil || len(d.b) == 0 {
		d.fail("the program is cut off")
		return constNode{}
	}
	op := d.b[0]
	d.b = d.b[1:]
	switch op {
	case opSlot:
		return slotNode(d.slot())
	case opConst:
		if len(d.consts) == 0 {
			d.fail("a constant that is not there")
			return constNode{}
		}
		i := d.limited(len(d.consts) - 1)
		return constNode{d.consts[i]}
	case opCompare:
		n := &compareNode{op: expr.CmpOp(d.limited(int(expr.GE))), blanks: d.limited(1) == 1}
		n.l, n.r = d.node(depth+1), d.node(depth+1)
		return n
	case opAnd, opOr:
		return &logicNode{or: op == opOr, args: d.list(depth)}
	case opNot:
		return &notNode{d.node(depth + 1)}
	case opIsNull:
		neg := d.limited(1) == 1
		return &nullNode{d.node(depth + 1), neg}
	case opIsBool:
		n := &boolNode{want: d.limited(2), neg: d.limited(1) == 1}
		n.arg = d.node(depth + 1)
		return n
	case opIn:
		n := &inNode{neg: d.limited(1) == 1, blanks: d.limited(1) == 1}
		n.l = d.node(depth + 1)
		n.list = d.list(depth)
		return n
	case opIntOp:
		n := &intNode{op: byte(d.limited(255)), bits: d.limited(64)}
		n.l, n.r = d.node(depth+1), d.node(depth+1)
		return n
	}
	d.fail(fmt.Sprintf("operation %d is not known", op))
	return constNode{}
}

func (d *decoder) list(depth int) []node {
	n := d.limited(maxConst)
	if n > len(d.b) {
		d.fail("a list is cut off")
		return nil
	}
	out := make([]node, 0, n)
	for ; n > 0 && d.err == nil; n-- {
		out = append(out, d.node(depth+1))
	}
	return out
}

type slotNode int

func (n slotNode) eval(row []types.Datum) (types.Datum, bool) { return row[n], true }

type constNode struct{ v types.Datum }

func (n constNode) eval([]types.Datum) (types.Datum, bool) { return n.v, true }

// compare orders two values; false if they are not of one kind.
func compare(l, r types.Datum, blanks bool) (int, bool) {
	if l.Kind() != r.Kind() {
		return 0, false
	}
	switch l.Kind() {
	case types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		a, b := l.Int(), r.Int()
		switch {
		case a < b:
			return -1, true
		case a > b:
			return 1, true
		}
		return 0, true
	case types.KindString:
		if blanks {
			return types.CompareBPChar(l, r), true
		}
		return types.Compare(l, r), true
	case types.KindBool, types.KindFloat, types.KindBytes, types.KindUUID, types.KindNumeric:
		return types.Compare(l, r), true
	}
	return 0, false
}

type compareNode struct {
	op     expr.CmpOp
	blanks bool
	l, r   node
}

func (n *compareNode) eval(row []types.Datum) (types.Datum, bool) {
	l, ok := n.l.eval(row)
	if !ok {
		return l, false
	}
	r, ok := n.r.eval(row)
	if !ok {
		return r, false
	}
	if l.IsNull() || r.IsNull() {
		return types.Null, true
	}
	c, ok := compare(l, r, n.blanks)
	return types.NewBool(n.op.Holds(c)), ok
}

type logicNode struct {
	or   bool
	args []node
}

func (n *logicNode) eval(row []types.Datum) (types.Datum, bool) {
	null, unknown := false, false
	for _, a := range n.args {
		v, ok := a.eval(row)
		switch {
		case !ok || !v.IsNull() && v.Kind() != types.KindBool:
			unknown = true
		case v.IsNull():
			null = true
		case v.Bool() == n.or:
			// The gateway may meet an error first, and must report it: undecided then.
			return v, !unknown
		}
	}
	if unknown {
		return types.Null, false
	}
	if null {
		return types.Null, true
	}
	return types.NewBool(!n.or), true
}

type notNode struct{ arg node }

func (n *notNode) eval(row []types.Datum) (types.Datum, bool) {
	v, ok := n.arg.eval(row)
	if !ok || v.IsNull() {
		return v, ok
	}
	return types.NewBool(!v.Bool()), v.Kind() == types.KindBool
}

type nullNode struct {
	arg node
	neg bool
}

func (n *nullNode) eval(row []types.Datum) (types.Datum, bool) {
	v, ok := n.arg.eval(row)
	return types.NewBool(v.IsNull() != n.neg), ok
}

type boolNode struct {
	want int
	neg  bool
	arg  node
}

func (n *boolNode) eval(row []types.Datum) (types.Datum, bool) {
	v, ok := n.arg.eval(row)
	same := false
	switch {
	case v.IsNull():
		same = n.want == 2
	case v.Kind() != types.KindBool:
		return types.Null, false
	default:
		same = n.want == 1 && v.Bool() || n.want == 0 && !v.Bool()
	}
	return types.NewBool(same != n.neg), ok
}

type inNode struct {
	neg, blanks bool
	l           node
	list        []node
}

func (n *inNode) eval(row []types.Datum) (types.Datum, bool) {
	l, ok := n.l.eval(row)
	if !ok || l.IsNull() {
		return types.Null, ok
	}
	null := false
	for _, x := range n.list {
		r, ok := x.eval(row)
		if !ok {
			return types.Null, false
		}
		if r.IsNull() {
			null = true
			continue
		}
		c, ok := compare(l, r, n.blanks)
		if !ok {
			return types.Null, false
		}
		if c == 0 {
			return types.NewBool(!n.neg), true
		}
	}
	if null {
		return types.Null, true
	}
	return types.NewBool(n.neg), true
}

type intNode struct {
	op   byte
	bits int
	l, r node
}

func (n *intNode) eval(row []types.Datum) (types.Datum, bool) {
	l, lok := n.l.eval(row)
	r, rok := n.r.eval(row)
	if !lok || !rok {
		return types.Null, false
	}
	if l.IsNull() || r.IsNull() {
		return types.Null, true
	}
	if l.Kind() != types.KindInt || r.Kind() != types.KindInt {
		return types.Null, false
	}
	a, b := l.Int(), r.Int()
	var v int64
	fits := true
	switch n.op {
	case '+':
		v = a + b
		fits = (v > a) == (b > 0)
	case '-':
		v = a - b
		fits = (v < a) == (b > 0)
	case '*':
		hi, lo := bits.Mul64(magnitude(a), magnitude(b))
		fits = hi == 0 && lo <= math.MaxInt64
		v = a * b
	default:
		return types.Null, false
	}
	switch n.bits {
	case 16:
		fits = fits && v == int64(int16(v))
	case 32:
		fits = fits && v == int64(int32(v))
	case 64:
	default:
		fits = false
	}
	return types.NewInt(v), fits // an overflow is the gateway's to report
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}
