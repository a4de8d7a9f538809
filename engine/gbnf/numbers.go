package gbnf

import (
	"math/big"
	"strconv"
	"strings"
)

// maxDigits is how many digits a number has before its point, and after it.
const maxDigits = 16

// huge is the first number with more digits than that.
var huge = new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(maxDigits), nil))

// bound is one end of a range.
type bound struct {
	value     *big.Rat
	exclusive bool
}

func (b *bound) negative() *bound {
	return &bound{new(big.Rat).Neg(b.value), b.exclusive}
}

// tighter says whether b forbids more than other, as a lower bound (sign 1) or an upper one (sign -1).
func (b *bound) tighter(other *bound, sign int) bool {
	if other == nil {
		return true
	}
	c := b.value.Cmp(other.value) * sign
	return c > 0 || c == 0 && b.exclusive
}

// buildNumber reads the bounds. One that no number of 16 digits breaks is dropped.
func buildNumber(v *value, integer bool, path string) node {
	n := &numberNode{at: at(path), integer: integer}
	n.min = tightest(v, "minimum", "exclusiveMinimum", 1, path)
	n.max = tightest(v, "maximum", "exclusiveMaximum", -1, path)
	n.bounded = n.min != nil || n.max != nil
	if n.min != nil && n.min.value.Cmp(new(big.Rat).Neg(huge)) <= 0 {
		n.min = nil
	}
	if n.max != nil && n.max.value.Cmp(huge) >= 0 {
		n.max = nil
	}
	n.refuseHuge()
	return n
}

func (n *numberNode) refuseHuge() {
	if n.min != nil && n.min.value.Cmp(huge) >= 0 || n.max != nil && n.max.negative().value.Cmp(huge) >= 0 {
		refuse(n.path(), "minimum or maximum", "numbers of more than %d digits are not made", maxDigits)
	}
}

func tightest(v *value, inclusive, exclusive string, sign int, path string) (b *bound) {
	for _, keyword := range []string{inclusive, exclusive} {
		if v.get(keyword) == nil {
			continue
		}
		if c := readBound(v.get(keyword), keyword, path); c.tighter(b, sign) {
			c.exclusive = keyword == exclusive
			b = c
		}
	}
	return b
}

// readBound keeps out exponents that would fill the memory with zeros.
func readBound(v *value, keyword, path string) *bound {
	if v.kind&(kindInteger|kindNumber) == 0 {
		refuse(path, keyword, "must be a number")
	}
	f, err := strconv.ParseFloat(v.text, 64)
	if err != nil || len(v.text) > 400 || f == 0 && strings.ContainsAny(v.text, "eE") {
		refuse(path, keyword, "%.40s is out of range", v.text)
	}
	r, ok := new(big.Rat).SetString(v.text)
	if !ok {
		refuse(path, keyword, "%.40s is not a number", v.text)
	}
	return &bound{value: r}
}

// integers is the grammar of the node's integers.
func (n *numberNode) integers() string {
	var low, high *int64
	if n.min != nil {
		low = new(ceil(n.min))
	}
	if n.max != nil {
		high = new(-ceil(n.max.negative()))
	}
	if low != nil && high != nil && *low > *high {
		refuse(n.path(), "minimum", "no integer lies between it and maximum")
	}
	return intRange(low, high)
}

// ceil is the least integer that a lower bound lets through.
func ceil(b *bound) int64 {
	q, m := new(big.Int).DivMod(b.value.Num(), b.value.Denom(), new(big.Int))
	if m.Sign() > 0 || b.exclusive {
		return q.Int64() + 1
	}
	return q.Int64()
}

// intRange is llama.cpp's build_min_max_int, but that zeros after a bound's first digit count, and that a negative
// number has no leading zeros.
func intRange(low, high *int64) string {
	switch {
	case low != nil && high != nil:
		return closedRange(*low, *high)
	case low == nil && high == nil:
		return `"-"? ([0] | [1-9] ` + digits(0, maxDigits-1) + ")"
	case low == nil && *high < 0:
		return `"-" (` + atLeast(strconv.FormatInt(-*high, 10), maxDigits, '1') + ")"
	case low == nil:
		return `"-" [1-9] ` + digits(0, maxDigits-1) + " | " + closedRange(0, *high)
	case *low < 0:
		return `"-" (` + closedRange(0, -*low) + ") | [0] | [1-9] " + digits(0, maxDigits-1)
	case *low == 0:
		return "[0] | [1-9] " + digits(0, maxDigits-1)
	}
	return atLeast(strconv.FormatInt(*low, 10), maxDigits, '1')
}

func closedRange(low, high int64) string {
	if high < 0 {
		return `"-" (` + closedRange(-high, -low) + ")"
	}
	var alts []string
	if low < 0 {
		alts = append(alts, `"-" (`+closedRange(0, -low)+")")
		low = 0
	}
	from, to := strconv.FormatInt(low, 10), strconv.FormatInt(high, 10)
	for len(from) < len(to) {
		alts = append(alts, sameLength(from, strings.Repeat("9", len(from))))
		from = "1" + strings.Repeat("0", len(from))
	}
	return strings.Join(append(alts, sameLength(from, to)), " | ")
}

// sameLength is the numbers between two that have as many digits.
func sameLength(from, to string) string {
	i := 0
	for i < len(from) && from[i] == to[i] {
		i++
	}
	var parts []string
	if i > 0 {
		parts = append(parts, `"`+from[:i]+`"`)
	}
	if i < len(from) {
		parts = append(parts, fork(from[i:], to[i:]))
	}
	return strings.Join(parts, " ")
}

// fork is sameLength where the first digits differ.
func fork(from, to string) string {
	a, b, rest := from[0], to[0], len(from)-1
	if rest == 0 {
		return "[" + string(a) + "-" + string(b) + "]"
	}
	zeros, nines := strings.Repeat("0", rest), strings.Repeat("9", rest)
	var alts []string
	if from[1:] != zeros {
		alts = append(alts, "["+string(a)+"] ("+sameLength(from[1:], nines)+")")
		a++
	}
	last := b - 1
	if a < b && from[1:] != zeros && to[1:] == nines {
		last = b
	}
	if a <= last {
		alts = append(alts, digitRange(a, last)+" "+digits(rest, rest))
	}
	if last < b {
		alts = append(alts, "["+string(b)+"] "+sameLength(zeros, to[1:]))
	}
	return "(" + strings.Join(alts, " | ") + ")"
}

// atLeast is the numbers from s up with at most n digits, the first of them not below least.
func atLeast(s string, n int, least byte) string {
	if strings.Trim(s, "0") == "" {
		return digits(len(s), n)
	}
	c := s[0]
	var alts []string
	more := func(from, to byte, least int) {
		if from <= to && least < n {
			alts = append(alts, strings.TrimSuffix(digitRange(from, to)+" "+digits(least, n-1), " "))
		}
	}
	more(least, c-1, len(s))
	if len(s) == 1 {
		more(c, '9', 0)
		return strings.Join(alts, " | ")
	}
	alts = append(alts, digitRange(c, c)+" ("+atLeast(s[1:], n-1, '0')+")")
	more(c+1, '9', len(s)-1)
	return strings.Join(alts, " | ")
}

func digitRange(from, to byte) string {
	if from == to {
		return "[" + string(from) + "]"
	}
	return "[" + string(from) + "-" + string(to) + "]"
}

// digits is least to most digits.
func digits(least, most int) string { return times("[0-9]", least, most) }

func times(item string, least, most int) string {
	switch {
	case most == 0:
		return ""
	case least == most && most == 1:
		return item
	case least == most:
		return item + "{" + strconv.Itoa(most) + "}"
	}
	return item + "{" + strconv.Itoa(least) + "," + strconv.Itoa(most) + "}"
}

// decimals is the grammar of the node's numbers, written without exponents: what is below zero, and the rest.
func (n *numberNode) decimals() string {
	low, high := n.min, n.max
	zero := new(big.Rat)
	var alts []string
	if low == nil || low.value.Sign() < 0 {
		from, to := &bound{value: zero}, (*bound)(nil)
		if high != nil && high.value.Sign() <= 0 {
			from = high.negative()
		}
		if low != nil {
			to = low.negative()
		}
		alts = appendRange(alts, `"-" (`, n.decimalRange(from, to), ")")
	}
	if high == nil || high.value.Sign() >= 0 {
		from := &bound{value: zero}
		if low != nil && low.value.Sign() >= 0 {
			from = low
		}
		alts = appendRange(alts, "", n.decimalRange(from, high), "")
	}
	if len(alts) == 0 {
		refuse(n.path(), "minimum", "no number lies between it and maximum")
	}
	return strings.Join(alts, " | ")
}

func appendRange(alts []string, open, alt, end string) []string {
	if alt == "" {
		return alts
	}
	return append(alts, open+alt+end)
}

// decimalRange is the numbers between two that are not negative; high may be nil. It is empty where there are none.
func (n *numberNode) decimalRange(low, high *bound) string {
	a, fa := n.split(low)
	if high == nil {
		alts := []string{exactly(a) + " " + above(fa, low.exclusive)}
		if rest := intRange(new(a+1), nil); rest != "" {
			alts = append(alts, "("+rest+") "+anyFraction)
		}
		return strings.Join(alts, " | ")
	}
	b, fb := n.split(high)
	switch {
	case a > b || a == b && low.value.Cmp(high.value) > 0:
		return ""
	case a == b:
		return appendAfter("", exactly(a), between(fa, low.exclusive, fb, high.exclusive))
	}
	alts := exactly(a) + " " + above(fa, low.exclusive)
	if a+1 < b {
		alts += " | (" + closedRange(a+1, b-1) + ") " + anyFraction
	}
	return appendAfter(alts, exactly(b), below(fb, high.exclusive))
}

// appendAfter adds an alternative, whole and fraction, where there is such a fraction.
func appendAfter(alts, whole, fraction string) string {
	switch {
	case fraction == none:
		return alts
	case alts != "":
		alts += " | "
	}
	return alts + whole + " " + fraction
}

func exactly(n int64) string { return `"` + strconv.FormatInt(n, 10) + `"` }

// split is a bound's whole part and its decimals, without zeros at the end.
func (n *numberNode) split(b *bound) (whole int64, fraction string) {
	text := b.value.FloatString(maxDigits)
	if back, _ := new(big.Rat).SetString(text); back.Cmp(b.value) != 0 {
		refuse(n.path(), "minimum or maximum", "has more than %d decimals", maxDigits)
	}
	w, f, _ := strings.Cut(text, ".")
	whole, _ = strconv.ParseInt(w, 10, 64)
	return whole, strings.TrimRight(f, "0")
}

const (
	anyFraction  = `("." [0-9]{1,16})?`
	zeroFraction = `("." [0]{1,16})?`
	// none is no fraction, not even an empty one.
	none = "none"
)

// above is the fractions from f up.
func above(f string, exclusive bool) string {
	if f == "" && !exclusive {
		return anyFraction
	}
	return `"." ` + aboveDigits(f, exclusive)
}

func aboveDigits(f string, exclusive bool) string {
	switch {
	case f == "" && exclusive:
		return "[0]{0,15} [1-9] [0-9]{0,15}"
	case f == "":
		return "[0-9]{0,16}"
	}
	same := digitRange(f[0], f[0]) + " " + aboveDigits(f[1:], exclusive)
	if f[0] == '9' {
		return same
	}
	return "(" + digitRange(f[0]+1, '9') + " [0-9]{0,15} | " + same + ")"
}

// below is the fractions up to f.
func below(f string, exclusive bool) string {
	switch {
	case f == "" && exclusive:
		return none
	case f == "":
		return zeroFraction
	}
	return `("." ` + belowDigits(f, exclusive) + ")?"
}

// belowDigits is never empty: f does not end in a zero.
func belowDigits(f string, exclusive bool) string {
	var alts []string
	if f[0] > '0' {
		alts = append(alts, digitRange('0', f[0]-1)+" [0-9]{0,15}")
	}
	alts = appendSame(alts, f[0], underRest(f[1:], exclusive))
	return "(" + strings.Join(alts, " | ") + ")"
}

// underRest is what may follow a digit equal to the bound's.
func underRest(f string, exclusive bool) string {
	switch {
	case f == "" && exclusive:
		return none
	case f == "":
		return "[0]{0,16}"
	}
	return belowDigits(f, exclusive) + "?"
}

func appendSame(alts []string, digit byte, rest string) []string {
	if rest == none {
		return alts
	}
	return append(alts, digitRange(digit, digit)+" "+rest)
}

// between is the fractions from low to high, of numbers with the same whole part.
func between(low string, lowEx bool, high string, highEx bool) string {
	switch {
	case low == high && (lowEx || highEx):
		return none
	case low == "" && !lowEx:
		return below(high, highEx)
	case low == high:
		return `"." "` + low + `" [0]{0,16}`
	}
	return `"." ` + betweenDigits(low, lowEx, high, highEx)
}

// betweenDigits: low is less than high.
func betweenDigits(low string, lowEx bool, high string, highEx bool) string {
	a, rest := byte('0'), ""
	if low != "" {
		a, rest = low[0], low[1:]
	}
	b := high[0]
	switch {
	case a == b && rest == "" && !lowEx:
		return digitRange(a, a) + " " + underRest(high[1:], highEx)
	case a == b:
		return digitRange(a, a) + " " + betweenDigits(rest, lowEx, high[1:], highEx)
	}
	alts := []string{digitRange(a, a) + " " + aboveDigits(rest, lowEx)}
	if a+1 < b {
		alts = append(alts, digitRange(a+1, b-1)+" [0-9]{0,15}")
	}
	alts = appendSame(alts, b, underRest(high[1:], highEx))
	return "(" + strings.Join(alts, " | ") + ")"
}
