package gbnf

import (
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

// schemaWriter makes schemas of what FromSchema supports.
type schemaWriter struct{ *rand.Rand }

func (w schemaWriter) pick(all ...string) string { return all[w.IntN(len(all))] }

func (w schemaWriter) schema(depth int) string {
	if depth == 0 {
		return w.leaf()
	}
	switch w.IntN(6) {
	case 0, 1:
		return w.object(depth)
	case 2:
		low := w.IntN(3)
		return fmt.Sprintf(`{"type":"array","items":%s,"minItems":%d,"maxItems":%d}`, w.schema(depth-1), low, low+w.IntN(3))
	case 3:
		return fmt.Sprintf(`{"anyOf":[%s,%s]}`, w.schema(depth-1), w.schema(depth-1))
	case 4:
		return fmt.Sprintf(`{"type":"array","prefixItems":[%s,%s]}`, w.schema(depth-1), w.schema(depth-1))
	}
	return w.leaf()
}

func (w schemaWriter) object(depth int) string {
	names := []string{"a", "ab", "b c", "é", `q\"`, "", "number", "root", "a_b", "a-b"}
	w.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:w.IntN(5)]
	var properties, required []string
	for _, name := range names {
		properties = append(properties, fmt.Sprintf(`"%s":%s`, name, w.schema(depth-1)))
		if w.IntN(2) == 0 {
			required = append(required, `"`+name+`"`)
		}
	}
	text := fmt.Sprintf(`{"type":"object","properties":{%s},"required":[%s]`, strings.Join(properties, ","), strings.Join(required, ","))
	switch w.IntN(3) {
	case 0:
		text += `,"additionalProperties":false`
	case 1:
		text += `,"additionalProperties":` + w.schema(depth-1)
	}
	return text + "}"
}

func (w schemaWriter) leaf() string {
	switch w.IntN(8) {
	case 0:
		return w.bounds("integer", []string{"-1005", "-100", "-9", "0", "1", "10", "99", "1005"})
	case 1:
		return w.bounds("number", []string{"-10.25", "-1", "-0.5", "0", "0.001", "0.5", "1", "3.14", "100"})
	case 2:
		low := w.IntN(4)
		return fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d}`, low, low+w.IntN(4))
	case 3:
		return w.pick(`{"enum":["a","\"",null,1.50,["x",{"y":"z"}]]}`, `{"const":"é\n"}`, `{"type":["integer","null"]}`)
	case 4:
		return fmt.Sprintf(`{"type":"string","format":"%s"}`, w.pick("uuid", "date", "time", "date-time", "ipv4", "ipv6", "email", "hostname", "duration", "uri"))
	case 5:
		return fmt.Sprintf(`{"type":"string","pattern":"%s"}`, w.pick("^[a-z]{2,4}$", `^(\\d+|x.y)*$`, `\\W`, `^[^\"a-c]+`, `é?\\u00e9$`, `^\\S\\s[\\^\\]\\-]$`))
	}
	return w.pick(`{"type":"boolean"}`, `{"type":"null"}`, `{"type":"string"}`, `{}`, `true`, `{"type":"object"}`, `{"type":"array"}`)
}

func (w schemaWriter) bounds(kind string, values []string) string {
	i := w.IntN(len(values))
	j := i + w.IntN(len(values)-i)
	text := fmt.Sprintf(`{"type":"%s"`, kind)
	if w.IntN(3) > 0 {
		text += fmt.Sprintf(`,"%s":%s`, w.pick("minimum", "exclusiveMinimum"), values[i])
	}
	if w.IntN(3) > 0 {
		text += fmt.Sprintf(`,"%s":%s`, w.pick("maximum", "exclusiveMaximum"), values[j])
	}
	return text + "}"
}

// TestSound: whatever the grammar lets through is JSON and fits the schema.
func TestSound(t *testing.T) {
	made := 0
	for seed := range uint64(800) {
		w := schemaWriter{rand.New(rand.NewPCG(seed, 2))}
		schema := json.RawMessage(w.schema(int(seed % 4)))
		grammar, err := FromSchema(schema)
		if err != nil {
			continue // bounds that leave nothing
		}
		made++
		checkSound(t, schema, grammar, seed)
	}
	if made < 500 {
		t.Errorf("only %d schemas had a grammar", made)
	}
}

func checkSound(t *testing.T, schema json.RawMessage, grammar string, seed uint64) {
	t.Helper()
	v, err := NewValidator(schema)
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	g := grammarOf(t, grammar)
	w := newWriter(g, seed)
	for range 20 {
		text := g.write(w)
		if err := v.Validate(text); err != nil {
			t.Fatalf("%s\nlets through %s\n%v\n%s", schema, text, err, grammar)
		}
	}
}

// TestSoundCases holds llama.cpp's cases to the same.
func TestSoundCases(t *testing.T) {
	for i, v := range vectors(t) {
		if v.Refused || v.Why != "" && v.Ours == "" {
			continue
		}
		grammar, err := FromSchema(json.RawMessage(v.Schema))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(v.Name, func(t *testing.T) { checkSound(t, json.RawMessage(v.Schema), grammar, uint64(i)) })
	}
}

// instances makes values that fit a schema's nodes, in the order of keys that the grammar wants.
type instances struct{ *rand.Rand }

// of is one value as compact JSON; ok is false where this generator knows no way.
func (g instances) of(n node, depth int) (text string, ok bool) {
	switch n := n.(type) {
	case *anyNode:
		return `{"any":[1,"\u00e9",null]}`, true
	case *nullNode:
		return "null", true
	case *boolNode:
		return "true", true
	case *refNode:
		return g.of(n.target, depth)
	case *unionNode:
		return g.of(n.children[g.IntN(len(n.children))], depth)
	case *enumNode:
		return n.values[g.IntN(len(n.values))].dump(), true
	case *numberNode:
		return g.number(n)
	case *stringNode:
		return g.text(n)
	case *arrayNode:
		count := n.min + g.IntN(3)
		if n.max >= 0 {
			count = min(count, n.max)
		}
		return g.list(func(int) node { return n.items }, count, depth)
	case *tupleNode:
		return g.list(func(i int) node { return n.items[i] }, len(n.items), depth)
	case *objectNode:
		return g.object(n, depth)
	}
	return "", false
}

func (g instances) list(item func(int) node, count, depth int) (string, bool) {
	var items []string
	for i := range count {
		text, ok := g.of(item(i), depth+1)
		if !ok {
			return "", false
		}
		items = append(items, text)
	}
	return "[" + strings.Join(items, ",") + "]", true
}

func (g instances) object(n *objectNode, depth int) (string, bool) {
	var members []string
	add := func(name string, n node) bool {
		text, ok := g.of(n, depth+1)
		members = append(members, quote(name)+":"+text)
		return ok
	}
	for _, required := range []bool{true, false} {
		for _, p := range n.properties {
			if p.required == required && (required || g.IntN(2) == 0) && !add(p.name, p.schema) {
				return "", false
			}
		}
	}
	if n.additional != nil && g.IntN(2) == 0 && !add([]string{"zz", "other\"", "x漢"}[g.IntN(3)], n.additional) {
		return "", false
	}
	return "{" + strings.Join(members, ",") + "}", true
}

// number tries numbers of all sizes until one fits.
func (g instances) number(n *numberNode) (string, bool) {
	for range 2000 {
		r := big.NewRat(g.Int64N(40001)-20000, []int64{1, 1, 2, 10, 100, 1000, 10000}[g.IntN(7)])
		low := n.min == nil || r.Cmp(n.min.value) > 0 || r.Cmp(n.min.value) == 0 && !n.min.exclusive
		high := n.max == nil || r.Cmp(n.max.value) < 0 || r.Cmp(n.max.value) == 0 && !n.max.exclusive
		switch {
		case !low || !high || n.integer && !r.IsInt():
		case r.IsInt():
			return r.Num().String(), true
		default:
			return strings.TrimRight(r.FloatString(4), "0"), true
		}
	}
	return "", false
}

func (g instances) text(n *stringNode) (string, bool) {
	if n.pattern != nil || n.format != "" {
		return "", false
	}
	pool := []rune("ab \"\\\n\té漢😀{}[]:,")
	var text []rune
	count := n.min + g.IntN(5)
	if n.max >= 0 {
		count = min(count, n.max)
	}
	for range count {
		text = append(text, pool[g.IntN(len(pool))])
	}
	return quote(string(text)), true
}

// TestComplete: values that fit a schema are matched, written compactly and with the keys in order.
func TestComplete(t *testing.T) {
	made := 0
	for seed := range uint64(1500) {
		w := schemaWriter{rand.New(rand.NewPCG(seed, 3))}
		schema := w.schema(int(seed % 4))
		grammar, err := FromSchema(json.RawMessage(schema))
		if err != nil {
			continue
		}
		root, err := decode([]byte(schema), MaxSize, MaxNesting)
		if err != nil {
			t.Fatal(err)
		}
		p := &parser{root: root, refs: map[string]*refTarget{}}
		n := p.build(root, "#")
		g := grammarOf(t, grammar)
		for range 10 {
			text, ok := instances(w).of(n, 0)
			if !ok {
				continue
			}
			made++
			if !g.match(text) {
				t.Fatalf("%s\ndoes not let through %s\n%s", schema, text, grammar)
			}
		}
	}
	if made < 3000 {
		t.Errorf("only %d values", made)
	}
}

// TestRanges compares ranges of numbers with arithmetic.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 4))
	number := func() *big.Rat {
		return big.NewRat(r.Int64N(4001)-2000, []int64{1, 1, 10, 100, 1000}[r.IntN(5)])
	}
	text := func(x *big.Rat) string {
		if x.IsInt() {
			return x.Num().String()
		}
		return strings.TrimRight(x.FloatString(3), "0")
	}
	for range 400 {
		low, high := number(), number()
		kind := []string{"integer", "number"}[r.IntN(2)]
		schema := fmt.Sprintf(`{"type":"%s","exclusiveMinimum":%s,"maximum":%s}`, kind, text(low), text(high))
		grammar, err := FromSchema(json.RawMessage(schema))
		if err != nil {
			continue
		}
		g := grammarOf(t, grammar)
		for range 50 {
			x := number()
			if r.IntN(5) == 0 {
				x = []*big.Rat{low, high}[r.IntN(2)]
			}
			want := x.Cmp(low) > 0 && x.Cmp(high) <= 0 && (kind == "number" || x.IsInt())
			if g.match(text(x)) != want {
				t.Fatalf("%s: %s is matched: %t\n%s", schema, text(x), !want, grammar)
			}
		}
	}
}
