package catalog

import "slices"

func (h Header) copy() Header {
	h.ACL = slices.Clone(h.ACL)
	if h.Lock != nil {
		l := *h.Lock
		h.Lock = &l
	}
	return h
}

// Copy implements Descriptor.
func (d *Database) Copy() Descriptor {
	c := *d
	c.Header = d.Header.copy()
	c.Settings = slices.Clone(d.Settings)
	return &c
}

// Copy implements Descriptor.
func (d *Schema) Copy() Descriptor { return &Schema{Header: d.Header.copy()} }

// Copy implements Descriptor.
func (d *Sequence) Copy() Descriptor {
	c := *d
	c.Header = d.Header.copy()
	return &c
}

// Copy implements Descriptor.
func (d *View) Copy() Descriptor {
	return &View{Header: d.Header.copy(), Columns: copyColumns(d.Columns), Query: d.Query}
}

// Copy implements Descriptor.
func (d *Role) Copy() Descriptor {
	c := *d
	c.Header = d.Header.copy()
	c.MemberOf = slices.Clone(d.MemberOf)
	c.Settings = slices.Clone(d.Settings)
	return &c
}

// Copy implements Descriptor.
func (t *Table) Copy() Descriptor { return t.Clone() }

// Clone returns a deep copy, to be changed.
func (t *Table) Clone() *Table {
	c := &Table{
		Header: t.Header.copy(), Persistence: t.Persistence,
		Columns: copyColumns(t.Columns), Primary: t.Primary.copy(),
		NextColumn: t.NextColumn, NextStorage: t.NextStorage,
		Options: slices.Clone(t.Options), Garbage: slices.Clone(t.Garbage),
	}
	for i := range t.Indexes {
		c.Indexes = append(c.Indexes, t.Indexes[i].copy())
	}
	for _, con := range t.Constraints {
		con.Columns = slices.Clone(con.Columns)
		con.RefColumns = slices.Clone(con.RefColumns)
		c.Constraints = append(c.Constraints, con)
	}
	return c
}

func copyColumns(in []Column) []Column {
	out := slices.Clone(in)
	for i := range out {
		out[i].ACL = slices.Clone(out[i].ACL)
	}
	return out
}

func (ix Index) copy() Index {
	ix.Columns = slices.Clone(ix.Columns)
	ix.Suffix = slices.Clone(ix.Suffix)
	ix.Stored = slices.Clone(ix.Stored)
	ix.Options = slices.Clone(ix.Options)
	return ix
}
