package catalog

import (
	"context"
	"strings"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/jackc/pgerrcode"
)

// privilegeLetters are aclitem's letters, by bit.
const privilegeLetters = "arwdDxtXUCTc"

var privilegeNames = []string{"INSERT", "SELECT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "EXECUTE", "USAGE", "CREATE", "TEMPORARY", "CONNECT"}

// ParsePrivilege returns the privilege of that name (any case), or 0.
func ParsePrivilege(name string) Privilege {
	name = strings.ToUpper(name)
	if name == "TEMP" {
		name = "TEMPORARY"
	}
	for i, n := range privilegeNames {
		if n == name {
			return 1 << i
		}
	}
	return 0
}

// Names lists the set's privileges in PostgreSQL's order.
func (p Privilege) Names() []string {
	var out []string
	for i, n := range privilegeNames {
		if p&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// AllPrivileges returns what ALL means for a kind of object.
func AllPrivileges(k Kind) Privilege {
	switch k {
	case KindDatabase:
		return PrivCreate | PrivTemporary | PrivConnect
	case KindSchema:
		return PrivUsage | PrivCreate
	case KindSequence:
		return PrivUsage | PrivSelect | PrivUpdate
	case KindTable, KindView:
		return PrivInsert | PrivSelect | PrivUpdate | PrivDelete | PrivTruncate | PrivReferences | PrivTrigger
	}
	return 0
}

// PublicDefaults returns what PUBLIC may do with an object without an ACL.
func PublicDefaults(k Kind) Privilege {
	if k == KindDatabase {
		return PrivTemporary | PrivConnect
	}
	return 0
}

// EffectiveACL returns an object's ACL, with the defaults where none is stored.
func EffectiveACL(d Descriptor) []ACLItem {
	h := d.Head()
	if len(h.ACL) > 0 {
		return h.ACL
	}
	out := []ACLItem{{Grantee: h.Owner, Grantor: h.Owner, Privs: AllPrivileges(d.Kind())}}
	if p := PublicDefaults(d.Kind()); p != 0 {
		out = append([]ACLItem{{Grantor: h.Owner, Privs: p}}, out...)
	}
	return out
}

// FormatACLItem prints an aclitem: grantee=letters/grantor, with role names from name.
func FormatACLItem(a ACLItem, name func(ID) string) string {
	var b strings.Builder
	if a.Grantee != 0 {
		b.WriteString(quoteACLName(name(a.Grantee)))
	}
	b.WriteByte('=')
	for i := range len(privilegeLetters) {
		if a.Privs&(1<<i) != 0 {
			b.WriteByte(privilegeLetters[i])
			if a.Options&(1<<i) != 0 {
				b.WriteByte('*')
			}
		}
	}
	b.WriteByte('/')
	b.WriteString(quoteACLName(name(a.Grantor)))
	return b.String()
}

func quoteACLName(n string) string {
	for i := 0; i < len(n); i++ {
		c := n[i]
		if !(c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80) {
			return `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
		}
	}
	return n
}

// MemberOf returns the role and all roles whose rights it has.
func (c *Collection) MemberOf(ctx context.Context, role ID) (map[ID]bool, error) {
	seen := map[ID]bool{}
	todo := []ID{role}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[id] {
			continue
		}
		seen[id] = true
		r, err := c.Role(ctx, id)
		if err != nil {
			return nil, err
		}
		if r == nil || !r.Inherit && id != role {
			continue
		}
		for _, m := range r.MemberOf {
			todo = append(todo, m.Role)
		}
	}
	return seen, nil
}

// rolesFor returns MemberOf, with pg_database_owner if the role owns d's database.
func (c *Collection) rolesFor(ctx context.Context, role ID, d Descriptor) (map[ID]bool, error) {
	in, err := c.MemberOf(ctx, role)
	if err != nil {
		return nil, err
	}
	if id := d.Head().Database; id != 0 {
		db, err := c.Database(ctx, id)
		if err != nil {
			return nil, err
		}
		if db != nil && in[db.Owner] {
			in[DatabaseOwnerRole] = true
		}
	}
	return in, nil
}

// HasPrivilege reports whether a role has all (or, with any, at least one) of the
// privileges on an object. Owners and superusers have all of them.
func (c *Collection) HasPrivilege(ctx context.Context, role ID, d Descriptor, want Privilege, anyOf bool) (bool, error) {
	if role == SuperuserID || role == d.Head().Owner {
		return true, nil
	}
	r, err := c.Role(ctx, role)
	if err != nil || r == nil {
		return false, err
	}
	if r.Superuser {
		return true, nil
	}
	in, err := c.rolesFor(ctx, role, d)
	if err != nil {
		return false, err
	}
	if in[d.Head().Owner] {
		return true, nil
	}
	var have Privilege
	for _, a := range EffectiveACL(d) {
		if a.Grantee == 0 || in[a.Grantee] {
			have |= a.Privs
		}
	}
	if in[6181] { // pg_read_all_data
		have |= readAll(d.Kind())
	}
	if in[6182] && d.Kind() == KindTable { // pg_write_all_data
		have |= PrivInsert | PrivUpdate | PrivDelete
	}
	if anyOf {
		return have&want != 0, nil
	}
	return have&want == want, nil
}

func readAll(k Kind) Privilege {
	if k == KindSchema {
		return PrivUsage
	}
	return PrivSelect
}

// CheckPrivilege fails with 42501 if the role lacks a privilege.
func (c *Collection) CheckPrivilege(ctx context.Context, role ID, d Descriptor, want Privilege) error {
	ok, err := c.HasPrivilege(ctx, role, d, want, false)
	if err != nil || ok {
		return err
	}
	return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied for %s %s", kindWord(d.Kind()), d.Head().Name)
}

// CheckOwner fails with 42501 unless the role owns the object, is a member of its owner, or
// a superuser.
func (c *Collection) CheckOwner(ctx context.Context, role ID, d Descriptor) error {
	if role == SuperuserID || role == d.Head().Owner {
		return nil
	}
	r, err := c.Role(ctx, role)
	if err != nil {
		return err
	}
	if r != nil && r.Superuser {
		return nil
	}
	in, err := c.rolesFor(ctx, role, d)
	if err != nil || in[d.Head().Owner] {
		return err
	}
	return pgerror.New(pgerrcode.InsufficientPrivilege, "must be owner of %s %s", kindWord(d.Kind()), d.Head().Name)
}

func kindWord(k Kind) string {
	switch k {
	case KindDatabase:
		return "database"
	case KindSchema:
		return "schema"
	case KindSequence:
		return "sequence"
	case KindView:
		return "view"
	case KindRole:
		return "role"
	case KindType:
		return "type"
	case KindIndex:
		return "index"
	}
	return "table"
}

// KindWord names a kind as PostgreSQL's messages do.
func KindWord(k Kind) string { return kindWord(k) }
