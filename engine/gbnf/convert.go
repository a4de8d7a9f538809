package gbnf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Limits on what one schema may become.
const (
	maxGrammar     = 512 << 10
	maxSchemaRules = 8000
)

// FromSchema turns a JSON schema into a grammar with the rule root. Properties come in the schema's order, so the
// order in which a client wrote them counts. Every error is an [*Unsupported]; its cost is bounded by the schema's size.
func FromSchema(schema json.RawMessage) (grammar string, err error) {
	root, err := decode(schema, MaxSize, MaxNesting)
	if err != nil {
		return "", &Unsupported{Path: "#", Reason: err.Error()}
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Unsupported:
			grammar, err = "", r
		default:
			panic(r)
		}
	}()
	return convert(root), nil
}

func convert(root *value) string {
	p := &parser{root: root, refs: map[string]*refTarget{}}
	n := p.build(root, "#")
	p.link()
	c := &converter{
		rules: map[string]string{}, keys: map[string]string{}, next: map[string]int{},
		refs: map[string]string{"#": "root"},
	}
	c.add("space", spaceRule)
	c.visit(n, "")
	grammar := c.grammar()
	if err := check(grammar, limits{size: maxGrammar, rules: maxSchemaRules, alternatives: maxSchemaRules}); err != nil {
		refuse("#", "", "llama.cpp would not take its grammar: %v", err)
	}
	return grammar
}

// spaceRule lets a model lay its answer out, but not print blanks for ever.
const spaceRule = `| " " | "\n"{1,2} [ \t]{0,20}`

// charRule is one character of a string. Half a character beyond U+FFFF is none: its two escapes come together.
const charRule = `[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] ([0-7] [0-9a-fA-F]{2} | [89abAB] [0-9a-fA-F]{2} "\\u" [dD] [c-fC-F] [0-9a-fA-F]{2})))`

// builtin is a rule that schemas share, with the rules that it names.
type builtin struct {
	content string
	deps    []string
}

var builtins = map[string]builtin{
	"boolean":       {`("true" | "false")`, nil},
	"decimal-part":  {`[0-9]{1,16}`, nil},
	"integral-part": {`[0] | [1-9] [0-9]{0,15}`, nil},
	"number":        {`("-"? integral-part) ("." decimal-part)? ([eE] [-+]? [0-9]{1,2})?`, []string{"integral-part", "decimal-part"}},
	"integer":       {`("-"? integral-part)`, []string{"integral-part"}},
	"value":         {`object | array | string | number | boolean | null`, []string{"object", "array", "string", "number", "boolean", "null"}},
	"object":        {`"{" space ( string ":" space value ("," space string ":" space value)* )? space "}"`, []string{"string", "value"}},
	"array":         {`"[" space ( value ("," space value)* )? space "]"`, []string{"value"}},
	"uuid":          {`"\"" [0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12} "\""`, nil},
	"char":          {charRule, nil},
	"string":        {`"\"" char* "\""`, []string{"char"}},
	"null":          {`"null"`, nil},

	"date":             {`[0-9]{4} "-" day | leap-year "-02-29"`, []string{"day", "leap-year"}},
	"day":              {`"02-" day-28 | ( "0" [469] | "11" ) "-" ( day-28 | "29" | "30" ) | ( "0" [13578] | "1" [02] ) "-" ( day-28 | "29" | "3" [01] )`, []string{"day-28"}},
	"day-28":           {`"0" [1-9] | "1" [0-9] | "2" [0-8]`, nil},
	"leap-year":        {`[0-9]{2} ( "0" [48] | [2468] [048] | [13579] [26] ) | ( [02468] [048] | [13579] [26] ) "00"`, nil},
	"time":             {`([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? ( "Z" | ( "+" | "-" ) ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )`, nil},
	"date-time":        {`date "T" time`, []string{"date", "time"}},
	"date-string":      {`"\"" date "\""`, []string{"date"}},
	"time-string":      {`"\"" time "\""`, []string{"time"}},
	"date-time-string": {`"\"" date-time "\""`, []string{"date-time"}},

	// These are ours. Each is narrower than its standard, and holds what people write.
	"byte":            {`[0-9] | [1-9] [0-9] | "1" [0-9] [0-9] | "2" [0-4] [0-9] | "25" [0-5]`, nil},
	"label":           {`[a-zA-Z0-9] ([a-zA-Z0-9-]{0,20} [a-zA-Z0-9])?`, nil},
	"host":            {`label ("." label){0,7}`, []string{"label"}},
	"duration-time":   {`"T" ([0-9]{1,4} "H" ([0-9]{1,4} "M" ([0-9]{1,4} "S")?)? | [0-9]{1,4} "M" ([0-9]{1,4} "S")? | [0-9]{1,4} "S")`, nil},
	"duration-date":   {`[0-9]{1,4} "Y" ([0-9]{1,4} "M" ([0-9]{1,4} "D")?)? | [0-9]{1,4} "M" ([0-9]{1,4} "D")? | [0-9]{1,4} "D"`, nil},
	"ipv4-string":     {`"\"" byte "." byte "." byte "." byte "\""`, []string{"byte"}},
	"ipv6-string":     {`"\"" [0-9a-fA-F]{1,4} (":" [0-9a-fA-F]{1,4}){7} "\""`, nil},
	"hostname-string": {`"\"" host "\""`, []string{"host"}},
	"email-string":    {`"\"" [a-zA-Z0-9_+-]{1,20} ("." [a-zA-Z0-9_+-]{1,20}){0,2} "@" host "\""`, []string{"host"}},
	"uri-string":      {`"\"http" "s"? "://" host (":" [1-9] [0-9]{0,3})? ("/" [a-zA-Z0-9._~-]*)* ("?" [a-zA-Z0-9._~=&/-]*)? ("#" [a-zA-Z0-9._~=&/-]*)? "\""`, []string{"host"}},
	"duration-string": {`"\"P" (duration-date duration-time? | duration-time | [0-9]{1,4} "W") "\""`, []string{"duration-date", "duration-time"}},
}

// formats is the rule for each format of strings.
var formats = map[string]string{
	"date": "date-string", "time": "time-string", "date-time": "date-time-string",
	"uuid": "uuid", "uuid1": "uuid", "uuid2": "uuid", "uuid3": "uuid", "uuid4": "uuid", "uuid5": "uuid",
	"ipv4": "ipv4-string", "ipv6": "ipv6-string", "hostname": "hostname-string", "email": "email-string",
	"uri": "uri-string", "duration": "duration-string",
}

// converter collects rules.
type converter struct {
	rules map[string]string
	// keys is the name of each rule by wanted name and text: asking twice makes one rule.
	keys map[string]string
	// next is the number to try first after a name that is taken.
	next map[string]int
	// refs is the rule of each $ref, reserved before it is made.
	refs map[string]string
	// merges is how many allOf stand in each other just now.
	merges int
	size   int
}

// ruleName is name in the characters that llama.cpp allows: runs of others become one "-".
func ruleName(name string) string {
	var b strings.Builder
	other := false
	for _, r := range name {
		valid := wordRune(r)
		if valid {
			b.WriteRune(r)
		} else if !other {
			b.WriteByte('-')
		}
		other = !valid
	}
	return b.String()
}

func wordRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
}

// add makes a rule and returns its name: the one asked for, or with a number where that is another rule's.
func (c *converter) add(name, text string) string {
	name = ruleName(name)
	if had, ok := c.keys[name+"\n"+text]; ok {
		return had
	}
	free := name
	for _, taken := c.rules[free]; taken; _, taken = c.rules[free] {
		free = fmt.Sprint(name, c.next[name])
		c.next[name]++
	}
	c.keys[name+"\n"+text] = free
	c.rules[free] = text
	if c.size += len(free) + len(text) + len(" ::= \n"); c.size > maxGrammar || len(c.rules) > maxSchemaRules {
		refuse("#", "", "its grammar has more than %d rules or %d bytes", maxSchemaRules, maxGrammar)
	}
	return free
}

// builtin adds a shared rule, and those that it names, under name.
func (c *converter) builtin(name, rule string) string {
	b := builtins[rule]
	got := c.add(name, b.content)
	for _, dep := range b.deps {
		if _, ok := c.rules[dep]; !ok {
			c.builtin(dep, dep)
		}
	}
	return got
}

// primitive is the shared rule of a type. At the root it is the root.
func (c *converter) primitive(name, rule string) string {
	if name == "root" {
		return c.builtin("root", rule)
	}
	return c.builtin(rule, rule)
}

func (c *converter) grammar() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.rules)) {
		b.WriteString(name + " ::= " + c.rules[name] + "\n")
	}
	return b.String()
}

// under is the name of a part of name.
func under(name, part string) string {
	if name == "" {
		return part
	}
	return name + "-" + part
}

// reserved names belong to shared rules, and root to the whole.
func reserved(name string) bool {
	_, ok := builtins[name]
	return ok || name == "root"
}

// visit makes the rules of a node and returns the name of the first. The empty name is the root's.
func (c *converter) visit(n node, name string) string {
	rule := name
	switch {
	case name == "":
		rule = "root"
	case reserved(ruleName(name)):
		rule = name + "-"
	}
	switch n := n.(type) {
	case *refNode:
		return c.add(rule, c.resolve(n))
	case *unionNode:
		return c.add(rule, c.union(n, name))
	case *allNode:
		return c.all(n, name, rule)
	case *enumNode:
		return c.add(rule, n.rule())
	case *objectNode:
		return c.object(n, name, rule)
	case *tupleNode:
		return c.add(rule, c.tuple(n, name))
	case *arrayNode:
		return c.array(n, name, rule)
	case *stringNode:
		return c.text(n, rule)
	case *numberNode:
		return c.number(n, rule)
	case *boolNode:
		return c.primitive(rule, "boolean")
	case *nullNode:
		return c.primitive(rule, "null")
	}
	return c.add(rule, c.builtin("value", "value"))
}

// resolve is the rule of a ref's target. Its name is reserved first, so that a cycle finds it.
func (c *converter) resolve(n *refNode) string {
	if name, ok := c.refs[n.ref]; ok {
		return name
	}
	name := c.reserve("ref" + strings.TrimPrefix(n.ref, "#"))
	c.refs[n.ref] = name
	got := c.visit(n.target, name)
	if _, taken := c.rules[name]; taken && got != name {
		refuse(n.path(), "$ref", "the rule's name is taken by a property called %q", name)
	}
	c.refs[n.ref] = got
	return got
}

// reserve is a rule name that no rule and no other ref has.
func (c *converter) reserve(name string) string {
	name = ruleName(name)
	taken := func(name string) bool {
		_, ok := c.rules[name]
		return ok || reserved(name) || slices.Contains(slices.Collect(maps.Values(c.refs)), name)
	}
	free := name
	for i := 0; taken(free); i++ {
		free = fmt.Sprint(name, "-", i)
	}
	return free
}

func (c *converter) union(n *unionNode, name string) string {
	if name == "" {
		name = "alternative"
	}
	var alts []string
	for i, child := range n.children {
		alts = append(alts, c.visit(child, fmt.Sprint(name, "-", i)))
	}
	return strings.Join(alts, " | ")
}

func (n *enumNode) rule() string {
	if n.single {
		return literal(n.values[0].dump())
	}
	var alts []string
	for _, v := range n.values {
		alts = append(alts, literal(v.dump()))
	}
	return "(" + strings.Join(alts, " | ") + ")"
}

var literalEscapes = strings.NewReplacer("\r", `\r`, "\n", `\n`, `"`, `\"`, `\`, `\\`)

// literal is text as a GBNF literal.
func literal(text string) string { return `"` + literalEscapes.Replace(text) + `"` }

func (c *converter) tuple(n *tupleNode, name string) string {
	var items []string
	for i, item := range n.items {
		items = append(items, c.visit(item, under(name, fmt.Sprint("tuple-", i))))
	}
	return `"[" space ` + strings.Join(items, ` "," space `) + ` space "]"`
}

func (c *converter) array(n *arrayNode, name, rule string) string {
	if _, any := n.items.(*anyNode); any && n.min == 0 && n.max < 0 {
		return c.primitive(rule, "array")
	}
	item := c.visit(n.items, under(name, "item"))
	return c.add(rule, `"[" space `+repeat(item, n.min, n.max, `"," space`)+` space "]"`)
}

// repeat is item so many times, with a separator between; high -1 is without end.
func repeat(item string, low, high int, separator string) string {
	switch {
	case high == 0:
		return ""
	case low == 0 && high == 1:
		return item + "?"
	case separator != "":
		return separated(item, low, high, separator)
	case low == 1 && high < 0:
		return item + "+"
	case low == 0 && high < 0:
		return item + "*"
	case high < 0:
		return fmt.Sprintf("%s{%d,}", item, low)
	}
	return fmt.Sprintf("%s{%d,%d}", item, low, high)
}

func separated(item string, low, high int, separator string) string {
	list := item + " " + repeat("("+separator+" "+item+")", max(low-1, 0), max(high-1, min(high, 0)), "")
	if low == 0 {
		return "(" + list + ")?"
	}
	return list
}

func (c *converter) text(n *stringNode, rule string) string {
	switch {
	case n.pattern != nil:
		return c.pattern(n, rule)
	case formats[n.format] == "uuid":
		return c.primitive(rule, "uuid")
	case n.format != "":
		return c.add(rule, c.builtin(formats[n.format], formats[n.format]))
	case n.min > 0 || n.max >= 0:
		return c.add(rule, `"\"" `+repeat(c.builtin("char", "char"), n.min, n.max, "")+` "\""`)
	}
	return c.primitive(rule, "string")
}

func (c *converter) number(n *numberNode, rule string) string {
	switch {
	case n.integer && n.min == nil && n.max == nil:
		return c.primitive(rule, "integer")
	case n.integer:
		return c.add(rule, "("+n.integers()+")")
	case n.bounded:
		return c.add(rule, "("+n.decimals()+")")
	}
	return c.primitive(rule, "number")
}

func (c *converter) object(n *objectNode, name, rule string) string {
	if _, any := n.additional.(*anyNode); any && len(n.properties) == 0 {
		return c.add(rule, c.builtin("object", "object"))
	}
	return c.add(rule, c.members(n.properties, n.additional, name))
}

// choice is a member that may be left out; many may come more than once.
type choice struct {
	part, rule string
	many       bool
}

// members is the rule of an object: what is required first, then any of the rest, all in order.
func (c *converter) members(properties []property, additional node, name string) string {
	var required []string
	var optional []choice
	for _, p := range properties {
		part := cmp.Or(p.name, "empty")
		rule := c.member(p, under(name, part))
		if p.required {
			required = append(required, rule)
		} else {
			optional = append(optional, choice{part: part, rule: rule})
		}
	}
	if additional != nil {
		optional = append(optional, choice{rule: c.others(properties, additional, under(name, "additional")), many: true})
	}
	return joinMembers(required, c.anyOf(optional, name))
}

func (c *converter) member(p property, name string) string {
	schema := c.visit(p.schema, name)
	return c.add(name+"-kv", literal(quote(p.name))+` space ":" space `+schema)
}

// others is the rule of one additional property, with a key that is none of the named ones.
func (c *converter) others(properties []property, additional node, name string) string {
	value := "value"
	if _, any := additional.(*anyNode); any {
		c.builtin(value, value)
	} else {
		value = c.visit(additional, name+"-value")
	}
	var key string
	if len(properties) > 0 {
		key = c.add(name+"-k", c.otherKeys(properties))
	} else {
		key = c.builtin("string", "string")
	}
	return c.add(name+"-kv", key+` ":" space `+value)
}

const comma = `"," space `

// anyOf is the ways to write some of the choices: one alternative for each that may come first, and a rule for what
// may follow it.
func (c *converter) anyOf(choices []choice, name string) (alts []string) {
	alts = make([]string, len(choices))
	tail := ""
	for i, o := range slices.Backward(choices) {
		again := "( " + comma + o.rule + " )"
		rest := ""
		if i < len(choices)-1 {
			rest = " " + c.add(under(name, o.part+"-rest"), tail)
		}
		if o.many {
			alts[i], tail = o.rule+" "+again+"*", again+"*"
			continue
		}
		alts[i], tail = o.rule+rest, again+"?"+rest
	}
	return alts
}

func joinMembers(required, optional []string) string {
	rule := `"{" space ` + strings.Join(required, " "+comma)
	alts := strings.Join(optional, " | ")
	switch {
	case len(required) == 0 && len(optional) == 0:
		return `"{" space "}"`
	case len(optional) == 0:
	case len(required) == 0:
		rule += " (" + alts + " )?"
	default:
		rule += " ( " + comma + "( " + alts + " ) )?"
	}
	return rule + ` space "}"`
}

// trie is a set of words by their first characters.
type trie struct {
	next map[rune]*trie
	word bool
}

func (t *trie) insert(word string) {
	for _, r := range word {
		if t.next == nil {
			t.next = map[rune]*trie{}
		}
		if t.next[r] == nil {
			t.next[r] = &trie{}
		}
		t = t.next[r]
	}
	t.word = true
}

// otherKeys is the rule of a JSON string that is none of the properties' names. Up to where it differs from all of
// them it has no escapes, since an escape could spell a name.
func (c *converter) otherKeys(properties []property) string {
	c.builtin("char", "char")
	names := &trie{}
	for _, p := range properties {
		names.insert(p.name)
	}
	var b strings.Builder
	b.WriteString(`["] ( `)
	names.exclude(&b, 0)
	b.WriteString(" )")
	if !names.word {
		b.WriteString("?")
	}
	return b.String() + ` ["]`
}

// maxKeyDepth is how many characters a key may share with a name: each costs a level of nesting.
const maxKeyDepth = MaxNesting - 8

// exclude writes what may follow here: a character that leads to a name, or any other.
func (t *trie) exclude(b *strings.Builder, depth int) {
	var rejects strings.Builder
	for _, r := range slices.Sorted(maps.Keys(t.next)) {
		class := classRune(r)
		rejects.WriteString(class)
		if !plain(r) || depth == maxKeyDepth {
			continue
		}
		b.WriteString("[" + class + "] ")
		if next := t.next[r]; len(next.next) > 0 {
			b.WriteString("(")
			next.exclude(b, depth+1)
			b.WriteString(")")
		} else {
			b.WriteString("char+")
		}
		b.WriteString(" | ")
	}
	b.WriteString("[^" + unsafeClass + rejects.String() + "] char*")
}
