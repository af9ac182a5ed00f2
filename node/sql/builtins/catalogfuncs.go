package builtins

import (
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

func withCatalog(f func(ctx *EvalContext, c Catalog, a []types.Datum) (types.Datum, error)) Eval {
	return func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		c, err := ctx.catalog()
		if err != nil {
			return types.Null, err
		}
		return f(ctx, c, a)
	}
}

func oidOf(d types.Datum) types.OID { return types.OID(d.Int()) }

func catalogFuncs(r *registry) {
	for key, reg := range map[string]types.OID{
		"pg_table_is_visible": types.OIDRegClass, "pg_type_is_visible": types.OIDRegType, "pg_function_is_visible": types.OIDRegProc,
		"pg_operator_is_visible": types.OIDRegOperator, "pg_collation_is_visible": types.OIDRegCollation,
		"pg_ts_config_is_visible": types.OIDRegConfig, "pg_ts_dict_is_visible": types.OIDRegDictionary,
	} {
		r.fn(withCatalog(func(_ *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
			visible, exists := c.Visible(reg, oidOf(a[0]))
			if !exists {
				return types.Null, nil
			}
			return types.NewBool(visible), nil
		}), key)
	}
	// Of these there are only the built-in ones, in pg_catalog.
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return types.NewBool(true), nil },
		"pg_opclass_is_visible", "pg_opfamily_is_visible", "pg_conversion_is_visible", "pg_statistics_obj_is_visible",
		"pg_ts_parser_is_visible", "pg_ts_template_is_visible")
	definitionFuncs(r)
	commentFuncs(r)
	privilegeFuncs(r)
	sizeFuncs(r)
	nameFuncs(r)
	procTextFuncs(r)
	r.set(func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
		_, err := emit(a[:1]) // there are no partitions: a table is its own only ancestor
		return err
	}, "pg_partition_ancestors")
	r.set(func(_ *EvalContext, a []types.Datum, emit func([]types.Datum) (bool, error)) error {
		for _, v := range a[0].Array().Values {
			if v.IsNull() {
				continue
			}
			name, value, ok := strings.Cut(v.Str(), "=")
			row := []types.Datum{types.NewString(name), types.NewString(value)}
			if !ok {
				row[1] = types.Null
			}
			if more, err := emit(row); !more || err != nil {
				return err
			}
		}
		return nil
	}, "pg_options_to_table")
}

func definitionFuncs(r *registry) {
	def := func(kind Definition, keys ...string) {
		r.fn(withCatalog(func(_ *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
			column, pretty := 0, false
			for _, d := range a[1:] {
				if d.Kind() == types.KindBool {
					pretty = d.Bool()
				} else {
					column = int(d.Int())
				}
			}
			s, ok, err := c.Definition(kind, oidOf(a[0]), column, pretty)
			if err != nil || !ok {
				return types.Null, err
			}
			return str(s)
		}), keys...)
	}
	def(IndexDef, "pg_get_indexdef", "pg_get_indexdef_ext")
	def(ConstraintDef, "pg_get_constraintdef", "pg_get_constraintdef_ext")
	def(ViewDef, "pg_get_viewdef", "pg_get_viewdef_ext")
	def(TriggerDef, "pg_get_triggerdef", "pg_get_triggerdef_ext")
	def(RuleDef, "pg_get_ruledef", "pg_get_ruledef_ext")
	def(PartKeyDef, "pg_get_partkeydef")
	def(StatisticsDef, "pg_get_statisticsobjdef", "pg_get_statisticsobjdef_columns")
	// Expressions are stored as their text.
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) { return a[0], nil }, "pg_get_expr", "pg_get_expr_ext")
	r.fn(withCatalog(func(ctx *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
		table, err := objectOID(ctx, types.OIDRegClass, a[0])
		if err != nil {
			return types.Null, err
		}
		col, err := c.Column(table, a[1].Str())
		if err != nil {
			return types.Null, err
		}
		s, ok, err := c.Definition(SerialSequence, table, col, false)
		if err != nil || !ok {
			return types.Null, err
		}
		return str(s)
	}), "pg_get_serial_sequence")
}

func commentFuncs(r *registry) {
	comment := func(c Catalog, class, object types.OID, col int) (types.Datum, error) {
		if s, ok := c.Comment(class, object, col); ok {
			return str(s)
		}
		return types.Null, nil
	}
	r.fn(withCatalog(func(ctx *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
		n, err := ctx.names()
		if err != nil {
			return types.Null, err
		}
		class, err := n.ObjectOID(types.OIDRegClass, "pg_catalog."+QuoteIdent(a[1].Str()))
		if err != nil {
			return types.Null, nil //nolint:nilerr // no such catalog: no comment
		}
		return comment(c, class, oidOf(a[0]), 0)
	}), "obj_description(oid,name)", "shobj_description(oid,name)")
	r.fn(withCatalog(func(_ *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
		return comment(c, 0, oidOf(a[0]), 0)
	}), "obj_description(oid)")
	const pgClass = 1259
	r.fn(withCatalog(func(_ *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
		return comment(c, pgClass, oidOf(a[0]), int(a[1].Int()))
	}), "col_description(oid,int4)")
}

// objectOID takes an object by OID, or by name.
func objectOID(ctx *EvalContext, reg types.OID, d types.Datum) (types.OID, error) {
	if d.Kind() == types.KindInt {
		return oidOf(d), nil
	}
	n, err := ctx.names()
	if err != nil {
		return 0, err
	}
	name := d.Str()
	if reg == types.OIDRegRole || reg == types.OIDOID || reg == types.OIDRegNamespace {
		name = QuoteIdent(name) // a name here is not parsed as an identifier
	}
	return n.ObjectOID(reg, name)
}

// roleOID is the role of a privilege function: its first argument if there are three (or
// more, with columns), else the current user.
func roleOID(ctx *EvalContext, d *types.Datum) (types.OID, error) {
	if d != nil {
		if d.Kind() == types.KindString && d.Str() == "public" {
			return 0, nil
		}
		return objectOID(ctx, types.OIDRegRole, *d)
	}
	s, err := ctx.session()
	if err != nil {
		return 0, err
	}
	return objectOID(ctx, types.OIDRegRole, types.NewString(s.Identity().User))
}

func privilegeFuncs(r *registry) {
	check := func(class types.OID, withColumn bool, column int) Eval {
		return withCatalog(func(ctx *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
			n := 2
			if withColumn {
				n = 3
			}
			var role *types.Datum
			if len(a) > n {
				role, a = &a[0], a[1:]
			}
			rid, err := roleOID(ctx, role)
			if err != nil {
				return types.Null, err
			}
			object, err := objectOID(ctx, class, a[0])
			if err != nil {
				return types.Null, err
			}
			col := column
			if withColumn {
				if col = int(a[1].Int()); a[1].Kind() == types.KindString {
					if col, err = c.Column(object, a[1].Str()); err != nil {
						return types.Null, err
					}
				}
			}
			has, exists, err := c.HasPrivilege(rid, class, object, col, a[len(a)-1].Str())
			if err != nil || !exists {
				return types.Null, err
			}
			return types.NewBool(has), nil
		})
	}
	variants := func(prefix string, class types.OID, column int) {
		f := check(class, false, column)
		for _, v := range []string{"_name_name", "_name_id", "_id_name", "_id_id", "_name", "_id"} {
			r.fn(f, prefix+v)
		}
	}
	variants("has_table_privilege", types.OIDRegClass, 0)
	variants("has_sequence_privilege", types.OIDRegClass, 0)
	variants("has_any_column_privilege", types.OIDRegClass, -1)
	variants("has_schema_privilege", types.OIDRegNamespace, 0)
	variants("has_database_privilege", types.OIDOID, 0)
	variants("has_function_privilege", types.OIDRegProcedure, 0)
	variants("has_type_privilege", types.OIDRegType, 0)
	variants("pg_has_role", types.OIDRegRole, 0)
	f := check(types.OIDRegClass, true, 0)
	for _, t := range []string{"name_name", "name_id", "id_name", "id_id", "name", "id"} {
		for _, col := range []string{"name", "attnum"} {
			r.fn(f, "has_column_privilege_"+t+"_"+col)
		}
	}
}

func sizeFuncs(r *registry) {
	size := func(class types.OID, indexes bool, minusTable bool) Eval {
		return withCatalog(func(ctx *EvalContext, c Catalog, a []types.Datum) (types.Datum, error) {
			object, err := objectOID(ctx, class, a[0])
			if err != nil {
				return types.Null, err
			}
			n, exists, err := c.Size(class, object, indexes)
			if err != nil || !exists {
				return types.Null, err
			}
			if minusTable {
				table, _, err := c.Size(class, object, false)
				if err != nil {
					return types.Null, err
				}
				n -= table
			}
			return types.NewInt(n), nil
		})
	}
	r.fn(size(types.OIDRegClass, false, false), "pg_table_size", "pg_relation_size", "pg_relation_size(regclass)")
	r.fn(size(types.OIDRegClass, true, false), "pg_total_relation_size")
	r.fn(size(types.OIDRegClass, true, true), "pg_indexes_size")
	r.fn(size(types.OIDOID, true, false), "pg_database_size_oid", "pg_database_size_name")
}

func nameFuncs(r *registry) {
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		n, err := ctx.names()
		if err != nil {
			return types.Null, err
		}
		if s, ok := n.ObjectName(types.OIDRegRole, oidOf(a[0])); ok {
			return str(unquoteIdent(s))
		}
		return str("unknown (OID=" + strconv.FormatUint(uint64(oidOf(a[0])), 10) + ")")
	}, "pg_get_userbyid")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		if a[0].IsNull() {
			return types.Null, nil
		}
		mod := int32(-1)
		if !a[1].IsNull() {
			mod = int32(a[1].Int())
		}
		oid := oidOf(a[0])
		if _, ok := types.Lookup(oid); !ok && oid != 0 {
			if n := ctx.env().Names; n != nil {
				if s, ok := n.ObjectName(types.OIDRegType, oid); ok {
					return str(s)
				}
			}
		}
		if a[1].IsNull() {
			return str(types.TypeName(oid))
		}
		return str(types.FormatType(oid, mod))
	}, "format_type")
	for key, reg := range map[string]types.OID{"to_regclass": types.OIDRegClass, "to_regtype": types.OIDRegType, "to_regproc": types.OIDRegProc,
		"to_regprocedure": types.OIDRegProcedure, "to_regnamespace": types.OIDRegNamespace, "to_regrole": types.OIDRegRole,
		"to_regoper": types.OIDRegOper, "to_regoperator": types.OIDRegOperator, "to_regcollation": types.OIDRegCollation} {
		r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
			d, err := types.ParseText(reg, -1, a[0].Str(), ctx.env())
			if err == nil {
				return d, nil
			}
			if notThere(err) {
				return types.Null, nil
			}
			return types.Null, err
		}, key)
	}
}

// notThere says whether a lookup failed because the name means nothing.
func notThere(err error) bool {
	pe, ok := err.(*pgerror.Error)
	if !ok {
		return false
	}
	switch pe.Code {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedObject, pgerrcode.UndefinedFunction, pgerrcode.InvalidSchemaName,
		pgerrcode.InvalidName, pgerrcode.AmbiguousFunction:
		return true
	}
	return false
}

func unquoteIdent(s string) string {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		return strings.ReplaceAll(s[1:len(s)-1], `""`, `"`)
	}
	return s
}

// procTextFuncs print the signatures of the built-in functions.
func procTextFuncs(r *registry) {
	proc := func(f func(p *Proc) (string, bool)) Eval {
		return func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			p, ok := ProcByOID(oidOf(a[0]))
			if !ok {
				return types.Null, nil
			}
			s, ok := f(p)
			if !ok {
				return types.Null, nil
			}
			return str(s)
		}
	}
	r.fn(proc(func(p *Proc) (string, bool) { return p.arguments(true), true }), "pg_get_function_arguments")
	r.fn(proc(func(p *Proc) (string, bool) { return p.arguments(false), true }), "pg_get_function_identity_arguments")
	r.fn(proc(func(p *Proc) (string, bool) { return p.resultText(), p.Kind != 'p' }), "pg_get_function_result")
	r.fn(func(*EvalContext, []types.Datum) (types.Datum, error) { return types.Null, nil }, "pg_get_function_sqlbody")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		var out []string
		for _, v := range a[0].Array().Values {
			out = append(out, types.TypeName(oidOf(v)))
		}
		return str(strings.Join(out, ", "))
	}, "oidvectortypes")
}

// arguments is pg_get_function_arguments, with or without defaults.
func (p *Proc) arguments(defaults bool) string {
	all, modes := p.AllArgs, p.ArgModes
	if all == nil {
		all, modes = p.Args, strings.Repeat("i", len(p.Args))
	}
	var out []string
	input := 0
	for i, t := range all {
		mode := modes[i]
		if mode == 't' || !defaults && mode == 'o' {
			continue
		}
		s := map[byte]string{'o': "OUT ", 'b': "INOUT ", 'v': "VARIADIC "}[mode]
		if i < len(p.ArgNames) && p.ArgNames[i] != "" {
			s += QuoteIdent(p.ArgNames[i]) + " "
		}
		s += types.TypeName(t)
		if mode != 'o' {
			if d := input - (len(p.Args) - p.Defaults); defaults && d >= 0 && d < len(p.DefaultsAt) {
				s += " DEFAULT " + p.DefaultsAt[d]
			}
			input++
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (p *Proc) resultText() string {
	if strings.Contains(p.ArgModes, "t") {
		var cols []string
		for i, m := range p.ArgModes {
			if m == 't' {
				cols = append(cols, QuoteIdent(p.ArgNames[i])+" "+types.TypeName(p.AllArgs[i]))
			}
		}
		return "TABLE(" + strings.Join(cols, ", ") + ")"
	}
	if p.RetSet {
		return "SETOF " + types.TypeName(p.Result)
	}
	return types.TypeName(p.Result)
}
