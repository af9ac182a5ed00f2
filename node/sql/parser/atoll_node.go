package parser

import (
	"strconv"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// AlterNode is ALTER NODE n DRAIN | UNDRAIN | DECOMMISSION [DEAD].
type AlterNode struct {
	Node   int32
	Action NodeAction
}

func (*AlterNode) atoll() {}

// NodeAction is what ALTER NODE does.
type NodeAction uint8

const (
	DrainNode NodeAction = iota
	UndrainNode
	DecommissionNode
	DecommissionDeadNode
)

// String returns the action's SQL.
func (a NodeAction) String() string {
	return [...]string{"DRAIN", "UNDRAIN", "DECOMMISSION", "DECOMMISSION DEAD"}[a]
}

// parseNode parses what follows ALTER NODE.
func parseNode(sql string, p piece, s *scanner) (*Statement, error) {
	atEnd := func() error {
		return pgerror.New(pgerrcode.SyntaxError, "syntax error at end of input").At(charIndex(sql, p.end))
	}
	t, ok := s.next()
	if !ok {
		return nil, atEnd()
	}
	id, err := strconv.ParseInt(sql[t.start:t.end], 10, 32)
	if err != nil || id < 1 {
		return nil, syntaxAt(sql, t)
	}
	own := &AlterNode{Node: int32(id)}
	if t, ok = s.next(); !ok {
		return nil, atEnd()
	}
	switch w := sql[t.start:t.end]; {
	case wordIs(w, "drain"):
		own.Action = DrainNode
	case wordIs(w, "undrain"):
		own.Action = UndrainNode
	case wordIs(w, "decommission"):
		own.Action = DecommissionNode
	default:
		return nil, syntaxAt(sql, t)
	}
	if t, ok = s.next(); ok {
		if own.Action != DecommissionNode || !wordIs(sql[t.start:t.end], "dead") {
			return nil, syntaxAt(sql, t)
		}
		own.Action = DecommissionDeadNode
		if t, ok = s.next(); ok {
			return nil, syntaxAt(sql, t)
		}
	}
	return ownStatement(sql, p, own), nil
}
