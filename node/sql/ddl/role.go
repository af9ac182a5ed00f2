package ddl

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/atolldb/atoll/node/sql/catalog"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
	"github.com/jackc/pgerrcode"
	"golang.org/x/text/secure/precis"
)

// role resolves a RoleSpec.
func (x *Executor) role(ctx context.Context, s *ast.RoleSpec) (*catalog.Role, error) {
	switch s.Roletype {
	case ast.RoleSpecType_ROLESPEC_CURRENT_ROLE, ast.RoleSpecType_ROLESPEC_CURRENT_USER, ast.RoleSpecType_ROLESPEC_SESSION_USER:
		return x.Session.User(), nil
	case ast.RoleSpecType_ROLESPEC_PUBLIC:
		return nil, x.at(pgerror.New(pgerrcode.ReservedName, "role name %q is reserved", "public"), s.Location)
	}
	r, err := x.roleByName(ctx, s.Rolename)
	return r, x.at(err, 0)
}

func (x *Executor) roleByName(ctx context.Context, name string) (*catalog.Role, error) {
	r, err := x.Session.Catalog().ResolveRole(ctx, name)
	if err == nil && r == nil {
		err = pgerror.New(pgerrcode.UndefinedObject, "role %q does not exist", name)
	}
	return r, err
}

// mayManageRoles checks the right to change a role (nil: to make one).
func (x *Executor) mayManageRoles(r *catalog.Role) error {
	u := x.Session.User()
	switch {
	case u.Superuser:
		return nil
	case r == nil:
		if !u.CreateRole {
			return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied to create role")
		}
	case r.Superuser:
		return pgerror.New(pgerrcode.InsufficientPrivilege, "must be superuser to alter superuser roles or change superuser attribute")
	case !u.CreateRole:
		return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied")
	}
	return nil
}

func (x *Executor) createRole(ctx context.Context, s *ast.CreateRoleStmt) error {
	if err := x.mayManageRoles(nil); err != nil {
		return err
	}
	name := x.name(s.Role)
	if strings.HasPrefix(name, "pg_") {
		return pgerror.New(pgerrcode.ReservedName, "role name %q is reserved", name).WithDetail("Role names starting with \"pg_\" are reserved.")
	}
	if name == "public" || name == "none" {
		return pgerror.New(pgerrcode.ReservedName, "role name %q is reserved", name)
	}
	r := &catalog.Role{Inherit: true, ConnLimit: -1, Login: s.StmtType == ast.RoleStmtType_ROLESTMT_USER}
	var members, admins []*ast.Node
	for _, o := range s.Options {
		d := o.GetDefElem()
		switch d.Defname {
		case "addroleto":
			for _, g := range d.Arg.GetList().GetItems() {
				p, err := x.role(ctx, g.GetRoleSpec())
				if err != nil {
					return err
				}
				r.MemberOf = append(r.MemberOf, catalog.Membership{Role: p.ID, Grantor: x.Session.User().ID})
			}
		case "rolemembers":
			members = d.Arg.GetList().GetItems()
		case "adminmembers":
			admins = d.Arg.GetList().GetItems()
		case "sysid":
		default:
			if err := x.roleOption(name, r, d); err != nil {
				return err
			}
		}
	}
	if r.Superuser && !x.Session.User().Superuser {
		return pgerror.New(pgerrcode.InsufficientPrivilege, "must be superuser to create superusers")
	}
	id, err := x.Session.Catalog().NewIDs(ctx, 1)
	if err != nil {
		return err
	}
	r.ID, r.Name = id, name
	ok, err := x.Session.Catalog().Create(ctx, r)
	if err != nil {
		return err
	}
	if !ok {
		return duplicate(pgerrcode.DuplicateObject, "role", name)
	}
	for i, list := range [][]*ast.Node{members, admins} {
		for _, m := range list {
			p, err := x.role(ctx, m.GetRoleSpec())
			if err != nil {
				return err
			}
			if err := x.addMember(ctx, p, r, i == 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *Executor) roleOption(name string, r *catalog.Role, d *ast.DefElem) error {
	flags := map[string]*bool{"superuser": &r.Superuser, "inherit": &r.Inherit, "createrole": &r.CreateRole, "createdb": &r.CreateDB,
		"canlogin": &r.Login, "isreplication": &r.Replication, "bypassrls": &r.BypassRLS}
	if f := flags[d.Defname]; f != nil {
		*f = boolArg(d, true)
		return nil
	}
	switch d.Defname {
	case "password":
		if d.Arg == nil {
			r.Verifier = ""
			return nil
		}
		return x.setPassword(name, r, defText(d))
	case "connectionlimit":
		n, err := strconv.ParseInt(defText(d), 10, 32)
		if err != nil || n < -1 {
			return pgerror.New(pgerrcode.InvalidParameterValue, "invalid connection limit: %s", defText(d))
		}
		r.ConnLimit = int32(n)
	case "validUntil":
		v, err := types.ParseText(types.OIDTimestampTZ, -1, defText(d), nil)
		if err != nil {
			return err
		}
		r.ValidUntil = v.Int()
		if r.ValidUntil == 1<<63-1 {
			r.ValidUntil = 0 // infinity
		}
	default:
		return pgerror.New(pgerrcode.SyntaxError, "option %q not recognized", d.Defname)
	}
	return nil
}

// maxPassword bounds what is hashed.
const maxPassword = 1024

func (x *Executor) setPassword(name string, r *catalog.Role, password string) error {
	switch {
	case password == "":
		x.notice(pgerrcode.SuccessfulCompletion, "empty string is not a valid password, clearing password")
		r.Verifier = ""
	case strings.HasPrefix(password, "SCRAM-SHA-256$"):
		if !validVerifier(password) {
			return pgerror.New(pgerrcode.InvalidParameterValue, "password of role %q looks like a SCRAM-SHA-256 verifier and is not one", name)
		}
		r.Verifier = password
	case strings.HasPrefix(password, "md5") && len(password) == 35:
		return pgerror.New(pgerrcode.FeatureNotSupported, "MD5 password hashes are not supported").WithHint("Give the password itself, or a SCRAM-SHA-256 verifier.")
	case len(password) > maxPassword:
		return pgerror.New(pgerrcode.InvalidParameterValue, "password of %d bytes is too long; %d are allowed", len(password), maxPassword)
	default:
		v, err := ScramVerifier(password)
		if err != nil {
			return err
		}
		r.Verifier = v
	}
	return nil
}

const scramIterations = 4096 // PostgreSQL's default

// ScramVerifier returns a password's SCRAM-SHA-256 verifier with a random salt, in the form
// that PostgreSQL stores: SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey (RFC 5803).
func ScramVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	return scramVerifier(password, salt, scramIterations)
}

func scramVerifier(password string, salt []byte, iterations int) (string, error) {
	// SASLprep where it applies; PostgreSQL takes the bytes as they are where it does not.
	if p, err := precis.OpaqueString.String(password); err == nil {
		password = p
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

func validVerifier(v string) bool {
	rest, ok := strings.CutPrefix(v, "SCRAM-SHA-256$")
	head, tail, ok2 := strings.Cut(rest, "$")
	iter, salt, ok3 := strings.Cut(head, ":")
	stored, server, ok4 := strings.Cut(tail, ":")
	if !ok || !ok2 || !ok3 || !ok4 {
		return false
	}
	if n, err := strconv.Atoi(iter); err != nil || n < 1 {
		return false
	}
	for i, s := range []string{salt, stored, server} {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil || i > 0 && len(b) != sha256.Size {
			return false
		}
	}
	return true
}

func (x *Executor) changeRole(ctx context.Context, id catalog.ID, f func(*catalog.Role) error) error {
	m, err := x.Session.Catalog().Mutable(ctx, id)
	if err != nil {
		return err
	}
	r, ok := m.(*catalog.Role)
	if !ok {
		return &catalog.RestartError{Reason: "a role was dropped"}
	}
	if err := f(r); err != nil {
		return err
	}
	return x.Session.Catalog().Write(ctx, r)
}

func (x *Executor) alterRole(ctx context.Context, s *ast.AlterRoleStmt) error {
	r, err := x.role(ctx, s.Role)
	if err != nil {
		return err
	}
	// Everybody may change his own password.
	own := r.ID == x.Session.User().ID && len(s.Options) == 1 && s.Options[0].GetDefElem().Defname == "password"
	if !own {
		if err := x.mayManageRoles(r); err != nil {
			return err
		}
	}
	for _, o := range s.Options {
		d := o.GetDefElem()
		if d.Defname != "rolemembers" { // ALTER GROUP
			continue
		}
		for _, m := range d.Arg.GetList().GetItems() {
			p, err := x.role(ctx, m.GetRoleSpec())
			if err != nil {
				return err
			}
			if s.Action > 0 {
				err = x.addMember(ctx, p, r, false)
			} else {
				err = x.removeMember(ctx, p, r, false)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return x.changeRole(ctx, r.ID, func(m *catalog.Role) error {
		for _, o := range s.Options {
			if err := x.roleOption(m.Name, m, o.GetDefElem()); err != nil {
				return err
			}
		}
		if m.Superuser && !x.Session.User().Superuser {
			return pgerror.New(pgerrcode.InsufficientPrivilege, "must be superuser to alter superuser roles or change superuser attribute")
		}
		return nil
	})
}

func (x *Executor) alterRoleSet(ctx context.Context, s *ast.AlterRoleSetStmt) error {
	if s.Role == nil || s.Database != "" {
		return pgerror.New(pgerrcode.FeatureNotSupported, "ALTER ROLE ALL SET and ALTER ROLE ... IN DATABASE are not supported yet")
	}
	r, err := x.role(ctx, s.Role)
	if err != nil {
		return err
	}
	if r.ID != x.Session.User().ID {
		if err := x.mayManageRoles(r); err != nil {
			return err
		}
	}
	return x.changeRole(ctx, r.ID, func(m *catalog.Role) (err error) {
		m.Settings, err = changeSettings(m.Settings, s.Setstmt)
		return err
	})
}

func (x *Executor) dropRole(ctx context.Context, s *ast.DropRoleStmt) error {
	cat := x.Session.Catalog()
	for _, n := range s.Roles {
		spec := n.GetRoleSpec()
		if spec.Roletype == ast.RoleSpecType_ROLESPEC_CSTRING {
			r, err := cat.ResolveRole(ctx, spec.Rolename)
			if err != nil {
				return err
			}
			if r == nil && s.MissingOk {
				x.notice(pgerrcode.UndefinedObject, "role %q does not exist, skipping", spec.Rolename)
				continue
			}
		}
		r, err := x.role(ctx, spec)
		if err != nil {
			return err
		}
		switch {
		case r.ID == x.Session.User().ID:
			return pgerror.New(pgerrcode.ObjectInUse, "current user cannot be dropped")
		case r.ID < catalog.FirstUserID:
			return pgerror.New(pgerrcode.DependentObjectsStillExist, "cannot drop role %s because it is required by the database system", r.Name)
		}
		if err := x.mayManageRoles(r); err != nil {
			return err
		}
		if err := x.roleUnused(ctx, r); err != nil {
			return err
		}
		if err := x.dropDescriptor(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// roleUnused refuses to drop a role that owns something or has privileges, and takes it out
// of its groups' members.
func (x *Executor) roleUnused(ctx context.Context, r *catalog.Role) error {
	all, err := x.Session.Catalog().All(ctx)
	if err != nil {
		return err
	}
	var uses []string
	for _, d := range all {
		h := d.Head()
		if h.Owner == r.ID {
			uses = append(uses, fmt.Sprintf("owner of %s %s", catalog.KindWord(d.Kind()), h.Name))
		}
		if slices.ContainsFunc(h.ACL, func(a catalog.ACLItem) bool { return a.Grantee == r.ID }) && h.Owner != r.ID {
			uses = append(uses, fmt.Sprintf("privileges for %s %s", catalog.KindWord(d.Kind()), h.Name))
		}
	}
	if len(uses) > 0 {
		slices.Sort(uses)
		return pgerror.New(pgerrcode.DependentObjectsStillExist, "role %q cannot be dropped because some objects depend on it", r.Name).
			WithDetail("%s", strings.Join(uses, "\n"))
	}
	for _, d := range all {
		m, ok := d.(*catalog.Role)
		if ok && slices.ContainsFunc(m.MemberOf, func(p catalog.Membership) bool { return p.Role == r.ID }) {
			if err := x.removeMember(ctx, m, r, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *Executor) addMember(ctx context.Context, member, group *catalog.Role, admin bool) error {
	in, err := x.Session.Catalog().MemberOf(ctx, group.ID)
	if err != nil {
		return err
	}
	if in[member.ID] {
		return pgerror.New(pgerrcode.InvalidGrantOperation, "role %q is a member of role %q", group.Name, member.Name)
	}
	return x.changeRole(ctx, member.ID, func(m *catalog.Role) error {
		for i := range m.MemberOf {
			if p := &m.MemberOf[i]; p.Role == group.ID {
				if p.Admin || !admin {
					x.notice(pgerrcode.SuccessfulCompletion, "role %q is already a member of role %q", m.Name, group.Name)
				}
				p.Admin = p.Admin || admin
				return nil
			}
		}
		m.MemberOf = append(m.MemberOf, catalog.Membership{Role: group.ID, Grantor: x.Session.User().ID, Admin: admin})
		return nil
	})
}

func (x *Executor) removeMember(ctx context.Context, member, group *catalog.Role, adminOnly bool) error {
	return x.changeRole(ctx, member.ID, func(m *catalog.Role) error {
		for i := range m.MemberOf {
			if m.MemberOf[i].Role != group.ID {
				continue
			}
			if adminOnly {
				m.MemberOf[i].Admin = false
			} else {
				m.MemberOf = slices.Delete(m.MemberOf, i, i+1)
			}
			return nil
		}
		x.Session.Notice("WARNING", pgerrcode.Warning, fmt.Sprintf("role %q is not a member of role %q", m.Name, group.Name))
		return nil
	})
}

func (x *Executor) grantRole(ctx context.Context, s *ast.GrantRoleStmt) error {
	admin := false
	for _, o := range s.Opt {
		d := o.GetDefElem()
		if d.Defname != "admin" {
			return pgerror.New(pgerrcode.FeatureNotSupported, "%s option of GRANT is not supported", strings.ToUpper(d.Defname))
		}
		admin = boolArg(d, true) || !s.IsGrant
	}
	for _, g := range s.GrantedRoles {
		name := g.GetAccessPriv().GetPrivName()
		group, err := x.roleByName(ctx, name)
		if err != nil {
			return err
		}
		u := x.Session.User()
		if !u.Superuser {
			may := slices.ContainsFunc(u.MemberOf, func(p catalog.Membership) bool { return p.Role == group.ID && p.Admin })
			if group.Superuser || !may && !u.CreateRole {
				return pgerror.New(pgerrcode.InsufficientPrivilege, "must have admin option on role %q", group.Name)
			}
		}
		for _, n := range s.GranteeRoles {
			member, err := x.role(ctx, n.GetRoleSpec())
			if err != nil {
				return err
			}
			if s.IsGrant {
				err = x.addMember(ctx, member, group, admin)
			} else {
				err = x.removeMember(ctx, member, group, admin)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *Executor) grant(ctx context.Context, s *ast.GrantStmt) error {
	targets, err := x.grantTargets(ctx, s)
	if err != nil {
		return err
	}
	var grantees []catalog.ID
	for _, n := range s.Grantees {
		spec := n.GetRoleSpec()
		if spec.Roletype == ast.RoleSpecType_ROLESPEC_PUBLIC {
			grantees = append(grantees, 0)
			continue
		}
		r, err := x.role(ctx, spec)
		if err != nil {
			return err
		}
		grantees = append(grantees, r.ID)
	}
	for _, d := range targets {
		all := catalog.AllPrivileges(d.Kind())
		privs := all
		if len(s.Privileges) > 0 {
			privs = 0
		}
		for _, n := range s.Privileges {
			p := n.GetAccessPriv()
			if len(p.Cols) > 0 {
				return pgerror.New(pgerrcode.FeatureNotSupported, "column privileges are not supported yet")
			}
			bit := catalog.ParsePrivilege(p.PrivName)
			if bit == 0 {
				return pgerror.New(pgerrcode.SyntaxError, "unrecognized privilege type \"%s\"", p.PrivName)
			}
			if bit&all == 0 {
				return pgerror.New(pgerrcode.InvalidGrantOperation, "invalid privilege type %s for %s", strings.ToUpper(p.PrivName), catalog.KindWord(d.Kind()))
			}
			privs |= bit
		}
		if err := x.Session.Catalog().CheckOwner(ctx, x.Session.User().ID, d); err != nil {
			return err
		}
		m, err := x.Session.Catalog().Mutable(ctx, d.Head().ID)
		if err != nil {
			return err
		}
		if m == nil {
			return &catalog.RestartError{Reason: d.Head().Name + " was dropped"}
		}
		changeACL(m, grantees, privs, s.IsGrant, s.GrantOption)
		if err := x.Session.Catalog().Write(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// changeACL grants or revokes privileges; the owner is the grantor.
func changeACL(d catalog.Descriptor, grantees []catalog.ID, privs catalog.Privilege, grant, option bool) {
	h := d.Head()
	acl := slices.Clone(catalog.EffectiveACL(d))
	for _, g := range grantees {
		i := slices.IndexFunc(acl, func(a catalog.ACLItem) bool { return a.Grantee == g && a.Grantor == h.Owner })
		if i < 0 {
			if !grant {
				continue
			}
			acl = append(acl, catalog.ACLItem{Grantee: g, Grantor: h.Owner})
			i = len(acl) - 1
		}
		a := &acl[i]
		switch {
		case grant:
			a.Privs |= privs
			if option {
				a.Options |= privs
			}
		case option: // REVOKE GRANT OPTION FOR
			a.Options &^= privs
		default:
			a.Privs &^= privs
			a.Options &^= privs
		}
	}
	acl = slices.DeleteFunc(acl, func(a catalog.ACLItem) bool { return a.Privs == 0 })
	if len(acl) == 0 {
		// An empty list means the defaults; the owner's empty entry says "nobody".
		acl = []catalog.ACLItem{{Grantee: h.Owner, Grantor: h.Owner}}
	}
	h.ACL = acl
}

func (x *Executor) grantTargets(ctx context.Context, s *ast.GrantStmt) ([]catalog.Descriptor, error) {
	cat := x.Session.Catalog()
	var out []catalog.Descriptor
	if s.Targtype == ast.GrantTargetType_ACL_TARGET_DEFAULTS {
		return nil, pgerror.New(pgerrcode.FeatureNotSupported, "ALTER DEFAULT PRIVILEGES is not supported yet")
	}
	if s.Targtype == ast.GrantTargetType_ACL_TARGET_ALL_IN_SCHEMA {
		for _, o := range s.Objects {
			sch, err := x.schemaByName(ctx, o.GetString_().GetSval())
			if err != nil {
				return nil, err
			}
			all, err := cat.All(ctx)
			if err != nil {
				return nil, err
			}
			for _, d := range all {
				want := catalog.KindTable
				if s.Objtype == ast.ObjectType_OBJECT_SEQUENCE {
					want = catalog.KindSequence
				}
				if d.Head().Schema == sch.ID && d.Kind() == want {
					out = append(out, d)
				}
			}
		}
		return out, nil
	}
	for _, o := range s.Objects {
		switch s.Objtype {
		case ast.ObjectType_OBJECT_TABLE, ast.ObjectType_OBJECT_SEQUENCE:
			rel, err := x.relationOf(ctx, o.GetRangeVar(), false)
			if err != nil {
				return nil, err
			}
			switch {
			case rel.Index != nil:
				return nil, pgerror.New(pgerrcode.WrongObjectType, "%q is an index", rel.Index.Name)
			case rel.Table != nil && s.Objtype == ast.ObjectType_OBJECT_TABLE:
				out = append(out, rel.Table)
			case rel.Sequence != nil:
				out = append(out, rel.Sequence)
			default:
				return nil, pgerror.New(pgerrcode.WrongObjectType, "%q is not a sequence", o.GetRangeVar().Relname)
			}
		case ast.ObjectType_OBJECT_SCHEMA:
			sch, err := x.schemaByName(ctx, o.GetString_().GetSval())
			if err != nil {
				return nil, err
			}
			out = append(out, sch)
		case ast.ObjectType_OBJECT_DATABASE:
			name := o.GetString_().GetSval()
			db, err := cat.ResolveDatabase(ctx, name)
			if err != nil {
				return nil, err
			}
			if db == nil {
				return nil, pgerror.New(pgerrcode.InvalidCatalogName, "database %q does not exist", name)
			}
			out = append(out, db)
		default:
			return nil, pgerror.New(pgerrcode.FeatureNotSupported, "GRANT on %s is not supported yet", strings.ToLower(objectWord(s.Objtype)))
		}
	}
	return out, nil
}
