package builtins

import (
	"math"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// to_char of numbers follows formatting.c (NUMDesc_prepare, NUM_processor) step by step.

type numTok uint8

const (
	numText numTok = iota
	num9
	num0
	numPoint
	numComma
	numG
	numL
	numMI
	numPL
	numSG
	numPR
	numS
	numRN
	numTH
	numV
	numFM
	numB
	numE
)

type numNode struct {
	tok   numTok
	lower bool
	text  string
}

var numKeywords = []struct {
	word string
	tok  numTok
}{
	{"EEEE", numE}, {"FM", numFM}, {"MI", numMI}, {"PL", numPL}, {"PR", numPR}, {"RN", numRN}, {"SG", numSG}, {"SP", numText},
	{"TH", numTH}, {"9", num9}, {"0", num0}, {".", numPoint}, {",", numComma}, {"B", numB}, {"D", numPoint}, {"G", numG},
	{"L", numL}, {"S", numS}, {"V", numV}, {"C", numText},
}

// numDesc is what a format says as a whole.
type numDesc struct {
	pre, post, multi                                           int
	zeroStart, zeroEnd                                         int
	preLsign                                                   int
	lsign                                                      byte // 0, '<' before, '>' after the number
	zero, decimal, fill, lsignSet, plus, minus, bracket, roman bool
	multiSet, sci                                              bool
	nodes                                                      []numNode
}

func numSyntax(msg string) error { return pgerror.New(pgerrcode.SyntaxError, "%s", msg) }

func parseNumFormat(f string) (*numDesc, error) {
	d := &numDesc{}
	upper := strings.ToUpper(f)
outer:
	for i := 0; i < len(f); {
		if f[i] == '"' {
			j := i + 1
			var text []byte
			for j < len(f) && f[j] != '"' {
				if f[j] == '\\' && j+1 < len(f) {
					j++
				}
				text = append(text, f[j])
				j++
			}
			d.nodes = append(d.nodes, numNode{text: string(text)})
			i = j + 1
			continue
		}
		if f[i] == '\\' && i+1 < len(f) && f[i+1] == '"' {
			i++
		}
		for _, k := range numKeywords {
			if len(upper) == len(f) && strings.HasPrefix(upper[i:], k.word) && k.tok != numText {
				n := numNode{tok: k.tok, lower: f[i] >= 'a' && f[i] <= 'z'}
				if err := d.add(k.tok); err != nil {
					return nil, err
				}
				d.nodes = append(d.nodes, n)
				i += len(k.word)
				continue outer
			}
		}
		d.nodes = append(d.nodes, numNode{text: f[i : i+1]})
		i++
	}
	return d, nil
}

func (d *numDesc) add(tok numTok) error {
	if d.sci && tok != numE {
		return numSyntax("\"EEEE\" must be the last pattern used")
	}
	switch tok {
	case num9:
		switch {
		case d.bracket:
			return numSyntax("\"9\" must be ahead of \"PR\"")
		case d.multiSet:
			d.multi++
		case d.decimal:
			d.post++
		default:
			d.pre++
		}
	case num0:
		if d.bracket {
			return numSyntax("\"0\" must be ahead of \"PR\"")
		}
		if !d.zero && !d.decimal {
			d.zero, d.zeroStart = true, d.pre+1
		}
		if d.decimal {
			d.post++
		} else {
			d.pre++
		}
		d.zeroEnd = d.pre + d.post
	case numPoint:
		if d.decimal {
			return numSyntax("multiple decimal points")
		}
		if d.multiSet {
			return numSyntax("cannot use \"V\" and decimal point together")
		}
		d.decimal = true
	case numFM:
		d.fill = true
	case numS:
		if d.lsignSet {
			return numSyntax("cannot use \"S\" twice")
		}
		if d.plus || d.minus || d.bracket {
			return numSyntax("cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together")
		}
		d.lsignSet = true
		if d.lsign = '>'; !d.decimal {
			d.lsign, d.preLsign = '<', d.pre
		}
	case numMI, numPL, numSG:
		if d.lsignSet {
			return numSyntax("cannot use \"S\" and \"" + map[numTok]string{numMI: "MI", numPL: "PL", numSG: "SG"}[tok] + "\" together")
		}
		d.minus = d.minus || tok != numPL
		d.plus = d.plus || tok != numMI
	case numPR:
		if d.lsignSet || d.plus || d.minus {
			return numSyntax("cannot use \"PR\" and \"S\"/\"PL\"/\"MI\"/\"SG\" together")
		}
		d.bracket = true
	case numRN:
		d.roman = true
	case numV:
		if d.decimal {
			return numSyntax("cannot use \"V\" and decimal point together")
		}
		d.multiSet = true
	case numE:
		if d.fill || d.lsignSet || d.bracket || d.minus || d.plus || d.roman || d.multiSet {
			return pgerror.New(pgerrcode.SyntaxError, "\"EEEE\" is incompatible with other formats").
				WithDetail("\"EEEE\" may only be used together with digit and decimal point patterns.")
		}
		d.sci = true
	}
	return nil
}

// numPrinter is the state of NUM_processor.
type numPrinter struct {
	d           *numDesc
	number      string
	sign        byte
	preSpaces   int
	pos         int // in number
	last        int // index of the last relevant digit, -1 for none
	signWrote   bool
	count, curr int
	inNumber    bool
	out         []byte
	zeroStart   int
}

func (d *numDesc) print(number string, sign byte, preSpaces int) string {
	p := &numPrinter{d: d, number: number, sign: sign, preSpaces: preSpaces, last: -1, zeroStart: d.zeroStart}
	if p.zeroStart > 0 {
		p.zeroStart--
	}
	lsign := d.lsign
	if d.plus || d.minus {
		p.signWrote = !(d.plus && !d.minus)
	} else {
		p.signWrote = sign == '+' && d.fill && !d.lsignSet
		if lsign == '<' && d.pre == d.preLsign {
			lsign = '>'
		}
	}
	p.count = d.post + d.pre - 1
	if d.fill && d.decimal {
		p.last = lastRelevant(number)
		if p.last >= 0 && d.zeroEnd > preSpaces {
			p.last = max(p.last, min(len(number)-1, d.zeroEnd-preSpaces))
		}
	}
	if !p.signWrote && preSpaces == 0 {
		p.count++
	}
	for _, n := range d.nodes {
		p.node(n, lsign)
	}
	return string(p.out)
}

func lastRelevant(s string) int {
	dot := strings.IndexByte(s, '.')
	if dot < 0 {
		return -1
	}
	last := dot
	for i := dot + 1; i < len(s); i++ {
		if s[i] != '0' {
			last = i
		}
	}
	return last
}

func (p *numPrinter) node(n numNode, lsign byte) {
	d := p.d
	blank := func(c byte) {
		switch {
		case c != 0:
			p.out = append(p.out, c)
		case !d.fill:
			p.out = append(p.out, ' ')
		}
	}
	switch n.tok {
	case numText:
		p.out = append(p.out, n.text...)
	case num9, num0, numPoint:
		if !d.roman {
			p.digit(n.tok, lsign)
		}
	case numComma, numG:
		if p.inNumber {
			p.out = append(p.out, ',')
		} else {
			blank(0)
		}
	case numL:
		p.out = append(p.out, ' ')
	case numMI:
		if p.sign == '-' {
			blank('-')
		} else {
			blank(0)
		}
	case numPL:
		if p.sign == '+' {
			blank('+')
		} else {
			blank(0)
		}
	case numSG:
		p.out = append(p.out, p.sign)
	case numRN:
		s := p.number
		if n.lower {
			s = strings.ToLower(s)
		}
		if !d.fill {
			s = strings.Repeat(" ", max(15-len(s), 0)) + s
		}
		p.out = append(p.out, s...)
	case numTH:
		if !d.roman && p.number[0] != '#' && p.sign != '-' && !d.decimal {
			p.out = append(p.out, ordinal(p.number, n.lower)...)
		}
	}
}

func ordinal(number string, lower bool) string {
	s := "TH"
	if n := len(number); n > 0 && !(n > 1 && number[n-2] == '1') {
		switch number[n-1] {
		case '1':
			s = "ST"
		case '2':
			s = "ND"
		case '3':
			s = "RD"
		}
	}
	if lower {
		s = strings.ToLower(s)
	}
	return s
}

func (p *numPrinter) preDecSpace() bool {
	return !p.d.zero && p.pos == 0 && p.number[0] == '0' && p.d.post != 0
}

func (p *numPrinter) lastIsPoint() bool { return p.last >= 0 && p.number[p.last] == '.' }

// digit is NUM_numpart_to_char.
func (p *numPrinter) digit(tok numTok, lsign byte) {
	d := p.d
	p.inNumber = false
	if !p.signWrote && (p.curr >= p.preSpaces || d.zero && p.zeroStart == p.curr) && (!p.preDecSpace() || p.lastIsPoint()) {
		switch {
		case d.lsignSet:
			if lsign == '<' {
				p.out = append(p.out, p.sign)
				p.signWrote = true
			}
		case d.bracket:
			p.out = append(p.out, map[byte]byte{'+': ' ', '-': '<'}[p.sign])
			p.signWrote = true
		case p.sign == '+':
			if !d.fill {
				p.out = append(p.out, ' ')
			}
			p.signWrote = true
		default:
			p.out = append(p.out, '-')
			p.signWrote = true
		}
	}
	switch {
	case p.curr < p.preSpaces && (p.zeroStart > p.curr || !d.zero):
		if !d.fill {
			p.out = append(p.out, ' ')
		}
	case d.zero && p.curr < p.preSpaces && p.zeroStart <= p.curr:
		p.out = append(p.out, '0')
		p.inNumber = true
	default:
		p.write(tok)
	}
	end := p.count
	if p.preSpaces > 0 {
		end++
	}
	if d.decimal {
		end++
	}
	if p.last >= 0 && p.last == p.pos {
		end = p.curr
	}
	if p.curr+1 == end {
		switch {
		case p.signWrote && d.bracket:
			p.out = append(p.out, map[byte]byte{'+': ' ', '-': '>'}[p.sign])
		case d.lsignSet && lsign == '>':
			p.out = append(p.out, p.sign)
		}
	}
	p.curr++
}

func (p *numPrinter) write(tok numTok) {
	c := byte(0)
	if p.pos < len(p.number) {
		c = p.number[p.pos]
	}
	switch {
	case c == '.':
		if !p.lastIsPoint() || p.d.fill {
			p.out = append(p.out, '.')
		}
	case p.last >= 0 && p.pos > p.last && tok != num0:
	case c != 0 && p.preDecSpace():
		if !p.d.fill {
			p.out = append(p.out, ' ')
		} else if p.lastIsPoint() {
			p.out = append(p.out, '0')
		}
	case c != 0:
		p.out = append(p.out, c)
		p.inNumber = true
	}
	if c != 0 {
		p.pos++
	}
}

// numberToChar formats decimal digits that were rounded to the format's scale.
func (d *numDesc) numberToChar(text string) string {
	sign := byte('+')
	if strings.HasPrefix(text, "-") {
		sign, text = '-', text[1:]
	}
	whole, _, _ := strings.Cut(text, ".")
	pre := 0
	switch {
	case len(whole) < d.pre:
		pre = d.pre - len(whole)
	case len(whole) > d.pre:
		text = strings.Repeat("#", d.pre)
		if d.post > 0 || d.decimal {
			text += "." + strings.Repeat("#", d.post)
		}
		if text == "" {
			text = "#"
		}
	}
	return d.print(text, sign, pre)
}

// numericToChar is to_char(numeric, text).
func numericToChar(v *apd.Decimal, f string, float bool) (types.Datum, error) {
	d, err := parseNumFormat(f)
	if err != nil {
		return types.Null, err
	}
	if v.Form != apd.Finite {
		return d.notFinite(v)
	}
	switch {
	case d.roman:
		n, err := types.NumericToInt(v, types.OIDInt4)
		return types.NewString(d.print(roman(n), '+', 0)), err
	case d.sci:
		s := sciText(v, d.post)
		if !v.Negative {
			s = " " + s
		}
		return str(s)
	}
	if d.multiSet {
		v = NumericMul(v, &apd.Decimal{Coeff: *pow10(int32(d.multi))})
		d.pre += d.multi
	}
	if float {
		whole := int(types.RoundNumeric(v, 0).NumDigits())
		if whole >= 15 {
			d.post = 0
		} else {
			d.post = min(d.post, 15-whole)
		}
	}
	return str(d.numberToChar(types.Text(types.OIDNumeric, types.NewNumeric(types.RoundNumeric(v, int32(d.post))), nil)))
}

func (d *numDesc) notFinite(v *apd.Decimal) (types.Datum, error) {
	text, sign := "NaN", byte('+')
	if isInf(v) {
		text = "Infinity"
	}
	if v.Negative {
		sign = '-'
	}
	switch {
	case d.sci: // # in each place of mantissa and exponent
		b := []byte(strings.Repeat("#", d.pre+d.post+6))
		b[0] = ' '
		if d.pre+1 < len(b) {
			b[d.pre+1] = '.'
		}
		return str(string(b))
	case d.roman:
		_, err := types.NumericToInt(v, types.OIDInt4)
		return types.Null, err
	}
	for _, n := range d.nodes {
		if n.tok == numTH {
			return types.Null, pgerror.New(pgerrcode.InvalidTextRepresentation, "\"%s\" is not a number", text)
		}
	}
	if d.multiSet {
		d.pre += d.multi
	}
	pre := 0
	if len(text) < d.pre {
		pre = d.pre - len(text)
	} else if len(text) > d.pre {
		text = strings.Repeat("#", d.pre)
		if d.decimal {
			text += "." + strings.Repeat("#", d.post)
		}
	}
	if text == "" {
		text = "#"
	}
	return str(d.print(text, sign, pre))
}

// sciText is d.ddde+xx with a number of digits after the point.
func sciText(v *apd.Decimal, digits int) string {
	if v.Coeff.Sign() == 0 {
		s := "0"
		if digits > 0 {
			s += "." + strings.Repeat("0", digits)
		}
		return s + "e+00"
	}
	// Like PostgreSQL, take the exponent before rounding: 9.999 may print as 10.00e+00.
	exp := int(v.NumDigits()) - 1 + int(v.Exponent)
	c := types.RoundNumeric(&apd.Decimal{Coeff: v.Coeff, Exponent: -int32(v.NumDigits()) + 1}, int32(digits))
	m := c.Coeff.String()
	m, frac := m[:len(m)-digits], m[len(m)-digits:]
	s := m
	if digits > 0 {
		s += "." + frac
	}
	if v.Negative {
		s = "-" + s
	}
	sign := "+"
	if exp < 0 {
		sign, exp = "-", -exp
	}
	e := strconv.Itoa(exp)
	if len(e) < 2 {
		e = "0" + e
	}
	return s + "e" + sign + e
}

func roman(n int64) string {
	if n < 1 || n > 3999 {
		return strings.Repeat("#", 15)
	}
	var b strings.Builder
	for _, r := range []struct {
		v int64
		s string
	}{{1000, "M"}, {900, "CM"}, {500, "D"}, {400, "CD"}, {100, "C"}, {90, "XC"}, {50, "L"}, {40, "XL"}, {10, "X"}, {9, "IX"}, {5, "V"}, {4, "IV"}, {1, "I"}} {
		for n >= r.v {
			b.WriteString(r.s)
			n -= r.v
		}
	}
	return b.String()
}

func toCharFuncs(r *registry) {
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return numericToChar(a[0].Numeric(), a[1].Str(), false)
	}, "numeric_to_char")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return numericToChar(apd.New(a[0].Int(), 0), a[1].Str(), false)
	}, "int4_to_char", "int8_to_char")
	for name, bits := range map[string]int{"float4_to_char": 32, "float8_to_char": 64} {
		r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
			v := types.NumericFromFloat(a[0].Float(), 64)
			if f := a[0].Float(); !math.IsNaN(f) && !math.IsInf(f, 0) {
				// All digits, not the 15 of the cast.
				d, err := types.ParseNumeric(strconv.FormatFloat(f, 'f', -1, bits))
				if err != nil {
					return types.Null, err
				}
				v = d
			}
			return numericToChar(v, a[1].Str(), true)
		}, name)
	}
	r.fn(toNumber, "numeric_to_number")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return timestampToChar(ctx, a[0].Int(), a[1].Str(), false)
	}, "timestamp_to_char")
	r.fn(func(ctx *EvalContext, a []types.Datum) (types.Datum, error) {
		return timestampToChar(ctx, a[0].Int(), a[1].Str(), true)
	}, "timestamptz_to_char")
	r.fn(func(_ *EvalContext, a []types.Datum) (types.Datum, error) {
		return intervalToChar(a[0].Interval(), a[1].Str())
	}, "interval_to_char")
}

// toNumber reads digits, sign and point from the text; what else the format has is skipped.
func toNumber(_ *EvalContext, a []types.Datum) (types.Datum, error) {
	d, err := parseNumFormat(a[1].Str())
	if err != nil {
		return types.Null, err
	}
	if d.roman || d.sci {
		return types.Null, pgerror.New(pgerrcode.FeatureNotSupported, "\"RN\" and \"EEEE\" not supported for input")
	}
	var digits strings.Builder
	neg, point, post := false, false, 0
	s := a[0].Str()
	if strings.Contains(s, "<") {
		neg = d.bracket
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			if point {
				if post >= d.post {
					continue
				}
				post++
			}
			digits.WriteByte(c)
		case c == '.' && d.decimal && !point:
			point = true
			digits.WriteByte('.')
		case c == '-':
			neg = true
		case c == '.':
			i = len(s) // without a point in the format the rest does not count
		}
	}
	text := digits.String()
	if strings.Trim(text, ".") == "" {
		return types.Null, pgerror.New(pgerrcode.InvalidTextRepresentation, "invalid input syntax for type numeric: \"%s\"", " ")
	}
	if neg {
		text = "-" + text
	}
	v, err := types.ParseNumeric(text)
	if err != nil {
		return types.Null, err
	}
	if d.multiSet {
		v = quo(v, &apd.Decimal{Coeff: *pow10(int32(d.multi))}, scaleOf(v)+int32(d.multi), true)
	}
	return types.NewNumeric(v), nil
}
