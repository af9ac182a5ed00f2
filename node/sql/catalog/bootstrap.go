package catalog

import (
	"context"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
)

// DefaultDatabase, DefaultUser and PublicSchema are what a new cluster has.
const (
	DefaultDatabase = "postgres"
	DefaultUser     = "postgres"
	PublicSchema    = "public"
)

// EnsureBootstrap makes what a new cluster has: role postgres, databases postgres,
// template1 and template0, each with schema public. It does nothing in a cluster that has
// them. Every node may call it when it starts.
func EnsureBootstrap(ctx context.Context, db DB) error {
	return db.Run(ctx, "catalog bootstrap", func(ctx context.Context, t Txn) error {
		r, err := t.Get(ctx, bootstrapKey, true)
		if err != nil {
			return err
		}
		if r.Exists {
			if len(r.Value) == 0 || r.Value[0] != formatVersion {
				return fmt.Errorf("catalog: the cluster's catalog has format % x, this node knows %d: upgrade the node", r.Value, formatVersion)
			}
			return nil
		}
		// What the founding left for role postgres.
		password, err := t.Get(ctx, keys.SuperuserVerifier(), true)
		if err != nil {
			return err
		}
		if password.Exists {
			if err := t.Delete(ctx, keys.SuperuserVerifier(), condition(password)); err != nil {
				return err
			}
		}
		now := db.Now()
		for _, d := range bootstrapDescriptors(string(password.Value)) {
			h := d.Head()
			h.Version, h.State, h.ModTime = 1, DescPublic, now
			if err := t.Put(ctx, descriptorKey(h.ID), Encode(d), blind); err != nil {
				return err
			}
			e := Entry{Kind: d.Kind(), ID: h.ID}
			if err := t.Put(ctx, nameOf(d).key(), e.encode(), blind); err != nil {
				return err
			}
		}
		if err := PutComment(ctx, t, Comment{ClassOID: ClassOIDSchema, Object: uint32(PublicSchemaID), Text: "standard public schema"}); err != nil {
			return err
		}
		for id, text := range map[ID]string{
			PostgresDatabaseID: "default administrative connection database",
			TemplateDatabaseID: "default template for new databases",
			Template0ID:        "unmodifiable empty database",
		} {
			if err := PutComment(ctx, t, Comment{ClassOID: ClassOIDDatabase, Object: uint32(id), Text: text}); err != nil {
				return err
			}
		}
		return t.Put(ctx, bootstrapKey, []byte{formatVersion}, condition(r))
	})
}

// template1's and template0's schemas; PostgreSQL's own OIDs are per database, Atoll's are not.
const (
	template1PublicID ID = 16001
	template0PublicID ID = 16002
)

// verifier is that of role postgres; empty: no password.
func bootstrapDescriptors(verifier string) []Descriptor {
	db := func(id ID, name string, template, conn bool) Descriptor {
		d := &Database{IsTemplate: template, AllowConn: conn, ConnLimit: -1}
		d.ID, d.Name, d.Owner = id, name, SuperuserID
		if template {
			// PostgreSQL lets PUBLIC connect to template1, and not to make temporary tables.
			d.ACL = []ACLItem{
				{Grantee: 0, Grantor: SuperuserID, Privs: PrivConnect},
				{Grantee: SuperuserID, Grantor: SuperuserID, Privs: PrivCreate | PrivTemporary | PrivConnect},
			}
		}
		return d
	}
	role := &Role{Superuser: true, Inherit: true, CreateRole: true, CreateDB: true, Login: true, Replication: true, BypassRLS: true, ConnLimit: -1, Verifier: verifier}
	role.ID, role.Name = SuperuserID, DefaultUser
	out := []Descriptor{
		role,
		db(PostgresDatabaseID, DefaultDatabase, false, true),
		db(TemplateDatabaseID, "template1", true, true),
		db(Template0ID, "template0", true, false),
		NewPublicSchema(PublicSchemaID, PostgresDatabaseID),
		NewPublicSchema(template1PublicID, TemplateDatabaseID),
		NewPublicSchema(template0PublicID, Template0ID),
	}
	return append(out, predefinedRoles()...)
}

// NewPublicSchema returns the schema public of a database, with PostgreSQL 15's privileges:
// everybody may use it, only the database's owner may create in it.
func NewPublicSchema(id, database ID) *Schema {
	const owner = DatabaseOwnerRole
	s := &Schema{}
	s.ID, s.Name, s.Database, s.Owner = id, PublicSchema, database, owner
	s.ACL = []ACLItem{
		{Grantee: owner, Grantor: owner, Privs: PrivUsage | PrivCreate},
		{Grantee: 0, Grantor: owner, Privs: PrivUsage},
	}
	return s
}

// DatabaseOwnerRole is pg_database_owner, of which each database's owner is a member in it.
const DatabaseOwnerRole ID = 6171

// predefinedRoles are PostgreSQL's, with their fixed OIDs.
func predefinedRoles() []Descriptor {
	var out []Descriptor
	for _, r := range []struct {
		id   ID
		name string
	}{
		{DatabaseOwnerRole, "pg_database_owner"}, {6181, "pg_read_all_data"}, {6182, "pg_write_all_data"},
		{3373, "pg_monitor"}, {3374, "pg_read_all_settings"}, {3375, "pg_read_all_stats"},
		{3377, "pg_stat_scan_tables"}, {4569, "pg_read_server_files"}, {4570, "pg_write_server_files"},
		{4571, "pg_execute_server_program"}, {4200, "pg_signal_backend"}, {4544, "pg_checkpoint"},
	} {
		d := &Role{Inherit: true, ConnLimit: -1}
		d.ID, d.Name = r.id, r.name
		if r.name == "pg_monitor" {
			continue // below, with its memberships
		}
		out = append(out, d)
	}
	mon := &Role{Inherit: true, ConnLimit: -1, MemberOf: nil}
	mon.ID, mon.Name = 3373, "pg_monitor"
	for _, id := range []ID{3374, 3375, 3377} {
		mon.MemberOf = append(mon.MemberOf, Membership{Role: id, Grantor: SuperuserID})
	}
	return append(out, mon)
}
