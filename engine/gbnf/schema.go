package gbnf

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// kindSet is a set of JSON's types.
type kindSet uint8

const (
	kindNull kindSet = 1 << iota
	kindBoolean
	kindNumber // not an integer, or not known to be one
	kindInteger
	kindString
	kindArray
	kindObject

	kindAny = kindObject<<1 - 1
)

// typeKinds is what a schema's type lets through.
var typeKinds = map[string]kindSet{
	"null": kindNull, "boolean": kindBoolean, "number": kindNumber | kindInteger, "integer": kindInteger,
	"string": kindString, "array": kindArray, "object": kindObject,
}

// The schema as a tree of nodes; refs make it a graph. Every keyword is in a node, or refused.
type (
	node interface{ path() string }

	// at is where a node stands in the schema.
	at string

	anyNode  struct{ at }
	nullNode struct{ at }
	boolNode struct{ at }

	// refNode points to another place of the same document. target is set once that is built.
	refNode struct {
		at
		ref    string
		target node
	}
	// unionNode is anyOf, oneOf, or a list of types.
	unionNode struct {
		at
		children []node
	}
	allNode struct {
		at
		children []node
	}
	// enumNode is enum, or const as an enum of one.
	enumNode struct {
		at
		values []*value
		single bool
	}
	numberNode struct {
		at
		integer  bool
		min, max *bound
		// bounded is true where bounds are said, even if 16 digits keep them by themselves.
		bounded bool
	}
	stringNode struct {
		at
		pattern  *string
		format   string
		min, max int // max is -1 where there is none
	}
	arrayNode struct {
		at
		items    node
		min, max int
	}
	tupleNode struct {
		at
		items []node
	}
	objectNode struct {
		at
		properties []property
		additional node // nil: closed
		// open is true where additionalProperties is not said, so that in an allOf other parts may add theirs.
		open bool
		// states is true where the schema says what is required, if only by an empty list.
		states bool
	}
)

type property struct {
	name     string
	schema   node
	required bool
	branch   bool // of an anyOf inside an allOf
}

func (a at) path() string { return string(a) }

// parser builds nodes. Mistakes travel as panics of *Unsupported, caught in FromSchema: nothing else is thrown.
type parser struct {
	root *value
	refs map[string]*refTarget
}

// refTarget is built once, however many refs point to it; until it is, cycles stop at it.
type refTarget struct {
	node    node
	waiting []*refNode
}

func refuse(path, keyword, format string, args ...any) {
	panic(&Unsupported{Path: path, Keyword: keyword, Reason: fmt.Sprintf(format, args...)})
}

func (p *parser) build(v *value, path string) node {
	if v.is("true") {
		return &anyNode{at(path)}
	}
	if v.kind != kindObject {
		refuse(path, "", "a schema must be an object, or true")
	}
	checkKeywords(v, path)
	switch {
	case v.get("$ref") != nil:
		return p.buildRef(v, path)
	case v.get("oneOf") != nil:
		return p.buildUnion(v, "oneOf", path)
	case v.get("anyOf") != nil:
		return p.buildUnion(v, "anyOf", path)
	case v.get("allOf") != nil:
		return p.buildAll(v, path)
	case v.get("const") != nil || v.get("enum") != nil:
		return buildEnum(v, path)
	}
	return p.buildTyped(v, path)
}

// buildTyped makes one node of one type, and a union of several.
func (p *parser) buildTyped(v *value, path string) node {
	names := typeNames(v, path)
	switch len(names) {
	case 0:
		return p.buildKind(v, guessType(v), path)
	case 1:
		return p.buildKind(v, names[0], path)
	}
	u := &unionNode{at: at(path)}
	for i, name := range names {
		u.children = append(u.children, p.buildKind(v, name, fmt.Sprintf("%s/type/%d", path, i)))
	}
	return u
}

// typeNames are the types that a schema names; none where it has no type.
func typeNames(v *value, path string) []string {
	t := v.get("type")
	if t == nil {
		return nil
	}
	list := []*value{t}
	if t.kind == kindArray {
		list = t.items
	}
	if len(list) == 0 {
		refuse(path, "type", "must not be empty")
	}
	var names []string
	for _, one := range list {
		if _, known := typeKinds[one.text]; one.kind != kindString || !known {
			refuse(path, "type", "%s is not a type", one.dump())
		}
		if !slices.Contains(names, one.text) {
			names = append(names, one.text)
		}
	}
	return names
}

// allowed is the set of types that a schema's own type lets through.
func allowed(v *value, path string) kindSet {
	names := typeNames(v, path)
	if names == nil {
		return kindAny
	}
	var set kindSet
	for _, name := range names {
		set |= typeKinds[name]
	}
	return set
}

// guessType is the type that keywords imply where none is named. They would let other types through as well; a
// schema that bounds strings wants a string.
func guessType(v *value) string {
	for _, group := range keywordGroups {
		if slices.ContainsFunc(v.members, func(m member) bool { return group.implied[m.key] }) {
			return group.name
		}
	}
	return ""
}

func (p *parser) buildKind(v *value, name, path string) node {
	refuseUnkept(v, name, path)
	switch name {
	case "object":
		return p.buildObject(v, path)
	case "array":
		return p.buildArray(v, path)
	case "string":
		return buildString(v, path)
	case "number", "integer":
		return buildNumber(v, name == "integer", path)
	case "boolean":
		return &boolNode{at(path)}
	case "null":
		return &nullNode{at(path)}
	}
	return &anyNode{at(path)}
}

func (p *parser) buildRef(v *value, path string) node {
	refuseBeside(v, path, "$ref")
	ref := v.get("$ref")
	if ref.kind != kindString {
		refuse(path, "$ref", "must be a string")
	}
	if ref.text != "#" && !strings.HasPrefix(ref.text, "#/") {
		refuse(path, "$ref", "%q does not point into this schema (#/…): nothing else is read", ref.text)
	}
	n := &refNode{at: at(path), ref: ref.text}
	t, known := p.refs[ref.text]
	if !known {
		t = &refTarget{}
		p.refs[ref.text] = t
		t.node = p.build(p.find(ref.text, path), ref.text)
	}
	t.waiting = append(t.waiting, n)
	return n
}

// link gives every ref its target, once all are built.
func (p *parser) link() {
	for _, t := range p.refs {
		for _, n := range t.waiting {
			n.target = t.node
		}
	}
}

// find follows a JSON pointer (RFC 6901) in a URI fragment.
func (p *parser) find(ref, path string) *value {
	v := p.root
	for _, step := range strings.Split(ref, "/")[1:] {
		plain, err := url.PathUnescape(step)
		if err != nil {
			refuse(path, "$ref", "%q is badly escaped", ref)
		}
		next := v.step(strings.NewReplacer("~1", "/", "~0", "~").Replace(plain))
		if next == nil {
			refuse(path, "$ref", "%q leads nowhere", ref)
		}
		v = next
	}
	return v
}

func (v *value) step(name string) *value {
	if v.kind == kindArray {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(v.items) {
			return nil
		}
		return v.items[i]
	}
	return v.get(name)
}

// buildUnion takes oneOf for anyOf: that only one branch fits is seen afterwards, by Validate.
func (p *parser) buildUnion(v *value, keyword, path string) node {
	refuseBeside(v, path, keyword, "type")
	u := &unionNode{at: at(path), children: p.buildList(v, keyword, path)}
	p.expect(u.children, allowed(v, path), path, keyword)
	return u
}

// buildAll makes the schema's own keywords one more part.
func (p *parser) buildAll(v *value, path string) node {
	a := &allNode{at: at(path)}
	children := p.buildList(v, "allOf", path)
	own := &value{kind: kindObject}
	for _, m := range v.members {
		if m.key != "allOf" && !annotations[m.key] && m.key != "type" {
			own.members = append(own.members, m)
		}
	}
	if len(own.members) > 0 {
		if t := v.get("type"); t != nil {
			own.members = append(own.members, member{"type", t})
		}
		a.children = append(a.children, p.build(own, path))
	}
	a.children = append(a.children, children...)
	p.expect(a.children, allowed(v, path), path, "allOf")
	return a
}

func (p *parser) buildList(v *value, keyword, path string) (nodes []node) {
	list := v.get(keyword)
	if list.kind != kindArray || len(list.items) == 0 {
		refuse(path, keyword, "must be a list of schemas, and not empty")
	}
	for i, item := range list.items {
		nodes = append(nodes, p.build(item, fmt.Sprintf("%s/%s/%d", path, keyword, i)))
	}
	return nodes
}

// expect refuses branches that let types through which the schema beside them forbids.
func (p *parser) expect(nodes []node, want kindSet, path, keyword string) {
	if want == kindAny {
		return
	}
	for _, n := range nodes {
		if p.kinds(n, map[node]bool{})&^want != 0 {
			refuse(path, "type", "beside %s: say in %s which type it has", keyword, n.path())
		}
	}
}

// kinds is what a node lets through. A ref still being built is a cycle, and adds nothing of its own.
func (p *parser) kinds(n node, seen map[node]bool) (set kindSet) {
	switch n := n.(type) {
	case *refNode:
		target := p.refs[n.ref].node
		if target == nil || seen[target] {
			return 0
		}
		seen[target] = true
		return p.kinds(target, seen)
	case *unionNode:
		for _, c := range n.children {
			set |= p.kinds(c, seen)
		}
		return set
	case *allNode:
		return p.commonKinds(n.children, seen)
	case *enumNode:
		for _, v := range n.values {
			set |= v.kind
		}
		return set
	}
	return ownKind(n)
}

func (p *parser) commonKinds(nodes []node, seen map[node]bool) kindSet {
	set := kindAny
	for _, n := range nodes {
		set &= p.kinds(n, seen)
	}
	return set
}

func ownKind(n node) kindSet {
	switch n := n.(type) {
	case *nullNode:
		return kindNull
	case *boolNode:
		return kindBoolean
	case *numberNode:
		if n.integer {
			return kindInteger
		}
		return kindNumber | kindInteger
	case *stringNode:
		return kindString
	case *arrayNode, *tupleNode:
		return kindArray
	case *objectNode:
		return kindObject
	}
	return kindAny
}

// buildEnum keeps the values that the type beside it allows.
func buildEnum(v *value, path string) node {
	keyword, values := "const", []*value{v.get("const")}
	if list := v.get("enum"); list != nil {
		keyword, values = "enum", list.items
	}
	refuseBeside(v, path, keyword, "type")
	kinds := allowed(v, path)
	n := &enumNode{at: at(path), single: keyword == "const"}
	for _, one := range values {
		if one.kind&kinds != 0 {
			n.values = append(n.values, one)
		}
	}
	if len(n.values) == 0 {
		refuse(path, keyword, "no value is left to choose")
	}
	return n
}

func (p *parser) buildObject(v *value, path string) node {
	n := &objectNode{at: at(path), states: v.get("required") != nil}
	n.additional, n.open = p.buildAdditional(v, path)
	required := stringList(v, "required", path)
	if props := v.get("properties"); props != nil {
		if props.kind != kindObject {
			refuse(path, "properties", "must be an object")
		}
		for _, m := range props.members {
			schema := p.build(m.value, path+"/properties/"+m.key)
			n.properties = append(n.properties, property{name: m.key, schema: schema, required: required[m.key]})
			delete(required, m.key)
		}
	}
	n.requireOthers(v, required)
	return n
}

// requireOthers gives names that are required but not described the schema of additional properties.
func (n *objectNode) requireOthers(v *value, required map[string]bool) {
	if len(required) == 0 {
		return
	}
	schema := n.additional
	if schema == nil && n.open {
		schema = &anyNode{n.at}
	}
	for _, name := range v.get("required").items {
		if !required[name.text] {
			continue
		}
		if schema == nil {
			refuse(n.path(), "required", "%q is required and forbidden", name.text)
		}
		n.properties = append(n.properties, property{name: name.text, schema: schema, required: true})
		delete(required, name.text)
	}
}

// buildAdditional says what properties beyond the named ones may be. Where the schema is silent, none are, but for an
// object of which nothing at all is said.
func (p *parser) buildAdditional(v *value, path string) (schema node, open bool) {
	a := v.get("additionalProperties")
	switch {
	case a == nil && v.get("properties") == nil:
		return &anyNode{at(path)}, true
	case a == nil:
		return nil, true
	case a.is("false"):
		return nil, false
	}
	return p.build(a, path+"/additionalProperties"), a.is("true")
}

// stringList is a keyword that lists names; nil where it is absent.
func stringList(v *value, keyword, path string) map[string]bool {
	list := v.get(keyword)
	if list == nil {
		return nil
	}
	names := map[string]bool{}
	for _, item := range list.items {
		names[item.text] = true
	}
	if list.kind != kindArray || slices.ContainsFunc(list.items, func(i *value) bool { return i.kind != kindString }) {
		refuse(path, keyword, "must be a list of names")
	}
	return names
}

// buildArray makes a tuple of a list of schemas: exactly those items.
func (p *parser) buildArray(v *value, path string) node {
	n := &arrayNode{at: at(path), items: &anyNode{at(path)}}
	n.min, n.max = countRange(v, "minItems", "maxItems", path)
	for _, keyword := range []string{"prefixItems", "items"} {
		if list := v.get(keyword); list != nil && list.kind == kindArray {
			return p.buildTuple(n, v, keyword)
		}
	}
	// As in llama.cpp, prefixItems may be one schema, and items wins over it.
	for _, keyword := range []string{"items", "prefixItems"} {
		switch item := v.get(keyword); {
		case item.is("false"):
			return p.noItems(n)
		case item != nil:
			n.items = p.build(item, path+"/"+keyword)
			return n
		}
	}
	return n
}

func (p *parser) buildTuple(n *arrayNode, v *value, keyword string) node {
	t := &tupleNode{at: n.at, items: nil}
	count := len(v.get(keyword).items)
	if count < n.min || n.max >= 0 && count > n.max {
		refuse(n.path(), keyword, "%d items do not fit minItems and maxItems", count)
	}
	if count == 0 {
		return p.noItems(n)
	}
	t.items = p.buildList(v, keyword, n.path())
	return t
}

func (p *parser) noItems(n *arrayNode) node {
	if n.min > 0 {
		refuse(n.path(), "minItems", "no item is allowed")
	}
	n.max = 0
	return n
}

func buildString(v *value, path string) node {
	n := &stringNode{at: at(path)}
	n.min, n.max = countRange(v, "minLength", "maxLength", path)
	n.format = textOf(v, "format", path)
	if _, known := formats[n.format]; n.format != "" && !known {
		refuse(path, "format", "%q is not known", n.format)
	}
	if v.get("pattern") != nil {
		text := textOf(v, "pattern", path)
		n.pattern = &text
	}
	n.refuseMixed()
	return n
}

// refuseMixed refuses what would be two grammars for one text.
func (n *stringNode) refuseMixed() {
	switch bounded := n.min > 0 || n.max >= 0; {
	case n.pattern != nil && n.format != "":
		refuse(n.path(), "format", "cannot be kept beside pattern")
	case n.pattern != nil && bounded:
		refuse(n.path(), "pattern", "cannot be kept beside minLength or maxLength: bound the pattern itself")
	case n.format != "" && bounded:
		refuse(n.path(), "format", "cannot be kept beside minLength or maxLength")
	}
}

func textOf(v *value, keyword, path string) string {
	t := v.get(keyword)
	if t == nil {
		return ""
	}
	if t.kind != kindString {
		refuse(path, keyword, "must be a string")
	}
	return t.text
}

// countRange reads a pair of bounds; the upper is -1 where there is none.
func countRange(v *value, minKey, maxKey, path string) (low, high int) {
	low, high = max(count(v, minKey, path), 0), count(v, maxKey, path)
	if high >= 0 && low > high {
		refuse(path, minKey, "%d is more than %s", low, maxKey)
	}
	return low, high
}

func count(v *value, keyword, path string) int {
	c := v.get(keyword)
	if c == nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSuffix(c.text, ".0"))
	if c.kind&(kindInteger|kindNumber) == 0 || err != nil || n < 0 {
		refuse(path, keyword, "must be a whole number, not negative")
	}
	if n > MaxRepeat {
		refuse(path, keyword, "%d is more than a grammar can count (%d)", n, MaxRepeat)
	}
	return n
}
