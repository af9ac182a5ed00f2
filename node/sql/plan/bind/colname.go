package bind

import (
	"github.com/atolldb/atoll/node/sql/parser/ast"
)

// figureName is PostgreSQL's name for an unnamed column.
func figureName(n *ast.Node) string {
	if name, _ := figureNameStrength(n); name != "" {
		return name
	}
	return "?column?"
}

func figureNameStrength(n *ast.Node) (string, int) {
	switch v := n.GetNode().(type) {
	case *ast.Node_ColumnRef:
		l := names(v.ColumnRef.Fields)
		for i := len(l) - 1; i >= 0; i-- {
			if l[i] != "*" {
				return l[i], 2
			}
		}
	case *ast.Node_AIndirection:
		for i := len(v.AIndirection.Indirection) - 1; i >= 0; i-- {
			if s := v.AIndirection.Indirection[i].GetString_(); s != nil {
				return s.Sval, 2
			}
		}
		return figureNameStrength(v.AIndirection.Arg)
	case *ast.Node_FuncCall:
		l := names(v.FuncCall.Funcname)
		return l[len(l)-1], 2
	case *ast.Node_AExpr:
		if v.AExpr.Kind == ast.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", 2
		}
	case *ast.Node_TypeCast:
		if name, s := figureNameStrength(v.TypeCast.Arg); s == 2 {
			return name, s
		}
		l := names(v.TypeCast.TypeName.Names)
		if len(l) > 0 {
			return l[len(l)-1], 1
		}
	case *ast.Node_CollateClause:
		return figureNameStrength(v.CollateClause.Arg)
	case *ast.Node_CaseExpr:
		if v.CaseExpr.Defresult != nil {
			if name, s := figureNameStrength(v.CaseExpr.Defresult); s == 2 {
				return name, s
			}
		}
		return "case", 1
	case *ast.Node_AArrayExpr:
		return "array", 2
	case *ast.Node_RowExpr:
		return "row", 2
	case *ast.Node_CoalesceExpr:
		return "coalesce", 2
	case *ast.Node_MinMaxExpr:
		if v.MinMaxExpr.Op == ast.MinMaxOp_IS_LEAST {
			return "least", 2
		}
		return "greatest", 2
	case *ast.Node_SubLink:
		switch v.SubLink.SubLinkType {
		case ast.SubLinkType_EXISTS_SUBLINK:
			return "exists", 2
		case ast.SubLinkType_ARRAY_SUBLINK:
			return "array", 2
		case ast.SubLinkType_EXPR_SUBLINK:
			s := v.SubLink.Subselect.GetSelectStmt()
			for s.GetLarg() != nil {
				s = s.Larg
			}
			if len(s.GetTargetList()) > 0 {
				rt := s.TargetList[0].GetResTarget()
				if rt.Name != "" {
					return rt.Name, 2
				}
				return figureNameStrength(rt.Val)
			}
		}
	case *ast.Node_SqlvalueFunction:
		switch v.SqlvalueFunction.Op {
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
			return "current_date", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N:
			return "current_time", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, ast.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N:
			return "current_timestamp", 2
		case ast.SQLValueFunctionOp_SVFOP_LOCALTIME, ast.SQLValueFunctionOp_SVFOP_LOCALTIME_N:
			return "localtime", 2
		case ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, ast.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
			return "localtimestamp", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_ROLE:
			return "current_role", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_USER:
			return "current_user", 2
		case ast.SQLValueFunctionOp_SVFOP_USER:
			return "user", 2
		case ast.SQLValueFunctionOp_SVFOP_SESSION_USER:
			return "session_user", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG:
			return "current_catalog", 2
		case ast.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA:
			return "current_schema", 2
		}
	}
	return "", 0
}
