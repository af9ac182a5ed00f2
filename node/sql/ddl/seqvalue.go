package ddl

import (
	"context"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

// Sequences hands out sequence values for one session: it implements what the functions
// nextval, currval, setval and lastval ask for. Values are taken outside the transaction
// and durable before they are returned (SAFETY S27); a rollback leaves a gap, as in
// PostgreSQL. It is not safe for concurrent use.
type Sequences struct {
	// Session is the session; its Catalog resolves the sequences.
	Session Session

	current map[catalog.ID]int64
	blocks  map[catalog.ID]block
	last    catalog.ID
}

// block is what CACHE has set aside for the session.
type block struct {
	storage uint32
	next    int64
	left    int64
}

func (q *Sequences) sequence(ctx context.Context, id types.OID, want catalog.Privilege) (*catalog.Sequence, error) {
	cat := q.Session.Catalog()
	s, err := cat.Sequence(ctx, catalog.ID(id))
	if err != nil {
		return nil, err
	}
	if s == nil || s.Database != q.Session.Path().Database {
		rel, err := cat.RelationByID(ctx, q.Session.Path().Database, catalog.ID(id))
		if err == nil && rel != nil && rel.Table != nil {
			return nil, pgerror.New(pgerrcode.WrongObjectType, "%q is not a sequence", rel.Table.Name)
		}
		return nil, pgerror.New(pgerrcode.UndefinedTable, "could not open relation with OID %d", id)
	}
	if ok, err := cat.HasPrivilege(ctx, q.Session.User().ID, s, want, true); err != nil || !ok {
		if err == nil {
			err = pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied for sequence %s", s.Name)
		}
		return nil, err
	}
	return s, nil
}

// NextVal returns a new value.
func (q *Sequences) NextVal(ctx context.Context, id types.OID) (int64, error) {
	s, err := q.sequence(ctx, id, catalog.PrivUsage|catalog.PrivUpdate)
	if err != nil {
		return 0, err
	}
	v, err := q.next(ctx, s)
	if err != nil {
		return 0, err
	}
	if q.current == nil {
		q.current = map[catalog.ID]int64{}
	}
	q.current[s.ID], q.last = v, s.ID
	return v, nil
}

func (q *Sequences) next(ctx context.Context, s *catalog.Sequence) (int64, error) {
	db := q.Session.Catalog().Manager().DB()
	if s.Cycle {
		return cycle(ctx, db, s)
	}
	if b := q.blocks[s.ID]; b.left > 0 && b.storage == s.Storage {
		v := b.next
		b.next, b.left = b.next+s.Increment, b.left-1
		q.blocks[s.ID] = b
		return v, nil
	}
	n := max(s.Cache, 1)
	stored, err := db.Increment(ctx, s.SequenceKey(), s.Increment*n)
	if err != nil {
		return 0, err
	}
	first := s.Base + stored - s.Increment*(n-1)
	if !s.InBounds(first) {
		return 0, exhausted(s)
	}
	// The rest of the block as far as the bounds allow.
	left := n - 1
	if s.Increment > 0 {
		left = min(left, (s.Max-first)/s.Increment)
	} else {
		left = min(left, int64((uint64(first)-uint64(s.Min))/uint64(-s.Increment)))
	}
	if left > 0 {
		if q.blocks == nil {
			q.blocks = map[catalog.ID]block{}
		}
		q.blocks[s.ID] = block{storage: s.Storage, next: first + s.Increment, left: left}
	}
	return first, nil
}

func exhausted(s *catalog.Sequence) error {
	if s.Increment > 0 {
		return pgerror.New(pgerrcode.SequenceGeneratorLimitExceeded, "nextval: reached maximum value of sequence %q (%d)", s.Name, s.Max)
	}
	return pgerror.New(pgerrcode.SequenceGeneratorLimitExceeded, "nextval: reached minimum value of sequence %q (%d)", s.Name, s.Min)
}

// cycle takes one value of a sequence that starts over at its bound.
func cycle(ctx context.Context, db catalog.DB, s *catalog.Sequence) (int64, error) {
	var v int64
	_, err := catalog.UpdateSequence(ctx, db, s.SequenceKey(), func(stored int64) (int64, error) {
		last, called := s.Last(stored)
		switch {
		case !called:
			v = last
		case s.Increment > 0 && uint64(s.Max)-uint64(last) < uint64(s.Increment):
			v = s.Min
		case s.Increment < 0 && uint64(last)-uint64(s.Min) < uint64(-s.Increment):
			v = s.Max
		default:
			v = last + s.Increment
		}
		return s.Stored(v), nil
	})
	return v, err
}

// CurrVal returns what NextVal of this session returned last for the sequence.
func (q *Sequences) CurrVal(ctx context.Context, id types.OID) (int64, error) {
	s, err := q.sequence(ctx, id, catalog.PrivUsage|catalog.PrivSelect)
	if err != nil {
		return 0, err
	}
	v, ok := q.current[s.ID]
	if !ok {
		return 0, pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "currval of sequence %q is not yet defined in this session", s.Name)
	}
	return v, nil
}

// LastVal returns what NextVal of this session returned last.
func (q *Sequences) LastVal(ctx context.Context) (int64, error) {
	if q.last == 0 {
		return 0, pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "lastval is not yet defined in this session")
	}
	if s, err := q.Session.Catalog().Sequence(ctx, q.last); err != nil || s == nil {
		if err == nil {
			err = pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "lastval is not yet defined in this session")
		}
		return 0, err
	}
	return q.current[q.last], nil
}

// SetVal sets the value; called says whether the next NextVal returns the one after it.
func (q *Sequences) SetVal(ctx context.Context, id types.OID, value int64, called bool) error {
	s, err := q.sequence(ctx, id, catalog.PrivUpdate)
	if err != nil {
		return err
	}
	if !s.InBounds(value) {
		return pgerror.New(pgerrcode.NumericValueOutOfRange, "setval: value %d is out of bounds for sequence %q (%d..%d)", value, s.Name, s.Min, s.Max)
	}
	stored := s.Stored(value)
	if !called {
		stored -= s.Increment
	}
	_, err = catalog.UpdateSequence(ctx, q.Session.Catalog().Manager().DB(), s.SequenceKey(), func(int64) (int64, error) { return stored, nil })
	if err != nil {
		return err
	}
	delete(q.blocks, s.ID)
	if called {
		if q.current == nil {
			q.current = map[catalog.ID]int64{}
		}
		q.current[s.ID] = value
	}
	return nil
}

// Reset forgets the session's values (DISCARD SEQUENCES).
func (q *Sequences) Reset() { q.current, q.blocks, q.last = nil, nil, 0 }
