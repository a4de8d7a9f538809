package gbnf

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// grammarOf parses a grammar that must be good.
func grammarOf(t *testing.T, text string) *reader {
	t.Helper()
	if err := check(text, limits{maxGrammar, maxSchemaRules, maxSchemaRules}); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return parse(text, limits{maxGrammar, maxSchemaRules, maxSchemaRules})
}

// matcher tells whether a grammar's root matches a text, by the sets of places where each rule can end.
type matcher struct {
	text []rune
	memo map[memoKey][]int
}

type memoKey struct {
	def *rule
	pos int
}

func (r *reader) match(text string) bool {
	m := &matcher{[]rune(text), map[memoKey][]int{}}
	return slices.Contains(m.rule(r.byName["root"], 0), len(m.text))
}

func (m *matcher) rule(def *rule, pos int) []int {
	key := memoKey{def, pos}
	if _, ok := m.memo[key]; !ok {
		m.memo[key] = m.alternatives(def.body, pos)
	}
	return m.memo[key]
}

func (m *matcher) alternatives(a alternatives, pos int) (ends []int) {
	for _, seq := range a {
		at := []int{pos}
		for _, it := range seq {
			at = m.each(at, it)
		}
		ends = append(ends, at...)
	}
	return unique(ends)
}

func unique(set []int) []int {
	slices.Sort(set)
	return slices.Compact(set)
}

func (m *matcher) each(at []int, it *item) (ends []int) {
	for _, pos := range at {
		ends = append(ends, m.item(it, pos)...)
	}
	return unique(ends)
}

func (m *matcher) item(it *item, pos int) []int {
	switch it.kind {
	case itemText:
		if len(m.text)-pos >= len(it.text) && slices.Equal(m.text[pos:pos+len(it.text)], it.text) {
			return []int{pos + len(it.text)}
		}
		return nil
	case itemClass:
		if pos < len(m.text) && contains(it.class, m.text[pos]) != it.not {
			return []int{pos + 1}
		}
		return nil
	case itemName:
		return m.rule(it.targets, pos)
	case itemGroup:
		return m.alternatives(it.group, pos)
	}
	return m.repeat(it, pos)
}

func (m *matcher) repeat(it *item, pos int) (ends []int) {
	at := []int{pos}
	for n := 0; len(at) > 0; n++ {
		if n >= it.low {
			grown := unique(append(slices.Clone(ends), at...))
			if len(grown) == len(ends) {
				break
			}
			ends = grown
		}
		if n == it.high {
			break
		}
		at = m.each(at, it.inner)
	}
	return ends
}

// writer makes texts that a grammar matches.
type writer struct {
	*rand.Rand
	strings.Builder
	heights map[*rule]int
}

func newWriter(r *reader, seed uint64) *writer {
	w := &writer{Rand: rand.New(rand.NewPCG(seed, 1)), heights: map[*rule]int{}}
	for changed := true; changed; {
		changed = false
		for _, def := range r.rules {
			if h := w.height(def.body); h < endless && (w.heights[def] == 0 || h+1 < w.heights[def]) {
				w.heights[def] = h + 1
				changed = true
			}
		}
	}
	return w
}

const endless = 1 << 30

// height is how many rules deep the shortest way through is.
func (w *writer) height(a alternatives) int {
	best := endless
	for _, seq := range a {
		best = min(best, w.seqHeight(seq))
	}
	return best
}

func (w *writer) seqHeight(seq sequence) (h int) {
	for _, it := range seq {
		h = max(h, w.itemHeight(it))
	}
	return h
}

func (w *writer) itemHeight(it *item) int {
	switch {
	case it.kind == itemRepeat && it.low == 0:
		return 0
	case it.kind == itemRepeat:
		return w.itemHeight(it.inner)
	case it.kind == itemGroup:
		return w.height(it.group)
	case it.kind == itemName && w.heights[it.targets] == 0:
		return endless
	case it.kind == itemName:
		return w.heights[it.targets]
	}
	return 0
}

// write makes one text.
func (r *reader) write(w *writer) string {
	w.Reset()
	w.alternatives(r.byName["root"].body, 0)
	return w.String()
}

const deep = 12

func (w *writer) alternatives(a alternatives, depth int) {
	seq := a[w.IntN(len(a))]
	if depth > deep {
		seq = slices.MinFunc(a, func(x, y sequence) int { return w.seqHeight(x) - w.seqHeight(y) })
	}
	for _, it := range seq {
		w.item(it, depth)
	}
}

func (w *writer) item(it *item, depth int) {
	switch it.kind {
	case itemText:
		w.WriteString(string(it.text))
	case itemClass:
		w.WriteRune(w.rune(it))
	case itemName:
		w.alternatives(it.targets.body, depth+1)
	case itemGroup:
		w.alternatives(it.group, depth)
	case itemRepeat:
		for range it.low + w.more(it, depth) {
			w.item(it.inner, depth)
		}
	}
}

func (w *writer) more(it *item, depth int) int {
	n := w.IntN(4)
	if it.high >= 0 {
		n = min(n, it.high-it.low)
		if w.IntN(8) == 0 {
			n = it.high - it.low
		}
	}
	if depth > deep {
		return 0
	}
	return n
}

// rune picks one that the class has.
func (w *writer) rune(it *item) rune {
	if !it.not {
		one := it.class[w.IntN(len(it.class))]
		return one.from + w.Int32N(one.to-one.from+1)
	}
	for {
		pool := []rune("aZbc09 _-.\"\\/\n\r\t\x00\x7f]^é漢😀\u2028\u00a0")
		if c := pool[w.IntN(len(pool))]; !contains(it.class, c) {
			return c
		}
	}
}

// TestDates compares the grammar of dates with the calendar.
func TestDates(t *testing.T) {
	grammar, err := FromSchema(json.RawMessage(`{"type":"string","format":"date"}`))
	if err != nil {
		t.Fatal(err)
	}
	g := grammarOf(t, grammar)
	for _, year := range []int{0, 4, 100, 400, 1896, 1900, 1999, 2000, 2023, 2024, 2100, 9996} {
		for month := range 14 {
			for day := range 33 {
				text := fmt.Sprintf("%04d-%02d-%02d", year, month, day)
				_, err := time.Parse(time.DateOnly, text)
				if got := g.match(quote(text)); got != (err == nil) {
					t.Errorf("%s is matched: %t", text, got)
				}
			}
		}
	}
}

// TestCharacters wants escapes to be whole characters.
func TestCharacters(t *testing.T) {
	grammar, err := FromSchema(json.RawMessage(`{"type":"string","minLength":1,"maxLength":1}`))
	if err != nil {
		t.Fatal(err)
	}
	g := grammarOf(t, grammar)
	for text, want := range map[string]bool{
		`"a"`: true, `"😀"`: true, `"\n"`: true, `"\u0041"`: true, `"\ud7ff"`: true, `"\uE000"`: true, `"\ud83d\ude00"`: true,
		`"\ud83d"`: false, `"\ude00"`: false, `"\ud83d\u0041"`: false, `"\ude00\ud83d"`: false, `"ab"`: false, `""`: false,
	} {
		if got := g.match(text); got != want {
			t.Errorf("%s is matched: %t", text, got)
		}
	}
}
