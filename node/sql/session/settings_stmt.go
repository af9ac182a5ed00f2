package session

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/client"
	"github.com/atolldb/atoll/node/sql/parser"
	"github.com/atolldb/atoll/node/sql/parser/ast"
	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// constText returns a constant's text, as SET takes it.
func constText(n *ast.Node) string {
	switch {
	case n == nil:
		return ""
	case n.GetAConst() != nil:
		c := n.GetAConst()
		switch {
		case c.GetSval() != nil:
			return c.GetSval().GetSval()
		case c.GetIval() != nil:
			return strconv.Itoa(int(c.GetIval().GetIval()))
		case c.GetFval() != nil:
			return c.GetFval().GetFval()
		case c.GetBoolval() != nil:
			if c.GetBoolval().GetBoolval() {
				return "on"
			}
			return "off"
		}
		if c.GetIsnull() {
			return ""
		}
		return "0" // an integer constant of value zero has no field set
	case n.GetTypeCast() != nil:
		return constText(n.GetTypeCast().Arg)
	case n.GetString_() != nil:
		return n.GetString_().GetSval()
	case n.GetInteger() != nil:
		return strconv.Itoa(int(n.GetInteger().GetIval()))
	case n.GetFloat() != nil:
		return n.GetFloat().GetFval()
	case n.GetBoolean() != nil:
		return strconv.FormatBool(n.GetBoolean().GetBoolval())
	}
	return ""
}

// variableSet runs SET, RESET and SET TRANSACTION.
func (s *Session) variableSet(ctx context.Context, whole *parser.Statement, st *ast.VariableSetStmt) (string, error) {
	switch st.Kind {
	case ast.VariableSetKind_VAR_SET_MULTI:
		return "SET", s.setMulti(ctx, whole, st)
	case ast.VariableSetKind_VAR_RESET_ALL:
		for name := range s.vars.values {
			s.assign(name, nil, false)
		}
		s.applySettings()
		return "RESET", nil
	case ast.VariableSetKind_VAR_RESET:
		if isIdentity(st.Name) {
			return "RESET", s.setRole(ctx, st.Name, "none", false)
		}
		if _, err := normalize(st.Name, s.defaultOf(st.Name)); err != nil {
			return "", err
		}
		s.assign(strings.ToLower(st.Name), nil, false)
		s.applySettings()
		return "RESET", nil
	case ast.VariableSetKind_VAR_SET_DEFAULT:
		if isIdentity(st.Name) {
			return "SET", s.setRole(ctx, st.Name, "none", st.IsLocal)
		}
		s.assign(strings.ToLower(st.Name), nil, st.IsLocal)
		s.applySettings()
		return "SET", nil
	}
	if isIdentity(st.Name) && len(st.Args) == 1 {
		return "SET", s.setRole(ctx, st.Name, constText(st.Args[0]), st.IsLocal)
	}
	parts := make([]string, len(st.Args))
	for i, a := range st.Args {
		parts[i] = constText(a)
	}
	name, value := strings.ToLower(st.Name), strings.Join(parts, ", ")
	if name == "search_path" {
		for i := range parts {
			parts[i] = quoteName(parts[i])
		}
		value = strings.Join(parts, ", ")
	}
	if name == "timezone" && len(st.Args) == 1 && st.Args[0].GetTypeCast() != nil {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "SET TIME ZONE INTERVAL is not supported").WithHint("Name the zone, or give hours as a number.")
	}
	return "SET", s.set(name, value, st.IsLocal)
}

// isIdentity reports whether a parameter decides whose privileges count.
func isIdentity(name string) bool {
	return strings.EqualFold(name, "role") || strings.EqualFold(name, "session_authorization")
}

// setRole runs SET ROLE and SET SESSION AUTHORIZATION; none goes back to the session's user.
// The value lives in the settings, so that ROLLBACK and SET LOCAL undo it as any other.
func (s *Session) setRole(ctx context.Context, name, role string, local bool) error {
	if strings.EqualFold(name, "session_authorization") && !strings.EqualFold(role, "none") && !strings.EqualFold(role, "default") && role != s.sessionUser {
		return pgerror.New(pgerrcode.FeatureNotSupported, "SET SESSION AUTHORIZATION is not supported").WithHint("Use SET ROLE.")
	}
	if strings.EqualFold(role, "none") || strings.EqualFold(role, "default") || strings.EqualFold(name, "session_authorization") {
		s.assign("role", nil, local)
		s.applySettings()
		return nil
	}
	view := s.catalogView()
	target, err := view.ResolveRole(ctx, role)
	if err != nil {
		return err
	}
	login, err := view.ResolveRole(ctx, s.sessionUser)
	if err != nil {
		return err
	}
	if target == nil || login == nil {
		return pgerror.New(pgerrcode.UndefinedObject, "role %q does not exist", role)
	}
	if !login.Superuser && target.ID != login.ID {
		member, err := view.MemberOf(ctx, login.ID)
		if err != nil {
			return err
		}
		if !member[target.ID] {
			return pgerror.New(pgerrcode.InsufficientPrivilege, "permission denied to set role %q", role)
		}
	}
	s.assign("role", &role, local)
	s.applySettings()
	return nil
}

// quoteName quotes what would not be read back as it is.
func quoteName(n string) string {
	for _, c := range n {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return `"` + strings.ReplaceAll(n, `"`, `""`) + `"`
		}
	}
	return n
}

func (s *Session) setMulti(ctx context.Context, whole *parser.Statement, st *ast.VariableSetStmt) error {
	switch st.Name {
	case "TRANSACTION":
		if s.tx == nil || s.tx.implicit {
			s.warn(pgerrcode.NoActiveSQLTransaction, "SET TRANSACTION can only be used in transaction blocks")
			return nil
		}
		if err := s.setModes(st.Args, false); err != nil {
			return err
		}
		return s.blockAsOf(ctx, whole)
	case "SESSION CHARACTERISTICS":
		for _, o := range st.Args {
			d := o.GetDefElem()
			if d == nil {
				continue
			}
			if err := s.set("default_"+d.Defname, constText(d.Arg), false); err != nil {
				return err
			}
		}
		return nil
	case "TRANSACTION SNAPSHOT":
		return pgerror.New(pgerrcode.FeatureNotSupported, "SET TRANSACTION SNAPSHOT is not supported")
	}
	return pgerror.New(pgerrcode.FeatureNotSupported, "SET %s is not supported", st.Name)
}

// set gives a parameter a value.
func (s *Session) set(name, value string, local bool) error {
	if isIdentity(name) {
		return s.setRole(s.ctx, name, value, local)
	}
	v, err := normalize(name, value)
	if err != nil {
		return err
	}
	switch name {
	case "transaction_isolation", "transaction_read_only":
		if s.tx == nil {
			return nil // lasts until the end of this statement
		}
		if name == "transaction_read_only" {
			return s.setReadOnly(v == "on")
		}
		return s.setIsolation(v, false)
	}
	if local && (s.tx == nil || s.tx.implicit) {
		s.warn(pgerrcode.NoActiveSQLTransaction, "SET LOCAL can only be used in transaction blocks")
		return nil
	}
	s.assign(strings.ToLower(name), &v, local)
	s.applySettings()
	return nil
}

// assign stores a value (nil: back to the default) and remembers what SET LOCAL hides.
func (s *Session) assign(name string, v *string, local bool) {
	if s.tx != nil {
		if local {
			if _, hidden := s.tx.local[name]; !hidden {
				if s.tx.local == nil {
					s.tx.local = map[string]*string{}
				}
				var old *string
				if cur, ok := s.vars.values[name]; ok {
					old = &cur
				}
				s.tx.local[name] = old
			}
		} else {
			delete(s.tx.local, name)
		}
	}
	if v == nil {
		delete(s.vars.values, name)
	} else {
		s.vars.values[name] = *v
	}
}

func (s *Session) defaultOf(name string) string {
	key := strings.ToLower(name)
	if v, ok := s.vars.defaults[key]; ok {
		return v
	}
	if d, ok := settingIndex[key]; ok {
		return d.def
	}
	return ""
}

// applySettings makes changed parameters take effect, and reports those that clients watch.
func (s *Session) applySettings() {
	env := *s.env
	env.Location, _ = zone(s.vars.raw("TimeZone"))
	env.ExtraFloatDigits = s.vars.integer("extra_float_digits")
	env.ByteaEscape = s.vars.raw("bytea_output") == "escape"
	env.Names = outputNames{s}
	env.IntervalISO = s.vars.raw("IntervalStyle") == "iso_8601"
	s.env = &env // values on their way keep the one they started with
	s.user = s.sessionUser
	if role := s.vars.raw("role"); role != "none" {
		s.user = role
	}
	s.path = s.vars.searchPath(s.user)
	for i := range settingTable {
		d := &settingTable[i]
		if !d.report {
			continue
		}
		v, _ := s.vars.get(d.name)
		if old, sent := s.reported[d.name]; !sent || old != v {
			s.reported[d.name] = v
			s.notify.ParameterStatus(d.name, v)
		}
	}
}

// showColumns describes SHOW's result.
func showColumns(name string) []client.Column {
	text := func(n string) client.Column {
		return client.Column{Name: n, Type: types.OIDText, TypeLen: -1, TypeMod: -1}
	}
	if strings.EqualFold(name, "all") {
		return []client.Column{text("name"), text("setting"), text("description")}
	}
	if d, ok := settingIndex[strings.ToLower(name)]; ok {
		name = d.name
	}
	return []client.Column{text(name)}
}

// show runs SHOW.
func (s *Session) show(_ context.Context, st *ast.VariableShowStmt, out client.RowWriter) (string, error) {
	if strings.EqualFold(st.Name, "all") {
		for _, r := range s.vars.all() {
			if err := out.WriteRow([]types.Datum{types.NewString(r.Name), types.NewString(r.Value), types.NewString(r.Description)}); err != nil {
				return "", err
			}
		}
		return "SHOW", nil
	}
	v, ok := s.showValue(st.Name)
	if !ok {
		return "", unknownSetting(st.Name)
	}
	return "SHOW", out.WriteRow([]types.Datum{types.NewString(v)})
}

// showValue returns a parameter, those of the open block included.
func (s *Session) showValue(name string) (string, bool) {
	switch strings.ToLower(name) {
	case "transaction_isolation":
		if s.tx != nil {
			return isolationName(s.tx.isolation), true
		}
		v, _ := s.vars.get("default_transaction_isolation")
		return v, true
	case "transaction_read_only":
		if s.tx != nil && s.tx.readOnly {
			return "on", true
		}
		return "off", true
	case "session_authorization":
		return s.sessionUser, true
	}
	return s.vars.get(name)
}

// discard runs DISCARD.
func (s *Session) discard(st *ast.DiscardStmt) (string, error) {
	switch st.Target {
	case ast.DiscardMode_DISCARD_ALL:
		if s.tx != nil && !s.tx.implicit {
			return "", pgerror.New(pgerrcode.ActiveSQLTransaction, "DISCARD ALL cannot run inside a transaction block")
		}
		s.named = map[string]*namedStatement{}
		s.closeCursors()
		s.vars.values = map[string]string{}
		s.applySettings()
		return "DISCARD ALL", nil
	case ast.DiscardMode_DISCARD_PLANS:
		return "DISCARD PLANS", nil
	case ast.DiscardMode_DISCARD_SEQUENCES:
		return "DISCARD SEQUENCES", nil
	}
	return "DISCARD TEMP", nil
}
