package gbnf

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Check reads a client's grammar and refuses, with a [*SyntaxError], what llama.cpp would refuse, die of, hang on, or
// silently take for no grammar at all. What it accepts, llama.cpp loads, in memory and time that are bounded by its
// size. How many ways there are to read a text is not bounded by any check: a run needs its deadline.
func Check(grammar string) error {
	return check(grammar, limits{size: MaxSize, rules: MaxRules, alternatives: 2000})
}

func check(grammar string, l limits) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *SyntaxError:
			err = r
		default:
			panic(r)
		}
	}()
	parse(grammar, l)
	return nil
}

// parse reads a grammar and ties names to rules. It panics with a *SyntaxError.
func parse(grammar string, l limits) *reader {
	r := &reader{text: grammar, limits: l, byName: map[string]*rule{}, symbols: map[string]bool{}}
	r.checkText()
	r.grammar()
	r.link()
	r.checkRecursion(r.nullable())
	return r
}

func (r *reader) checkText() {
	if len(r.text) > r.size {
		r.fail(0, "longer than %d bytes", r.size)
	}
	if i := strings.IndexByte(r.text, 0); i >= 0 {
		r.fail(i, "a NUL character")
	}
	for i := 0; i < len(r.text); {
		c, size := utf8.DecodeRuneInString(r.text[i:])
		if c == utf8.RuneError && size == 1 {
			r.fail(i, "not UTF-8")
		}
		i += size
	}
}

func (r *reader) link() {
	for _, def := range r.rules {
		def.body.each(func(it *item) {
			if it.kind != itemName {
				return
			}
			if it.targets = r.byName[it.name]; it.targets == nil {
				r.fail(it.pos, "rule %s is not defined", it.name)
			}
		})
	}
	root := r.byName["root"]
	if root == nil {
		r.fail(0, "rule root is not defined")
	}
	if !r.ends()[root] {
		r.fail(root.pos, "root matches no text that has an end")
	}
}

// each calls f with every item, also those inside others.
func (a alternatives) each(f func(*item)) {
	for _, seq := range a {
		for _, it := range seq {
			for ; it.kind == itemRepeat; it = it.inner {
				f(it)
			}
			f(it)
			it.group.each(f)
		}
	}
}

// fixpoint is the rules of which holds is true, where it may ask for other rules.
func (r *reader) fixpoint(holds func(*item, map[*rule]bool) bool) map[*rule]bool {
	known := map[*rule]bool{}
	users := r.users()
	work := slices.Clone(r.rules)
	for len(work) > 0 {
		def := work[len(work)-1]
		work = work[:len(work)-1]
		if known[def] || !def.body.some(func(it *item) bool { return holds(it, known) }) {
			continue
		}
		known[def] = true
		work = append(work, users[def]...)
	}
	return known
}

// users is which rules name a rule.
func (r *reader) users() map[*rule][]*rule {
	users := map[*rule][]*rule{}
	for _, def := range r.rules {
		def.body.each(func(it *item) {
			if it.targets != nil && !slices.Contains(users[it.targets], def) {
				users[it.targets] = append(users[it.targets], def)
			}
		})
	}
	return users
}

// some says whether holds is true of all items of one alternative.
func (a alternatives) some(holds func(*item) bool) bool {
	return slices.ContainsFunc(a, func(seq sequence) bool {
		return !slices.ContainsFunc(seq, func(it *item) bool { return !holds(it) })
	})
}

// nullable is the rules that match the empty text.
func (r *reader) nullable() map[*rule]bool { return r.fixpoint(nullableItem) }

func nullableItem(it *item, known map[*rule]bool) bool {
	switch it.kind {
	case itemText:
		return len(it.text) == 0
	case itemName:
		return known[it.targets]
	case itemGroup:
		return it.group.some(func(it *item) bool { return nullableItem(it, known) })
	case itemRepeat:
		return it.low == 0 || nullableItem(it.inner, known)
	}
	return false
}

// ends is the rules that match some finite text.
func (r *reader) ends() map[*rule]bool { return r.fixpoint(endingItem) }

func endingItem(it *item, known map[*rule]bool) bool {
	switch it.kind {
	case itemName:
		return known[it.targets]
	case itemGroup:
		return it.group.some(func(it *item) bool { return endingItem(it, known) })
	case itemRepeat:
		return it.low == 0 || endingItem(it.inner, known)
	}
	return true
}

// maxWays bounds in how many ways a rule may begin: llama.cpp walks each of them when it loads a grammar, and
// doubling rules (a ::= b | b) would keep it for ever.
const maxWays = 100_000

// walker looks for left recursion, and counts the ways.
type walker struct {
	*reader
	empty map[*rule]bool
	ways  map[*rule]int // -1 while the rule is being walked
}

func (r *reader) checkRecursion(empty map[*rule]bool) {
	w := &walker{reader: r, empty: empty, ways: map[*rule]int{}}
	total := 0
	for _, def := range r.rules {
		w.checkRepeats(def)
		if total += w.rule(def, def.pos); total > maxWays {
			r.fail(def.pos, "rules can begin in more than %d ways", maxWays)
		}
	}
}

// checkRepeats refuses endless repetitions of nothing: they are left recursion, where llama.cpp writes them out.
func (w *walker) checkRepeats(def *rule) {
	def.body.each(func(it *item) {
		if it.kind == itemRepeat && it.high < 0 && nullableItem(it.inner, w.empty) {
			w.fail(it.pos, "repeats without end what may be empty")
		}
	})
}

func (w *walker) rule(def *rule, pos int) int {
	if n := w.ways[def]; n < 0 {
		w.fail(pos, "rule %s is left-recursive", def.name)
	} else if n > 0 {
		return n
	}
	w.ways[def] = -1
	w.ways[def] = w.alternatives(def.body)
	return w.ways[def]
}

func (w *walker) alternatives(a alternatives) int {
	n := 1
	for _, seq := range a {
		for _, it := range seq {
			n = min(n+w.item(it), maxWays+1)
			if !nullableItem(it, w.empty) {
				break
			}
		}
	}
	return n
}

func (w *walker) item(it *item) int {
	switch it.kind {
	case itemName:
		return w.rule(it.targets, it.pos)
	case itemGroup:
		return w.alternatives(it.group)
	case itemRepeat:
		n := w.item(it.inner)
		if nullableItem(it.inner, w.empty) {
			n *= max(1, it.high, it.low)
		}
		return min(n, maxWays) + 1
	}
	return 1
}
