package expr

// Walk calls f for e and everything below it, parents first, until f returns false for a
// node (then its operands are left out). Subquery plans are not entered.
func Walk(e Expr, f func(Expr) bool) {
	if e == nil || !f(e) {
		return
	}
	for _, c := range e.Children() {
		Walk(c, f)
	}
}

// Rewrite returns e with f applied bottom-up. Subquery plans are not entered.
func Rewrite(e Expr, f func(Expr) (Expr, error)) (Expr, error) {
	if e == nil {
		return nil, nil
	}
	ch := e.Children()
	var changed []Expr
	for i, c := range ch {
		n, err := Rewrite(c, f)
		if err != nil {
			return nil, err
		}
		if n != c && changed == nil {
			changed = append([]Expr(nil), ch...)
		}
		if changed != nil {
			changed[i] = n
		}
	}
	if changed != nil {
		e = e.WithChildren(changed)
	}
	return f(e)
}

// Conjuncts splits a condition at its ANDs.
func Conjuncts(e Expr) []Expr {
	if e == nil {
		return nil
	}
	a, ok := e.(*And)
	if !ok {
		return []Expr{e}
	}
	var out []Expr
	for _, x := range a.Args {
		out = append(out, Conjuncts(x)...)
	}
	return out
}

// Conjunction joins conditions by AND; nil for none.
func Conjunction(l []Expr) Expr {
	switch len(l) {
	case 0:
		return nil
	case 1:
		return l[0]
	}
	return &And{Args: l}
}

// IsVolatile reports whether e calls a volatile function or runs a subquery.
func IsVolatile(e Expr) bool {
	v := false
	Walk(e, func(x Expr) bool {
		if c, ok := x.(*Call); ok && c.Vol == Volatile {
			v = true
		}
		return !v
	})
	return v
}

// HasSubquery reports whether e runs a subquery.
func HasSubquery(e Expr) bool {
	v := false
	Walk(e, func(x Expr) bool {
		if _, ok := x.(*Subquery); ok {
			v = true
		}
		return !v
	})
	return v
}
