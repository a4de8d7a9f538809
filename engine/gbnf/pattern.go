package gbnf

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A pattern (ECMA-262's regular expressions, the regular part) becomes a rule over the text of a JSON string: a quote
// that the pattern wants is written \" there. Characters beyond ASCII are written as themselves.

// runes is a range of characters.
type runes struct{ from, to rune }

// piece is a part of a pattern that may be repeated.
type piece struct {
	char  rune    // a literal, where class and group are nil
	class []runes // one of these
	not   bool    // none of class
	group [][]piece
	dot   bool
	// low and high are the repetition; high is -1 without end.
	repeated  bool
	low, high int
}

func (p *piece) literal() bool { return p.class == nil && p.group == nil && !p.dot }

// regex parses a pattern.
type regex struct {
	text  []rune
	pos   int
	depth int
	path  string
	// begins and ends are true where a branch is anchored. All are taken to be, then: that is narrower.
	begins, ends bool
}

func (r *regex) refuse(format string, args ...any) {
	refuse(r.path, "pattern", "%s", fmt.Sprintf(format, args...)+fmt.Sprintf(" (at character %d)", r.pos+1))
}

func (r *regex) more() bool { return r.pos < len(r.text) }

func (r *regex) peek() rune {
	if r.more() {
		return r.text[r.pos]
	}
	return -1
}

func (r *regex) take(c rune) bool {
	if r.peek() == c {
		r.pos++
		return true
	}
	return false
}

// branches parses to the end of the group, or of the pattern.
func (r *regex) branches() (all [][]piece) {
	if r.depth++; r.depth > MaxNesting/2 {
		r.refuse("nested deeper than %d", MaxNesting/2)
	}
	for {
		all = append(all, r.branch())
		if !r.take('|') {
			r.depth--
			return all
		}
	}
}

func (r *regex) branch() (seq []piece) {
	if r.depth == 1 && r.take('^') {
		r.begins = true
	}
	for r.more() && r.peek() != '|' && r.peek() != ')' {
		if r.depth == 1 && r.peek() == '$' && (r.pos+1 == len(r.text) || r.text[r.pos+1] == '|') {
			r.pos++
			r.ends = true
			return seq
		}
		p := r.piece()
		r.quantify(&p)
		seq = append(seq, p)
	}
	return seq
}

func (r *regex) piece() piece {
	c := r.peek()
	r.pos++
	switch c {
	case '(':
		return r.groupPiece()
	case '[':
		return r.classPiece()
	case '.':
		return piece{dot: true}
	case '\\':
		return r.escape()
	case '^', '$':
		r.pos--
		r.refuse("an anchor inside the pattern is not supported")
	case '*', '+', '?', '{':
		r.pos--
		r.refuse("nothing to repeat")
	}
	return piece{char: c}
}

// groupPiece takes plain, (?:…) and (?<name>…) groups.
func (r *regex) groupPiece() piece {
	if r.take('?') && !r.take(':') {
		named := r.take('<') && wordRune(r.peek())
		end := slices.Index(r.text[r.pos:], '>')
		if !named || end < 0 {
			r.refuse("lookaround and flags are not supported")
		}
		r.pos += end + 1
	}
	p := piece{group: r.branches()}
	if !r.take(')') {
		r.refuse("a parenthesis is not closed")
	}
	return p
}

func (r *regex) quantify(p *piece) {
	switch c := r.peek(); c {
	case '*':
		p.low, p.high = 0, -1
	case '+':
		p.low, p.high = 1, -1
	case '?':
		p.low, p.high = 0, 1
	case '{':
		p.low, p.high = r.counts()
	default:
		return
	}
	p.repeated = true
	r.pos++
	r.take('?') // a lazy repetition matches the same texts
	if c := r.peek(); c == '*' || c == '+' || c == '?' || c == '{' {
		r.refuse("a repetition of a repetition is not supported: use a group")
	}
}

// counts reads {m}, {m,} or {m,n}, and stops at the closing brace.
func (r *regex) counts() (low, high int) {
	end := slices.Index(r.text[r.pos:], '}')
	if end < 0 {
		r.refuse("a brace is not closed")
	}
	first, second, two := strings.Cut(string(r.text[r.pos+1:r.pos+end]), ",")
	low = r.count(first)
	switch {
	case !two:
		high = low
	case second == "":
		high = -1
	default:
		high = r.count(second)
	}
	if high >= 0 && low > high {
		r.refuse("{%d,%d} is upside down", low, high)
	}
	r.pos += end
	return low, high
}

func (r *regex) count(text string) int {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > MaxRepeat {
		r.refuse("%.20q is no count from 0 to %d", text, MaxRepeat)
	}
	return int(n)
}

var (
	digitRunes = []runes{{'0', '9'}}
	wordRunes  = []runes{{'a', 'z'}, {'A', 'Z'}, {'0', '9'}, {'_', '_'}}
	// asciiSpaces is what regular expressions of all kinds take for spaces; spaceRunes is ECMA's.
	asciiSpaces = []runes{{'\t', '\r'}, {' ', ' '}}
	spaceRunes  = []runes{{'\t', '\r'}, {' ', ' '}, {0xa0, 0xa0}, {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
		{0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}}
	lineRunes = []runes{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}
)

// escape reads what follows a backslash.
func (r *regex) escape() piece {
	c := r.peek()
	r.pos++
	switch c {
	case 'd', 'D':
		return piece{class: digitRunes, not: c == 'D'}
	case 'w', 'W':
		return piece{class: wordRunes, not: c == 'W'}
	case 's':
		return piece{class: asciiSpaces}
	case 'S':
		return piece{class: spaceRunes, not: true}
	case 'x':
		return piece{char: r.hex(2)}
	case 'u':
		return piece{char: r.unicode()}
	}
	if i := strings.IndexRune("tnvfr", c); i >= 0 {
		return piece{char: rune("\t\n\v\f\r"[i])}
	}
	if c < 0x20 || c > 0x7e || wordRune(c) && c != '-' || c == '_' {
		r.pos--
		r.refuse("this escape is not supported")
	}
	return piece{char: c}
}

func (r *regex) hex(n int) rune {
	if r.pos+n <= len(r.text) {
		if v, err := strconv.ParseUint(string(r.text[r.pos:r.pos+n]), 16, 32); err == nil {
			r.pos += n
			return rune(v)
		}
	}
	r.refuse("%d hexadecimal digits are missing", n)
	return 0
}

// unicode joins surrogates; half a pair stands for no character.
func (r *regex) unicode() rune {
	c := r.hex(4)
	if c >= 0xd800 && c < 0xdc00 && r.take('\\') && r.take('u') {
		if low := r.hex(4); low >= 0xdc00 && low < 0xe000 {
			return 0x10000 + (c-0xd800)<<10 + low - 0xdc00
		}
	}
	if c >= 0xd800 && c < 0xe000 {
		r.refuse("half a surrogate pair")
	}
	return c
}

func (r *regex) classPiece() piece {
	p := piece{not: r.take('^'), class: []runes{}}
	for !r.take(']') {
		p.class = append(p.class, r.classRange()...)
	}
	if len(p.class) == 0 {
		r.refuse("an empty class")
	}
	return p
}

// classRange reads a character, a range, or an escape for many.
func (r *regex) classRange() []runes {
	from := r.classChar()
	if !from.literal() {
		if from.not {
			return complement(from.class)
		}
		return from.class
	}
	if r.peek() != '-' || r.pos+1 < len(r.text) && r.text[r.pos+1] == ']' {
		return []runes{{from.char, from.char}}
	}
	r.pos++
	to := r.classChar()
	if !to.literal() || to.char < from.char {
		r.refuse("a range that is upside down")
	}
	return []runes{{from.char, to.char}}
}

func (r *regex) classChar() piece {
	if !r.more() {
		r.refuse("a class is not closed")
	}
	c := r.text[r.pos]
	r.pos++
	if c != '\\' {
		return piece{char: c}
	}
	if r.take('b') {
		return piece{char: '\b'}
	}
	return r.escape()
}

// complement is every character that is in none of the ranges.
func complement(set []runes) (out []runes) {
	sorted := slices.SortedFunc(slices.Values(set), func(a, b runes) int { return cmp.Compare(a.from, b.from) })
	next := rune(0)
	for _, s := range sorted {
		if s.from > next {
			out = append(out, runes{next, s.from - 1})
		}
		next = max(next, s.to+1)
	}
	if next <= 0x10ffff {
		out = append(out, runes{next, 0x10ffff})
	}
	return out
}

// patternRule writes a pattern as rules.
type patternRule struct {
	*converter
	name string
	path string
	subs map[string]string // rules of what is repeated by count
}

func (c *converter) pattern(n *stringNode, name string) string {
	r := &regex{text: []rune(*n.pattern), path: n.path()}
	branches := r.branches()
	if r.more() {
		r.refuse("a parenthesis is not opened")
	}
	w := &patternRule{c, name, n.path(), map[string]string{}}
	text := w.branches(branches)
	if !r.begins || !r.ends {
		text = "(" + text + ")"
	}
	if !r.begins {
		text = c.builtin("char", "char") + "* " + text
	}
	if !r.ends {
		text += " " + c.builtin("char", "char") + "*"
	}
	return c.add(name, `"\"" (`+text+`) "\""`)
}

func (w *patternRule) branches(all [][]piece) string {
	var alts []string
	for _, seq := range all {
		alts = append(alts, w.sequence(seq))
	}
	return strings.Join(alts, " | ")
}

// sequence joins neighbouring characters to one literal.
func (w *patternRule) sequence(seq []piece) string {
	var parts []string
	var chars strings.Builder
	flush := func() {
		if chars.Len() > 0 {
			parts = append(parts, literal(chars.String()))
			chars.Reset()
		}
	}
	for i := range seq {
		p := &seq[i]
		if p.literal() && !p.repeated {
			chars.WriteString(escapeRune(p.char))
			continue
		}
		flush()
		parts = append(parts, w.repeated(p))
	}
	flush()
	return cmp.Or(strings.Join(parts, " "), `""`)
}

func (w *patternRule) repeated(p *piece) string {
	text := w.once(p)
	switch {
	case !p.repeated:
		return text
	case p.high == 0:
		return `""`
	case p.high <= 1 && p.low <= 1 && (p.low == 0 || p.high < 0):
		return repeat(text, p.low, p.high, "")
	case !p.literal():
		text = w.sub(text)
	}
	return repeat(text, p.low, p.high, "")
}

// sub gives what is repeated by count a rule of its own, so that the count stays small in llama.cpp's reckoning.
func (w *patternRule) sub(text string) string {
	if _, ok := w.subs[text]; !ok {
		w.subs[text] = w.add(fmt.Sprint(w.name, "-", len(w.subs)+1), text)
	}
	return w.subs[text]
}

func (w *patternRule) once(p *piece) string {
	switch {
	case p.dot:
		return w.add("dot", classText(lineRunes, true))
	case p.group != nil:
		return "(" + w.branches(p.group) + ")"
	case p.class == nil:
		return literal(escapeRune(p.char))
	}
	text := classText(p.class, p.not)
	switch {
	case text == "":
		refuse(w.path, "pattern", "a class without characters that JSON can write")
	case strings.Contains(text, " | "):
		text = "(" + text + ")"
	}
	return text
}

// unsafeClass is what JSON cannot have in a string unescaped, and DEL as llama.cpp does, for use inside [^ ].
const unsafeClass = `"\\\x7F\x00-\x1F`

// plain characters stand for themselves in a JSON string.
func plain(r rune) bool { return r >= ' ' && r != '"' && r != '\\' && r != 0x7f }

// classText is a class of characters as JSON writes them: those that stand for themselves, and the escapes of others.
func classText(set []runes, not bool) string {
	var alts []string
	if not {
		alts = append(alts, "[^"+unsafeClass+rangesText(plainParts(set))+"]")
	} else if parts := plainParts(set); len(parts) > 0 {
		alts = append(alts, "["+rangesText(parts)+"]")
	}
	var short []string
	for _, r := range "\"\\\b\f\n\r\t" {
		if contains(set, r) != not {
			short = append(short, literal(shortEscapes[r]))
		}
	}
	return strings.Join(append(alts, short...), " | ")
}

func contains(set []runes, r rune) bool {
	return slices.ContainsFunc(set, func(s runes) bool { return s.from <= r && r <= s.to })
}

// plainParts cuts what is not plain out of ranges.
func plainParts(set []runes) (out []runes) {
	for _, s := range set {
		from := max(s.from, ' ')
		for _, hole := range []rune{'"', '\\', 0x7f} {
			if from <= hole && hole <= s.to {
				if from < hole {
					out = append(out, runes{from, hole - 1})
				}
				from = hole + 1
			}
		}
		if from <= s.to {
			out = append(out, runes{from, s.to})
		}
	}
	return out
}

func rangesText(set []runes) string {
	var b strings.Builder
	for _, s := range set {
		b.WriteString(classRune(s.from))
		if s.to > s.from {
			b.WriteString("-" + classRune(s.to))
		}
	}
	return b.String()
}

// classRune is a character as it stands in a GBNF class.
func classRune(r rune) string {
	switch {
	case strings.ContainsRune(`[]\-"`, r):
		return `\` + string(r)
	case r == '^':
		return `\x5E`
	case r < ' ' || r == 0x7f:
		return fmt.Sprintf(`\x%02X`, r)
	case r > 0xffff && !strconv.IsPrint(r):
		return fmt.Sprintf(`\U%08X`, r)
	case !strconv.IsPrint(r):
		return fmt.Sprintf(`\u%04X`, r)
	}
	return string(r)
}
