package gbnf

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A grammar as a tree, read as llama.cpp v0.5.0 reads it (src/llama-grammar.cpp), with every reckoning that llama.cpp
// makes while reading.
type (
	rule struct {
		name string
		pos  int
		body alternatives
	}
	alternatives []sequence
	sequence     []*item

	// item is one of: text, a class of characters, a rule's name, a group; and how often it comes.
	item struct {
		kind    itemKind
		pos     int
		text    []rune
		class   []runes
		not     bool
		name    string
		group   alternatives
		inner   *item // of a repetition
		low     int
		high    int // -1 without end
		targets *rule
	}
	itemKind uint8
)

const (
	itemText itemKind = iota
	itemClass
	itemName
	itemGroup
	itemRepeat
)

// limits bound a grammar.
type limits struct{ size, rules, alternatives int }

// maxElements bounds what llama.cpp makes of a grammar: it writes repetitions out, 8 bytes an element.
const maxElements = 200_000

// llamaRepeats is llama.cpp's own bound on rules times repetitions.
const llamaRepeats = 2000

// reader parses a grammar. Mistakes travel as panics of *SyntaxError, caught in check.
type reader struct {
	text  string
	pos   int
	depth int
	limits
	rules        []*rule
	byName       map[string]*rule
	elements     int
	alternatives int
	// symbols counts names as llama.cpp does: a repetition of a group costs as many rules as were new in it.
	symbols map[string]bool
	made    int // rules that llama.cpp makes for groups and repetitions
}

func (r *reader) fail(pos int, format string, args ...any) {
	before := r.text[:min(pos, len(r.text))]
	line := before[strings.LastIndexByte(before, '\n')+1:]
	panic(&SyntaxError{
		Line: strings.Count(before, "\n") + 1, Column: utf8.RuneCountInString(line) + 1,
		Reason: fmt.Sprintf(format, args...),
	})
}

// peek is the next byte; 0 is the end, since NUL itself is refused.
func (r *reader) peek() byte { return r.byteAt(r.pos) }

func (r *reader) byteAt(i int) byte {
	if i < len(r.text) {
		return r.text[i]
	}
	return 0
}

// space skips blanks and comments, and newlines where they do not end a rule.
func (r *reader) space(newlines bool) {
	for {
		switch c := r.peek(); {
		case c == ' ' || c == '\t', newlines && (c == '\n' || c == '\r'):
			r.pos++
		case c == '#':
			for r.peek() != 0 && r.peek() != '\n' && r.peek() != '\r' {
				r.pos++
			}
		default:
			return
		}
	}
}

func (r *reader) name() string {
	start := r.pos
	for wordRune(rune(r.peek())) {
		r.pos++
	}
	if start == r.pos {
		r.fail(start, "a rule's name (letters, digits, -) is missing")
	}
	r.symbols[r.text[start:r.pos]] = true
	return r.text[start:r.pos]
}

func (r *reader) grammar() {
	r.space(true)
	for r.peek() != 0 {
		r.rule()
	}
	if len(r.rules) == 0 {
		r.fail(0, "no rule")
	}
}

func (r *reader) rule() {
	def := &rule{pos: r.pos}
	def.name = r.name()
	r.space(false)
	if !strings.HasPrefix(r.text[r.pos:], "::=") {
		r.fail(r.pos, "::= is missing after %s", def.name)
	}
	r.pos += len("::=")
	r.space(true)
	def.body = r.alternates(def.name, false)
	if c := r.peek(); c != 0 && c != '\n' && c != '\r' {
		r.fail(r.pos, "%q is not expected here", r.text[r.pos:r.pos+1])
	}
	r.define(def)
	r.space(true)
}

func (r *reader) define(def *rule) {
	if r.byName[def.name] != nil {
		r.fail(def.pos, "rule %s stands twice", def.name)
	}
	if len(r.rules) == r.limits.rules {
		r.fail(def.pos, "more than %d rules", r.limits.rules)
	}
	r.byName[def.name] = def
	r.rules = append(r.rules, def)
}

func (r *reader) alternates(owner string, nested bool) (all alternatives) {
	for {
		if r.alternatives++; r.alternatives > r.limits.alternatives {
			r.fail(r.pos, "more than %d alternatives", r.limits.alternatives)
		}
		all = append(all, r.sequence(owner, nested))
		r.grow(1)
		if r.peek() != '|' {
			return all
		}
		r.pos++
		r.space(true)
	}
}

// grow counts what llama.cpp will hold in memory.
func (r *reader) grow(n int) {
	if r.elements += n; r.elements > maxElements {
		r.fail(r.pos, "too large when its repetitions are written out")
	}
}

// last is what the next repetition repeats: its elements, and its rules in llama.cpp's reckoning.
type last struct{ elements, rules int }

func (r *reader) sequence(owner string, nested bool) (seq sequence) {
	var prev last
	for {
		start := r.pos
		it, size := r.item(owner)
		if it != nil {
			seq, prev = append(seq, it), size
			r.grow(size.elements)
		} else if low, high, ok := r.repetition(nested); ok {
			prev = r.repeats(start, prev, low, high)
			inner := seq[len(seq)-1]
			seq[len(seq)-1] = &item{kind: itemRepeat, pos: start, inner: inner, low: low, high: high}
		} else {
			return seq
		}
		r.space(nested)
	}
}

// item reads one thing that can be repeated, if one stands here.
func (r *reader) item(owner string) (*item, last) {
	switch c := r.peek(); {
	case c == '"':
		it := r.literal()
		return it, last{len(it.text), 1}
	case c == '[':
		return r.class()
	case c == '(':
		return r.parenthesis(owner)
	case c == '.':
		r.pos++
		return &item{kind: itemClass, pos: r.pos - 1, not: true}, last{1, 1}
	case wordRune(rune(c)):
		it := &item{kind: itemName, pos: r.pos}
		it.name = r.name()
		return it, last{1, 1}
	case c == '<' || c == '!':
		r.fail(r.pos, "tokens are not supported: write their text")
	}
	return nil, last{}
}

func (r *reader) literal() *item {
	it := &item{kind: itemText, pos: r.pos}
	for r.pos++; r.peek() != '"'; {
		it.text = append(it.text, r.char())
	}
	r.pos++
	return it
}

func (r *reader) class() (*item, last) {
	it, elements := &item{kind: itemClass, pos: r.pos}, 0
	r.pos++
	if r.peek() == '^' {
		it.not = true
		r.pos++
	}
	for r.peek() != ']' {
		start := r.pos
		one := runes{from: r.char()}
		one.to = one.from
		if r.peek() == '-' && r.byteAt(r.pos+1) != ']' {
			r.pos++
			one.to = r.char()
			elements++
		}
		if one.to < one.from {
			r.fail(start, "a range that is upside down")
		}
		elements++
		it.class = append(it.class, one)
	}
	if r.pos++; elements == 0 {
		r.fail(it.pos, "an empty class")
	}
	return it, last{elements, 1}
}

func (r *reader) parenthesis(owner string) (*item, last) {
	it, before := &item{kind: itemGroup, pos: r.pos}, len(r.symbols)+r.made
	if r.depth++; r.depth > MaxNesting {
		r.fail(r.pos, "nested deeper than %d", MaxNesting)
	}
	r.made++
	r.pos++
	r.space(true)
	it.group = r.alternates(owner, true)
	if r.peek() != ')' {
		r.fail(r.pos, "the parenthesis at character %d of the text is not closed", it.pos+1)
	}
	r.pos++
	r.depth--
	return it, last{1, max(1, len(r.symbols)+r.made-before)}
}

// char reads one character of a literal or a class.
func (r *reader) char() rune {
	c, size := utf8.DecodeRuneInString(r.text[r.pos:])
	switch {
	case size == 0:
		r.fail(r.pos, "the text ends inside quotes or brackets")
	case c != '\\':
		r.pos += size
		return c
	}
	next := r.byteAt(r.pos + 1)
	r.pos += 2
	switch next {
	case 't':
		return '\t'
	case 'r':
		return '\r'
	case 'n':
		return '\n'
	case '\\', '"', '[', ']', '-':
		return rune(next)
	case 'x':
		return r.hex(2)
	case 'u':
		return r.hex(4)
	case 'U':
		return r.hex(8)
	}
	r.fail(r.pos-2, "this escape is not known")
	return 0
}

func (r *reader) hex(n int) rune {
	digits := r.text[r.pos:min(r.pos+n, len(r.text))]
	v, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || len(digits) < n || v > utf8.MaxRune {
		r.fail(r.pos-2, "%d hexadecimal digits of a character are missing", n)
	}
	r.pos += n
	return rune(v)
}

// repetition reads *, +, ? or {…}, if one stands here.
func (r *reader) repetition(nested bool) (low, high int, ok bool) {
	c := r.peek()
	switch c {
	case '*':
		high = -1
	case '+':
		low, high = 1, -1
	case '?':
		high = 1
	case '{':
		low, high = r.braces(nested)
		return low, high, true
	default:
		return 0, 0, false
	}
	r.pos++
	return low, high, true
}

func (r *reader) braces(nested bool) (low, high int) {
	start := r.pos
	r.pos++
	r.space(nested)
	low = r.count()
	r.space(nested)
	high = low
	if r.peek() == ',' {
		r.pos++
		r.space(nested)
		high = -1
		if c := r.peek(); c >= '0' && c <= '9' {
			high = r.count()
		}
		r.space(nested)
	}
	if r.peek() != '}' {
		r.fail(r.pos, "} is missing")
	}
	r.pos++
	if high >= 0 && low > high {
		r.fail(start, "{%d,%d} is upside down", low, high)
	}
	return low, high
}

func (r *reader) count() int {
	start := r.pos
	for c := r.peek(); c >= '0' && c <= '9'; c = r.peek() {
		r.pos++
	}
	n, err := strconv.ParseUint(r.text[start:r.pos], 10, 16)
	if err != nil || n > MaxRepeat {
		r.fail(start, "a count from 0 to %d is missing", MaxRepeat)
	}
	return int(n)
}

// repeats is what a repetition makes of what stands before it: llama.cpp writes it out low times, then a rule for
// each time that may follow.
func (r *reader) repeats(pos int, prev last, low, high int) last {
	if prev.elements == 0 {
		r.fail(pos, "nothing to repeat")
	}
	times := max(1, low)
	optional := 1
	if high >= 0 {
		times, optional = max(1, high), high-low
		if high == 0 {
			times = 1
		}
	}
	if prev.rules*times > llamaRepeats {
		r.fail(pos, "repeats too much")
	}
	now := prev.elements * low
	r.grow(max(0, now-prev.elements) + optional*(prev.elements+3))
	r.made += optional
	if optional > 0 {
		now++
		r.grow(1)
	}
	return last{now, prev.rules * times}
}
