package catalog

import (
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/sql/types"
	"google.golang.org/protobuf/encoding/protowire"
)

// formatVersion leads every stored value of this package. A reader refuses another one.
const formatVersion = 1

// Encode returns the stored form of a descriptor: the format version, the kind, then
// protobuf fields. Field numbers are never reused.
func Encode(d Descriptor) []byte {
	e := encoder{b: []byte{formatVersion, byte(d.Kind())}}
	e.msg(1, func(e *encoder) { encodeHeader(e, d.Head()) })
	switch d := d.(type) {
	case *Database:
		e.bool(2, d.IsTemplate)
		e.bool(3, d.AllowConn)
		e.int(4, int64(d.ConnLimit))
		e.strs(5, d.Settings)
	case *Schema:
	case *Table:
		encodeTable(&e, d)
	case *Sequence:
		encodeSequence(&e, d)
	case *View:
		for i := range d.Columns {
			e.msg(2, func(e *encoder) { encodeColumn(e, &d.Columns[i]) })
		}
		e.str(3, d.Query)
	case *Role:
		encodeRole(&e, d)
	default:
		panic(fmt.Sprintf("catalog: no encoding for %T", d)) // a bug: the set of kinds is closed
	}
	return e.b
}

// Decode is the inverse of Encode.
func Decode(b []byte) (Descriptor, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("catalog: a descriptor of %d bytes is cut off; at least 2 are needed", len(b))
	}
	if b[0] != formatVersion {
		return nil, fmt.Errorf("catalog: descriptor format %d is not known, only %d: this node is older than the data; upgrade it", b[0], formatVersion)
	}
	var d Descriptor
	var each func(field) error
	switch Kind(b[1]) {
	case KindDatabase:
		x := &Database{}
		d, each = x, func(f field) error { decodeDatabase(x, f); return nil }
	case KindSchema:
		d, each = &Schema{}, func(field) error { return nil }
	case KindTable:
		x := &Table{}
		d, each = x, func(f field) error { return decodeTable(x, f) }
	case KindSequence:
		x := &Sequence{}
		d, each = x, func(f field) error { decodeSequence(x, f); return nil }
	case KindView:
		x := &View{}
		d, each = x, func(f field) error { return decodeView(x, f) }
	case KindRole:
		x := &Role{}
		d, each = x, func(f field) error { return decodeRole(x, f) }
	default:
		return nil, fmt.Errorf("catalog: descriptor kind %d is not known; this node may be older than the data", b[1])
	}
	err := fields(b[2:], func(f field) error {
		if f.num == 1 {
			return decodeHeader(d.Head(), f.b)
		}
		return each(f)
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func encodeHeader(e *encoder, h *Header) {
	e.uint(1, uint64(h.ID))
	e.uint(2, h.Version)
	e.int(3, h.ModTime.WallNanos)
	e.int(4, int64(h.ModTime.Logical))
	e.str(5, h.Name)
	e.uint(6, uint64(h.Database))
	e.uint(7, uint64(h.Schema))
	e.uint(8, uint64(h.Owner))
	e.uint(9, uint64(h.State))
	encodeACL(e, 10, h.ACL)
	if l := h.Lock; l != nil {
		e.msg(11, func(e *encoder) {
			e.uint(1, uint64(l.Node))
			e.uint(2, l.Session)
			e.uint(3, l.Holder)
		})
	}
}

func decodeHeader(h *Header, b []byte) error {
	return fields(b, func(f field) error {
		switch f.num {
		case 1:
			h.ID = ID(f.v)
		case 2:
			h.Version = f.v
		case 3:
			h.ModTime.WallNanos = f.int()
		case 4:
			h.ModTime.Logical = int32(f.int())
		case 5:
			h.Name = f.str()
		case 6:
			h.Database = ID(f.v)
		case 7:
			h.Schema = ID(f.v)
		case 8:
			h.Owner = ID(f.v)
		case 9:
			h.State = DescState(f.v)
		case 10:
			return decodeACL(&h.ACL, f.b)
		case 11:
			l := &SchemaLock{}
			h.Lock = l
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					l.Node = keys.NodeID(f.v)
				case 2:
					l.Session = f.v
				case 3:
					l.Holder = f.v
				}
				return nil
			})
		}
		return nil
	})
}

func encodeACL(e *encoder, n int32, acl []ACLItem) {
	for _, a := range acl {
		e.msg(protowire.Number(n), func(e *encoder) {
			e.uint(1, uint64(a.Grantee))
			e.uint(2, uint64(a.Grantor))
			e.uint(3, uint64(a.Privs))
			e.uint(4, uint64(a.Options))
		})
	}
}

func decodeACL(acl *[]ACLItem, b []byte) error {
	var a ACLItem
	err := fields(b, func(f field) error {
		switch f.num {
		case 1:
			a.Grantee = ID(f.v)
		case 2:
			a.Grantor = ID(f.v)
		case 3:
			a.Privs = Privilege(f.v)
		case 4:
			a.Options = Privilege(f.v)
		}
		return nil
	})
	*acl = append(*acl, a)
	return err
}

func decodeDatabase(d *Database, f field) {
	switch f.num {
	case 2:
		d.IsTemplate = f.bool()
	case 3:
		d.AllowConn = f.bool()
	case 4:
		d.ConnLimit = int32(f.int())
	case 5:
		d.Settings = append(d.Settings, f.str())
	}
}

func encodeTable(e *encoder, t *Table) {
	e.uint(2, uint64(t.Persistence))
	for i := range t.Columns {
		e.msg(3, func(e *encoder) { encodeColumn(e, &t.Columns[i]) })
	}
	e.msg(4, func(e *encoder) { encodeIndex(e, &t.Primary) })
	for i := range t.Indexes {
		e.msg(5, func(e *encoder) { encodeIndex(e, &t.Indexes[i]) })
	}
	for i := range t.Constraints {
		e.msg(6, func(e *encoder) { encodeConstraint(e, &t.Constraints[i]) })
	}
	e.uint(7, uint64(t.NextColumn))
	e.uint(8, uint64(t.NextStorage))
	e.strs(9, t.Options)
	e.uint32s(10, t.Garbage)
}

func decodeTable(t *Table, f field) (err error) {
	switch f.num {
	case 2:
		t.Persistence = Persistence(f.v)
	case 3:
		t.Columns = append(t.Columns, Column{})
		return decodeColumn(&t.Columns[len(t.Columns)-1], f.b)
	case 4:
		return decodeIndex(&t.Primary, f.b)
	case 5:
		t.Indexes = append(t.Indexes, Index{})
		return decodeIndex(&t.Indexes[len(t.Indexes)-1], f.b)
	case 6:
		t.Constraints = append(t.Constraints, Constraint{})
		return decodeConstraint(&t.Constraints[len(t.Constraints)-1], f.b)
	case 7:
		t.NextColumn = ColumnID(f.v)
	case 8:
		t.NextStorage = uint32(f.v)
	case 9:
		t.Options = append(t.Options, f.str())
	case 10:
		t.Garbage, err = f.uint32s()
	}
	return err
}

func encodeColumn(e *encoder, c *Column) {
	e.uint(1, uint64(c.ID))
	e.str(2, c.Name)
	e.uint(3, uint64(c.Type.OID))
	e.int(4, int64(c.Type.Mod))
	e.bool(5, c.NotNull)
	e.bool(6, c.NullsUnproven)
	e.bool(7, c.Hidden)
	e.uint(8, uint64(c.State))
	e.str(9, c.Default)
	e.uint(10, uint64(c.Identity))
	e.uint(11, uint64(c.Sequence))
	e.str(12, c.Generated)
	e.bool(13, c.HasMissing)
	e.str(14, c.Missing)
	e.str(15, c.Collation)
	e.int(16, int64(c.StatTarget))
	encodeACL(e, 17, c.ACL)
}

func decodeColumn(c *Column, b []byte) error {
	return fields(b, func(f field) error {
		switch f.num {
		case 1:
			if f.v == 0 || f.v > uint64(RowIDColumn) {
				return fmt.Errorf("catalog: column ID %d is not in 1..%d", f.v, RowIDColumn)
			}
			c.ID = ColumnID(f.v)
		case 2:
			c.Name = f.str()
		case 3:
			c.Type.OID = types.OID(f.v)
		case 4:
			c.Type.Mod = int32(f.int())
		case 5:
			c.NotNull = f.bool()
		case 6:
			c.NullsUnproven = f.bool()
		case 7:
			c.Hidden = f.bool()
		case 8:
			c.State = State(f.v)
		case 9:
			c.Default = f.str()
		case 10:
			c.Identity = IdentityKind(f.v)
		case 11:
			c.Sequence = ID(f.v)
		case 12:
			c.Generated = f.str()
		case 13:
			c.HasMissing = f.bool()
		case 14:
			c.Missing = f.str()
		case 15:
			c.Collation = f.str()
		case 16:
			c.StatTarget = int32(f.int())
		case 17:
			return decodeACL(&c.ACL, f.b)
		}
		return nil
	})
}

func encodeIndex(e *encoder, ix *Index) {
	e.uint(1, uint64(ix.ID))
	e.str(2, ix.Name)
	e.bool(3, ix.Unique)
	e.bool(4, ix.Primary)
	e.uint(5, uint64(ix.State))
	e.uint(6, uint64(ix.Storage))
	for _, c := range ix.Columns {
		e.msg(7, func(e *encoder) {
			e.uint(1, uint64(c.Column))
			e.uint(2, uint64(c.Dir))
			e.bool(3, c.NullsFirst)
			e.str(4, c.OpClass)
		})
	}
	e.columnIDs(8, ix.Suffix)
	e.columnIDs(9, ix.Stored)
	e.bool(10, ix.Constraint)
	e.bool(11, ix.NullsNotDistinct)
	e.str(12, ix.Predicate)
	e.strs(13, ix.Options)
}

func decodeIndex(ix *Index, b []byte) error {
	return fields(b, func(f field) (err error) {
		switch f.num {
		case 1:
			ix.ID = ID(f.v)
		case 2:
			ix.Name = f.str()
		case 3:
			ix.Unique = f.bool()
		case 4:
			ix.Primary = f.bool()
		case 5:
			ix.State = State(f.v)
		case 6:
			ix.Storage = uint32(f.v)
		case 7:
			ix.Columns = append(ix.Columns, IndexColumn{})
			return decodeIndexColumn(&ix.Columns[len(ix.Columns)-1], f.b)
		case 8:
			ix.Suffix, err = f.columnIDs()
		case 9:
			ix.Stored, err = f.columnIDs()
		case 10:
			ix.Constraint = f.bool()
		case 11:
			ix.NullsNotDistinct = f.bool()
		case 12:
			ix.Predicate = f.str()
		case 13:
			ix.Options = append(ix.Options, f.str())
		}
		return err
	})
}

func decodeIndexColumn(c *IndexColumn, b []byte) error {
	return fields(b, func(f field) error {
		switch f.num {
		case 1:
			c.Column = ColumnID(f.v)
		case 2:
			c.Dir = Direction(f.v)
		case 3:
			c.NullsFirst = f.bool()
		case 4:
			c.OpClass = f.str()
		}
		return nil
	})
}

func encodeConstraint(e *encoder, c *Constraint) {
	e.uint(1, uint64(c.ID))
	e.str(2, c.Name)
	e.uint(3, uint64(c.Kind))
	e.columnIDs(4, c.Columns)
	e.uint(5, uint64(c.Index))
	e.str(6, c.Expr)
	e.uint(7, uint64(c.State))
	e.bool(8, c.NoInherit)
	e.bool(9, c.Validated)
	e.bool(10, c.Deferrable)
	e.bool(11, c.Deferred)
	e.uint(12, uint64(c.RefTable))
	e.columnIDs(13, c.RefColumns)
	e.uint(14, uint64(c.OnUpdate))
	e.uint(15, uint64(c.OnDelete))
	e.uint(16, uint64(c.MatchType))
}

func decodeConstraint(c *Constraint, b []byte) error {
	return fields(b, func(f field) (err error) {
		switch f.num {
		case 1:
			c.ID = ID(f.v)
		case 2:
			c.Name = f.str()
		case 3:
			c.Kind = ConstraintKind(f.v)
		case 4:
			c.Columns, err = f.columnIDs()
		case 5:
			c.Index = ID(f.v)
		case 6:
			c.Expr = f.str()
		case 7:
			c.State = State(f.v)
		case 8:
			c.NoInherit = f.bool()
		case 9:
			c.Validated = f.bool()
		case 10:
			c.Deferrable = f.bool()
		case 11:
			c.Deferred = f.bool()
		case 12:
			c.RefTable = ID(f.v)
		case 13:
			c.RefColumns, err = f.columnIDs()
		case 14:
			c.OnUpdate = byte(f.v)
		case 15:
			c.OnDelete = byte(f.v)
		case 16:
			c.MatchType = byte(f.v)
		}
		return err
	})
}

func encodeSequence(e *encoder, s *Sequence) {
	e.uint(2, uint64(s.Type))
	e.int(3, s.Start)
	e.int(4, s.Increment)
	e.int(5, s.Min)
	e.int(6, s.Max)
	e.int(7, s.Cache)
	e.bool(8, s.Cycle)
	e.uint(9, uint64(s.OwnerTable))
	e.uint(10, uint64(s.OwnerColumn))
	e.bool(11, s.Identity)
	e.uint(12, uint64(s.Storage))
	e.int(13, s.Base)
}

func decodeSequence(s *Sequence, f field) {
	switch f.num {
	case 2:
		s.Type = types.OID(f.v)
	case 3:
		s.Start = f.int()
	case 4:
		s.Increment = f.int()
	case 5:
		s.Min = f.int()
	case 6:
		s.Max = f.int()
	case 7:
		s.Cache = f.int()
	case 8:
		s.Cycle = f.bool()
	case 9:
		s.OwnerTable = ID(f.v)
	case 10:
		s.OwnerColumn = ColumnID(f.v)
	case 11:
		s.Identity = f.bool()
	case 12:
		s.Storage = uint32(f.v)
	case 13:
		s.Base = f.int()
	}
}

func decodeView(v *View, f field) error {
	switch f.num {
	case 2:
		v.Columns = append(v.Columns, Column{})
		return decodeColumn(&v.Columns[len(v.Columns)-1], f.b)
	case 3:
		v.Query = f.str()
	}
	return nil
}

func encodeRole(e *encoder, r *Role) {
	for i, v := range []bool{r.Superuser, r.Inherit, r.CreateRole, r.CreateDB, r.Login, r.Replication, r.BypassRLS} {
		e.bool(protowire.Number(2+i), v)
	}
	e.int(9, int64(r.ConnLimit))
	e.str(10, r.Verifier)
	e.int(11, r.ValidUntil)
	for _, m := range r.MemberOf {
		e.msg(12, func(e *encoder) {
			e.uint(1, uint64(m.Role))
			e.uint(2, uint64(m.Grantor))
			e.bool(3, m.Admin)
		})
	}
	e.strs(13, r.Settings)
}

func decodeRole(r *Role, f field) error {
	flags := []*bool{&r.Superuser, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS}
	switch f.num {
	case 2, 3, 4, 5, 6, 7, 8:
		*flags[f.num-2] = f.bool()
	case 9:
		r.ConnLimit = int32(f.int())
	case 10:
		r.Verifier = f.str()
	case 11:
		r.ValidUntil = f.int()
	case 12:
		var m Membership
		err := fields(f.b, func(f field) error {
			switch f.num {
			case 1:
				m.Role = ID(f.v)
			case 2:
				m.Grantor = ID(f.v)
			case 3:
				m.Admin = f.bool()
			}
			return nil
		})
		r.MemberOf = append(r.MemberOf, m)
		return err
	case 13:
		r.Settings = append(r.Settings, f.str())
	}
	return nil
}
