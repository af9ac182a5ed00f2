package bind

import (
	"github.com/atolldb/atoll/node/sql/builtins"
	"github.com/atolldb/atoll/node/sql/plan/expr"

	"github.com/atolldb/atoll/node/sql/types"
)

// candidate is one overload of a function or operator name.
type candidate struct {
	oid      types.OID
	args     []types.OID // declared; a variadic tail is expanded to the call's length
	result   types.OID
	variadic bool // expanded from a VARIADIC parameter
	proc     *builtins.Proc
	// defaults are the parameters that the call left out.
	defaults []string
	strict   bool
	vol      expr.Volatility
	// fixed counts the parameters before the VARIADIC one; anyVariadic: VARIADIC "any".
	fixed       int
	anyVariadic bool
	kind        byte // pg_proc.prokind: f function, a aggregate, w window
	retset      bool
	// outNames and outTypes are the columns of a function that returns several.
	outNames []string
	outName  string // of a single OUT parameter
	outTypes []types.OID
}

// category returns a type's category and whether it is the preferred one in it.
func category(t types.OID) (byte, bool) {
	if ty, ok := types.Lookup(t); ok {
		return ty.Category, ty.Preferred
	}
	return 'U', false
}

// canCoerce reports whether values of the given types can be passed implicitly.
func canCoerce(from, to []types.OID) bool {
	var poly []int
	for i := range from {
		f, t := from[i], to[i]
		switch {
		case f == t, t == types.OIDAny, f == types.OIDUnknown:
			if isPolymorphic(t) {
				poly = append(poly, i)
			}
		case isPolymorphic(t):
			poly = append(poly, i)
		default:
			if _, ok := findCast(f, t, implicit); !ok {
				return false
			}
		}
	}
	if len(poly) > 0 {
		_, ok := polymorphic(from, to, types.OIDVoid)
		return ok
	}
	return true
}

// selectCandidate chooses among overloads that all accept the arguments: PostgreSQL's
// func_select_candidate. It returns nil if none is better than the others.
func selectCandidate(in []types.OID, cands []candidate) *candidate {
	if len(cands) == 0 {
		return nil
	}
	if len(cands) == 1 {
		return &cands[0]
	}
	keepBest := func(score func(c *candidate) int) {
		best, out := -1, []candidate(nil)
		for i := range cands {
			switch s := score(&cands[i]); {
			case s > best:
				best, out = s, []candidate{cands[i]}
			case s == best:
				out = append(out, cands[i])
			}
		}
		cands = out
	}
	keepBest(func(c *candidate) int {
		n := 0
		for i, t := range in {
			if t != types.OIDUnknown && c.args[i] == t {
				n++
			}
		}
		return n
	})
	if len(cands) == 1 {
		return &cands[0]
	}
	keepBest(func(c *candidate) int {
		n := 0
		for i, t := range in {
			if t == types.OIDUnknown {
				continue
			}
			cat, _ := category(t)
			ccat, pref := category(c.args[i])
			if c.args[i] == t || pref && ccat == cat {
				n++
			}
		}
		return n
	})
	if len(cands) == 1 {
		return &cands[0]
	}
	unknowns := 0
	for _, t := range in {
		if t == types.OIDUnknown {
			unknowns++
		}
	}
	if unknowns == 0 {
		return nil
	}
	if c := byUnknownCategory(in, cands); c != nil {
		cands = c
		if len(cands) == 1 {
			return &cands[0]
		}
	}
	return byKnownType(in, cands)
}

// byUnknownCategory keeps the candidates that take the likeliest category (string first) for
// each unknown argument; nil if they disagree.
func byUnknownCategory(in []types.OID, cands []candidate) []candidate {
	slotCat := make([]byte, len(in))
	slotPref := make([]bool, len(in))
	for i, t := range in {
		if t != types.OIDUnknown {
			continue
		}
		conflict := false
		for j := range cands {
			cat, pref := category(cands[j].args[i])
			switch {
			case slotCat[i] == 0:
				slotCat[i], slotPref[i] = cat, pref
			case slotCat[i] == cat:
				slotPref[i] = slotPref[i] || pref
			case cat == 'S':
				slotCat[i], slotPref[i] = cat, pref
			case slotCat[i] != 'S':
				conflict = true
			}
		}
		if conflict && slotCat[i] != 'S' {
			return nil
		}
	}
	var out []candidate
	for j := range cands {
		keep := true
		for i, t := range in {
			if t != types.OIDUnknown {
				continue
			}
			cat, pref := category(cands[j].args[i])
			if cat != slotCat[i] || slotPref[i] && !pref {
				keep = false
			}
		}
		if keep {
			out = append(out, cands[j])
		}
	}
	return out
}

// byKnownType assumes that the unknown arguments are of the same type as the known ones.
func byKnownType(in []types.OID, cands []candidate) *candidate {
	known := types.OIDUnknown
	for _, t := range in {
		if t == types.OIDUnknown {
			continue
		}
		if known != types.OIDUnknown && known != t {
			return nil
		}
		known = t
	}
	if known == types.OIDUnknown {
		return nil
	}
	all := make([]types.OID, len(in))
	for i := range all {
		all[i] = known
	}
	var found *candidate
	for i := range cands {
		if canCoerce(all, cands[i].args) {
			if found != nil {
				return nil
			}
			found = &cands[i]
		}
	}
	return found
}

func isPolymorphic(t types.OID) bool {
	switch t {
	case types.OIDAnyElement, types.OIDAnyArray, types.OIDAnyNonArray, types.OIDAnyEnum, types.OIDAnyRange,
		types.OIDAnyMultirange, types.OIDAnyCompatible, types.OIDAnyCompatibleArray,
		types.OIDAnyCompatibleNonArray, types.OIDAnyCompatibleRange, types.OIDAnyCompatibleMultirange:
		return true
	}
	return false
}

func elemType(t types.OID) types.OID {
	if ty, ok := types.Lookup(t); ok && (ty.IsArray() || ty.IsVector()) {
		return ty.Elem
	}
	return 0
}

func arrayType(t types.OID) types.OID {
	if ty, ok := types.Lookup(t); ok {
		return ty.Array
	}
	return 0
}

// poly is what the polymorphic types of one call stand for.
type poly struct{ elem, compat types.OID }

// polymorphic finds what the polymorphic parameter types stand for. With the polymorphic
// types unknown (all arguments are unknown literals) elem is text, as PostgreSQL assumes for
// anycompatible, and not ok for anyelement unless the result does not depend on it.
func polymorphic(from, to []types.OID, result types.OID) (poly, bool) {
	var p poly
	var compat []types.OID
	needArray, needCompatArray := false, false
	for i, t := range to {
		f := from[i]
		switch t {
		case types.OIDAnyElement, types.OIDAnyNonArray, types.OIDAnyEnum:
			if f == types.OIDUnknown {
				continue
			}
			if t == types.OIDAnyNonArray && elemType(f) != 0 || t == types.OIDAnyEnum {
				return p, false
			}
			if p.elem != 0 && p.elem != f {
				return p, false
			}
			p.elem = f
		case types.OIDAnyArray:
			needArray = true
			if f == types.OIDUnknown || f == types.OIDAnyArray {
				continue
			}
			e := elemType(f)
			if e == 0 || p.elem != 0 && p.elem != e {
				return p, false
			}
			p.elem = e
		case types.OIDAnyCompatible, types.OIDAnyCompatibleNonArray:
			compat = append(compat, f)
		case types.OIDAnyCompatibleArray:
			needCompatArray = true
			if f == types.OIDUnknown {
				compat = append(compat, f)
				continue
			}
			e := elemType(f)
			if e == 0 {
				return p, false
			}
			compat = append(compat, e)
		case types.OIDAnyRange, types.OIDAnyMultirange, types.OIDAnyCompatibleRange, types.OIDAnyCompatibleMultirange:
			return p, false
		}
	}
	if len(compat) > 0 {
		t, ok := commonType(compat)
		if !ok {
			return p, false
		}
		p.compat = t
		if needCompatArray && arrayType(t) == 0 {
			return p, false
		}
	}
	if needArray && p.elem != 0 && arrayType(p.elem) == 0 {
		return p, false
	}
	if p.elem == 0 && result != types.OIDVoid && (result == types.OIDAnyElement || result == types.OIDAnyArray) {
		p.elem = types.OIDText
		return p, false
	}
	return p, true
}

// resolve replaces a polymorphic type.
func (p poly) resolve(t types.OID) types.OID {
	switch t {
	case types.OIDAnyElement, types.OIDAnyNonArray, types.OIDAnyEnum:
		if p.elem != 0 {
			return p.elem
		}
		return types.OIDText
	case types.OIDAnyArray:
		if p.elem != 0 {
			return arrayType(p.elem)
		}
		return types.OIDTextArray
	case types.OIDAnyCompatible, types.OIDAnyCompatibleNonArray:
		return p.compat
	case types.OIDAnyCompatibleArray:
		return arrayType(p.compat)
	}
	return t
}

// commonType is PostgreSQL's select_common_type: the type that UNION, CASE, VALUES, ARRAY,
// COALESCE and their like give to values of several types.
func commonType(in []types.OID) (types.OID, bool) {
	out := types.OIDUnknown
	var cat byte
	var pref bool
	same := true
	for _, t := range in {
		if t != in[0] {
			same = false
		}
	}
	if same && len(in) > 0 && in[0] != types.OIDUnknown {
		return in[0], true
	}
	for _, t := range in {
		if t == types.OIDUnknown || t == out {
			continue
		}
		c, p := category(t)
		switch {
		case out == types.OIDUnknown:
			out, cat, pref = t, c, p
		case c != cat:
			return 0, false
		case !pref:
			if _, ok := findCast(out, t, implicit); ok {
				if _, back := findCast(t, out, implicit); !back {
					out, pref = t, p
				}
			}
		}
	}
	if out == types.OIDUnknown {
		out = types.OIDText
	}
	return out, true
}
