package ddl

import (
	"context"
	"math"
	"strconv"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
)

func (x *Executor) createSequence(ctx context.Context, s *ast.CreateSeqStmt) error {
	if s.Sequence.Relpersistence == "t" {
		return pgerror.New(pgerrcode.FeatureNotSupported, "temporary sequences are not supported yet")
	}
	schema, name, err := x.rangeVar(s.Sequence)
	if err != nil {
		return err
	}
	name = x.name(name)
	schemaID, _, err := x.creationSchema(ctx, schema)
	if err != nil {
		return x.at(err, s.Sequence.Location)
	}
	cat := x.Session.Catalog()
	db := x.Session.Path().Database
	if _, used, err := cat.Lookup(ctx, catalog.Name{Class: catalog.ClassRelation, Database: db, Schema: schemaID, Name: name}); err != nil {
		return err
	} else if used {
		if s.IfNotExists {
			x.notice(pgerrcode.DuplicateTable, "relation %q already exists, skipping", name)
			return nil
		}
		return duplicate(pgerrcode.DuplicateTable, "relation", name)
	}
	seq := newSequence(types.OIDInt8)
	id, err := cat.NewIDs(ctx, 2)
	if err != nil {
		return err
	}
	seq.Header = catalog.Header{ID: id, Name: name, Database: db, Schema: schemaID, Owner: x.Session.User().ID}
	if err := x.sequenceOptions(ctx, seq, s.Options, true); err != nil {
		return err
	}
	ok, err := cat.Create(ctx, seq)
	if err == nil && !ok {
		err = duplicate(pgerrcode.DuplicateTable, "relation", name)
	}
	return err
}

func (x *Executor) alterSequence(ctx context.Context, s *ast.AlterSeqStmt) error {
	rel, err := x.relationOf(ctx, s.Sequence, s.MissingOk)
	if err != nil || rel == nil {
		return err
	}
	if rel.Sequence == nil {
		return pgerror.New(pgerrcode.WrongObjectType, "%q is not a sequence", s.Sequence.Relname)
	}
	return x.changeSequence(ctx, rel.Sequence.ID, s.Options)
}

func (x *Executor) mutableSequence(ctx context.Context, id catalog.ID) (*catalog.Sequence, error) {
	cat := x.Session.Catalog()
	d, err := cat.Mutable(ctx, id)
	if err != nil {
		return nil, err
	}
	seq, ok := d.(*catalog.Sequence)
	if !ok {
		return nil, &catalog.RestartError{Reason: "a sequence was dropped"}
	}
	return seq, cat.CheckOwner(ctx, x.Session.User().ID, seq)
}

func (x *Executor) changeSequence(ctx context.Context, id catalog.ID, opts []*ast.Node) error {
	cat := x.Session.Catalog()
	seq, err := x.mutableSequence(ctx, id)
	if err != nil {
		return err
	}
	last, called, err := catalog.SequenceValue(ctx, cat.Txn(), seq)
	if err != nil {
		return err
	}
	old := *seq
	if err := x.sequenceOptions(ctx, seq, opts, false); err != nil {
		return err
	}
	restart, ok := restartValue(opts, seq)
	switch {
	case ok:
		last, called = restart, false
	case seq.Increment == old.Increment && called && seq.InBounds(last) && seq.Min == old.Min && seq.Max == old.Max:
		return cat.Write(ctx, seq) // the value stays where it is
	}
	if !seq.InBounds(last) {
		word, bound, value := "MINVALUE", seq.Min, last
		rel := "less"
		if last > seq.Max {
			word, bound, rel = "MAXVALUE", seq.Max, "greater"
		}
		return pgerror.New(pgerrcode.InvalidParameterValue, "RESTART value (%d) cannot be %s than %s (%d)", value, rel, word, bound)
	}
	return x.placeSequence(ctx, seq, last, called)
}

// placeSequence gives a sequence a new value key, so that the change belongs to the
// transaction: last was handed out, or is the next to be.
func (x *Executor) placeSequence(ctx context.Context, seq *catalog.Sequence, last int64, called bool) error {
	s, err := x.newStorage(ctx)
	if err != nil {
		return err
	}
	seq.Storage, seq.Base = s, last-seq.Increment
	if called {
		seq.Base = last // the first step yields last+Increment
	}
	return x.Session.Catalog().Write(ctx, seq)
}

func (x *Executor) restartSequence(ctx context.Context, id catalog.ID) error {
	seq, err := x.mutableSequence(ctx, id)
	if err != nil {
		return err
	}
	return x.placeSequence(ctx, seq, seq.Start, false)
}

func restartValue(opts []*ast.Node, seq *catalog.Sequence) (int64, bool) {
	for _, o := range opts {
		if d := o.GetDefElem(); d.Defname == "restart" {
			if d.Arg == nil {
				return seq.Start, true
			}
			v, err := strconv.ParseInt(defText(d), 10, 64)
			return v, err == nil
		}
	}
	return 0, false
}

// sequenceOptions applies CREATE or ALTER SEQUENCE's options and checks the result.
func (x *Executor) sequenceOptions(ctx context.Context, s *catalog.Sequence, opts []*ast.Node, create bool) error {
	var minSet, maxSet, startSet bool
	seen := map[string]bool{}
	oldType := s.Type
	for _, o := range opts {
		d := o.GetDefElem()
		if seen[d.Defname] {
			return x.at(pgerror.New(pgerrcode.SyntaxError, "conflicting or redundant options"), d.Location)
		}
		seen[d.Defname] = true
		num := func() (int64, error) {
			v, err := strconv.ParseInt(defText(d), 10, 64)
			if err != nil {
				return 0, pgerror.New(pgerrcode.NumericValueOutOfRange, "value %q is out of range for type bigint", defText(d))
			}
			return v, nil
		}
		var err error
		switch d.Defname {
		case "as":
			oid, _, terr := x.Exprs.TypeName(d.Arg.GetTypeName())
			if terr != nil {
				return terr
			}
			if oid != types.OIDInt2 && oid != types.OIDInt4 && oid != types.OIDInt8 {
				return pgerror.New(pgerrcode.InvalidParameterValue, "sequence type must be smallint, integer, or bigint")
			}
			s.Type = oid
		case "increment":
			if s.Increment, err = num(); err == nil && s.Increment == 0 {
				err = pgerror.New(pgerrcode.InvalidParameterValue, "INCREMENT must not be zero")
			}
		case "minvalue":
			if minSet = d.Arg != nil; minSet {
				s.Min, err = num()
			}
		case "maxvalue":
			if maxSet = d.Arg != nil; maxSet {
				s.Max, err = num()
			}
		case "start":
			s.Start, err = num()
			startSet = true
		case "cache":
			if s.Cache, err = num(); err == nil && s.Cache <= 0 {
				err = pgerror.New(pgerrcode.InvalidParameterValue, "CACHE (%d) must be greater than zero", s.Cache)
			}
		case "cycle":
			s.Cycle = boolArg(d, true)
		case "owned_by":
			err = x.ownedBy(ctx, s, list(d.Arg.GetList().GetItems()))
		case "restart":
			if create {
				err = pgerror.New(pgerrcode.SyntaxError, "RESTART is not allowed here")
			}
		default:
			err = pgerror.New(pgerrcode.SyntaxError, "sequence option %q not recognized", d.Defname)
		}
		if err != nil {
			return x.at(err, d.Location)
		}
	}
	typeChanged := s.Type != oldType
	if !minSet && (create || seen["minvalue"] || typeChanged && s.Min == typeMin(oldType)) {
		if s.Min = 1; s.Increment < 0 {
			s.Min = typeMin(s.Type)
		}
	}
	if !maxSet && (create || seen["maxvalue"] || typeChanged && s.Max == typeMax(oldType)) {
		if s.Max = typeMax(s.Type); s.Increment < 0 {
			s.Max = -1
		}
	}
	if create && !startSet {
		if s.Start = s.Min; s.Increment < 0 {
			s.Start = s.Max
		}
	}
	if err := checkSequence(s); err != nil {
		return err
	}
	if create {
		s.Base = s.Start - s.Increment
		s.Storage = 1
	}
	return nil
}

func checkSequence(s *catalog.Sequence) error {
	invalid := func(format string, args ...any) error {
		return pgerror.New(pgerrcode.InvalidParameterValue, format, args...)
	}
	switch {
	case s.Max > typeMax(s.Type) || s.Max < typeMin(s.Type):
		return invalid("MAXVALUE (%d) is out of range for sequence data type %s", s.Max, types.FormatType(s.Type, -1))
	case s.Min > typeMax(s.Type) || s.Min < typeMin(s.Type):
		return invalid("MINVALUE (%d) is out of range for sequence data type %s", s.Min, types.FormatType(s.Type, -1))
	case s.Min >= s.Max:
		return invalid("MINVALUE (%d) must be less than MAXVALUE (%d)", s.Min, s.Max)
	case s.Start < s.Min:
		return invalid("START value (%d) cannot be less than MINVALUE (%d)", s.Start, s.Min)
	case s.Start > s.Max:
		return invalid("START value (%d) cannot be greater than MAXVALUE (%d)", s.Start, s.Max)
	case s.Cache > math.MaxInt32:
		return invalid("CACHE (%d) is larger than the limit of %d", s.Cache, math.MaxInt32)
	}
	return nil
}

func (x *Executor) ownedBy(ctx context.Context, s *catalog.Sequence, parts []string) error {
	if len(parts) == 1 && parts[0] == "none" {
		s.OwnerTable, s.OwnerColumn = 0, 0
		return nil
	}
	if len(parts) < 2 {
		return pgerror.New(pgerrcode.SyntaxError, "invalid OWNED BY option").WithHint("Specify OWNED BY table.column or OWNED BY NONE.")
	}
	schema, name, err := x.qualified(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	t, err := x.Session.Catalog().ResolveTable(ctx, x.Session.Path(), schema, name, 0)
	if err != nil {
		return err
	}
	if s.Schema != 0 && t.Schema != s.Schema {
		return pgerror.New(pgerrcode.ObjectNotInPrerequisiteState, "sequence must be in same schema as table it is linked to")
	}
	column := parts[len(parts)-1]
	c := t.ColumnByName(column)
	if c == nil {
		return pgerror.New(pgerrcode.UndefinedColumn, "column %q of relation %q does not exist", column, t.Name)
	}
	s.OwnerTable, s.OwnerColumn = t.ID, c.ID
	m, err := x.mutableTable(ctx, t, x.Session.InBlock())
	if err != nil {
		return err
	}
	m.ColumnByID(c.ID).Sequence = s.ID
	return x.Session.Catalog().Write(ctx, m)
}
