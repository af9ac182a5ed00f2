package catalog

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"google.golang.org/protobuf/encoding/protowire"
)

// Class separates name spaces: names are unique within class, database and schema.
type Class byte

const (
	ClassDatabase Class = 'd'
	ClassRole     Class = 'u'
	ClassSchema   Class = 'n'
	ClassRelation Class = 'r' // tables, indexes, sequences, views
)

// Name is a fully qualified name.
type Name struct {
	Class    Class
	Database ID // 0 for databases and roles
	Schema   ID // 0 for databases, roles and schemas
	Name     string
}

// Entry is what a name stands for.
type Entry struct {
	Kind  Kind
	ID    ID
	Table ID // the table of an index
}

func (n Name) key() keys.Key {
	k := append(keys.TablePrefix(namespaceTable), byte(n.Class))
	k = binary.BigEndian.AppendUint32(k, uint32(n.Database))
	k = binary.BigEndian.AppendUint32(k, uint32(n.Schema))
	return append(k, n.Name...)
}

func nameSpan(n Name) keys.Span {
	n.Name = ""
	p := n.key()
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

func decodeName(k keys.Key) (Name, error) {
	p := keys.TablePrefix(namespaceTable)
	if len(k) < len(p)+9 {
		return Name{}, fmt.Errorf("catalog: namespace key %s is cut off", k)
	}
	k = k[len(p):]
	return Name{
		Class: Class(k[0]), Database: ID(binary.BigEndian.Uint32(k[1:])),
		Schema: ID(binary.BigEndian.Uint32(k[5:])), Name: string(k[9:]),
	}, nil
}

func (e Entry) encode() []byte {
	enc := encoder{b: []byte{formatVersion}}
	enc.uint(1, uint64(e.Kind))
	enc.uint(2, uint64(e.ID))
	enc.uint(3, uint64(e.Table))
	return enc.b
}

func decodeEntry(b []byte) (e Entry, err error) {
	if b, err = versioned(b, "namespace entry"); err != nil {
		return e, err
	}
	return e, fields(b, func(f field) error {
		switch f.num {
		case 1:
			e.Kind = Kind(f.v)
		case 2:
			e.ID = ID(f.v)
		case 3:
			e.Table = ID(f.v)
		}
		return nil
	})
}

// versioned strips the leading format version.
func versioned(b []byte, what string) ([]byte, error) {
	if len(b) == 0 || b[0] != formatVersion {
		return nil, fmt.Errorf("catalog: %s % x has another format than %d: this node is older than the data, or the data is damaged", what, b, formatVersion)
	}
	return b[1:], nil
}

func descriptorKey(id ID) keys.Key {
	return binary.BigEndian.AppendUint32(keys.TablePrefix(descriptorTable), uint32(id))
}

// Stored is a descriptor as it was read.
type Stored struct {
	Desc Descriptor
	// Since is the commit timestamp of this version; zero for the transaction's own write.
	Since hlc.Timestamp
}

// readDescriptor reads a descriptor through a transaction; Desc is nil if it is not there.
func readDescriptor(ctx context.Context, t Txn, id ID) (Stored, error) {
	r, err := t.Get(ctx, descriptorKey(id), false)
	if err != nil || !r.Exists {
		return Stored{}, err
	}
	d, err := Decode(r.Value)
	if err != nil {
		return Stored{}, fmt.Errorf("catalog: descriptor %d: %w", id, err)
	}
	return Stored{Desc: d, Since: r.Version}, nil
}

// readNames lists the names of one class, database and schema, in order.
func readNames(ctx context.Context, t Txn, n Name) ([]Name, []Entry, error) {
	rows, err := t.Scan(ctx, nameSpan(n), 0)
	if err != nil {
		return nil, nil, err
	}
	ns, es := make([]Name, 0, len(rows)), make([]Entry, 0, len(rows))
	for _, r := range rows {
		name, err := decodeName(r.Key)
		if err != nil {
			return nil, nil, err
		}
		e, err := decodeEntry(r.Value)
		if err != nil {
			return nil, nil, err
		}
		ns, es = append(ns, name), append(es, e)
	}
	return ns, es, nil
}

// nameOf returns the name under which a descriptor is found.
func nameOf(d Descriptor) Name {
	h := d.Head()
	n := Name{Database: h.Database, Schema: h.Schema, Name: h.Name}
	switch d.Kind() {
	case KindDatabase:
		n.Class = ClassDatabase
	case KindRole:
		n.Class = ClassRole
	case KindSchema:
		n.Class = ClassSchema
	default:
		n.Class = ClassRelation
	}
	return n
}

// Statistics is what ANALYZE found out about a table.
type Statistics struct {
	Rows  int64
	Bytes int64
	At    hlc.Timestamp
	// Distinct holds the estimated number of distinct values per column; reserved.
	Distinct map[ColumnID]int64
}

func statisticsKey(id ID) keys.Key {
	return binary.BigEndian.AppendUint32(keys.TablePrefix(statisticsTable), uint32(id))
}

func (s *Statistics) encode() []byte {
	e := encoder{b: []byte{formatVersion}}
	e.int(1, s.Rows)
	e.int(2, s.Bytes)
	e.int(3, s.At.WallNanos)
	for id := ColumnID(1); int(id) <= MaxColumns && len(s.Distinct) > 0; id++ {
		if n, ok := s.Distinct[id]; ok {
			e.msg(4, func(e *encoder) {
				e.uint(1, uint64(id))
				e.int(2, n)
			})
		}
	}
	return e.b
}

func decodeStatistics(b []byte) (*Statistics, error) {
	b, err := versioned(b, "statistics")
	if err != nil {
		return nil, err
	}
	s := &Statistics{}
	return s, fields(b, func(f field) error {
		switch f.num {
		case 1:
			s.Rows = f.int()
		case 2:
			s.Bytes = f.int()
		case 3:
			s.At.WallNanos = f.int()
		case 4:
			var id ColumnID
			var n int64
			err := fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					id = ColumnID(min(f.v, uint64(RowIDColumn)))
				case 2:
					n = f.int()
				}
				return nil
			})
			if s.Distinct == nil {
				s.Distinct = map[ColumnID]int64{}
			}
			s.Distinct[id] = n
			return err
		}
		return nil
	})
}

// Comment addressing: PostgreSQL's classoid of the catalog that the object is in.
const (
	ClassOIDRelation   uint32 = 1259
	ClassOIDDatabase   uint32 = 1262
	ClassOIDSchema     uint32 = 2615
	ClassOIDConstraint uint32 = 2606
	ClassOIDRole       uint32 = 1260
	ClassOIDType       uint32 = 1247
	ClassOIDProc       uint32 = 1255
	ClassOIDAttrdef    uint32 = 2604
)

// Comment is a row of pg_description or pg_shdescription.
type Comment struct {
	ClassOID, Object uint32
	Sub              int32
	Text             string
}

func commentKey(class, object uint32, sub int32) keys.Key {
	k := binary.BigEndian.AppendUint32(keys.TablePrefix(commentTable), class)
	k = binary.BigEndian.AppendUint32(k, object)
	return binary.BigEndian.AppendUint32(k, uint32(sub))
}

func commentSpan(class, object uint32) keys.Span {
	var k keys.Key = binary.BigEndian.AppendUint32(keys.TablePrefix(commentTable), class)
	k = binary.BigEndian.AppendUint32(k, object)
	return keys.Span{Key: k, EndKey: k.PrefixEnd()}
}

func decodeComment(k keys.Key, v []byte) (Comment, error) {
	p := len(keys.TablePrefix(commentTable))
	if len(k) != p+12 || len(v) == 0 || v[0] != formatVersion {
		return Comment{}, fmt.Errorf("catalog: comment %s has an unknown format", k)
	}
	return Comment{
		ClassOID: binary.BigEndian.Uint32(k[p:]), Object: binary.BigEndian.Uint32(k[p+4:]),
		Sub: int32(binary.BigEndian.Uint32(k[p+8:])), Text: string(v[1:]),
	}, nil
}

// change is a row of the change log: what one committed transaction changed.
type change struct{ ids []ID }

func (c change) encode() []byte {
	e := encoder{b: []byte{formatVersion}}
	var in []byte
	for _, id := range c.ids {
		in = protowire.AppendVarint(in, uint64(id))
	}
	e.b = protowire.AppendTag(e.b, 1, protowire.BytesType)
	e.b = protowire.AppendBytes(e.b, in)
	return e.b
}

func decodeChange(b []byte) (c change, err error) {
	if b, err = versioned(b, "schema change"); err != nil {
		return c, err
	}
	return c, fields(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		ids, err := f.uint32s()
		for _, id := range ids {
			c.ids = append(c.ids, ID(id))
		}
		return err
	})
}

var generationKey = append(keys.TablePrefix(changeTable), "generation"...)

func changeKey(generation uint64) keys.Key {
	return binary.BigEndian.AppendUint64(append(keys.TablePrefix(changeTable), 1), generation)
}

func changeSpan(from, to uint64) keys.Span { // [from, to]
	return keys.Span{Key: changeKey(from), EndKey: changeKey(to).Next()}
}
