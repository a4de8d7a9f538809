package gbnf

// merge is the parts of an allOf put into one: all objects, or all lists of values.
type merge struct {
	path       string
	properties []property
	index      map[string]int
	closed     []*objectNode // parts that say what additional properties may be
	stated     bool          // a part says what is required
	objects    int
	enums      []*enumNode
	parts      int
}

// all makes the rule of an allOf. One part alone is just that part, whatever it is.
func (c *converter) all(n *allNode, name, rule string) string {
	c.merges++
	defer func() { c.merges-- }()
	if c.merges > MaxNesting {
		refuse(n.path(), "allOf", "stands in itself without end")
	}
	if len(n.children) == 1 {
		if e, ok := deref(n.children[0]).(*enumNode); ok {
			return c.add(rule, (&enumNode{at: e.at, values: e.values}).rule())
		}
		return c.visit(n.children[0], name)
	}
	m := &merge{path: n.path(), index: map[string]int{}}
	for _, part := range n.children {
		m.add(part)
	}
	if len(m.enums) > 0 {
		return c.add(rule, m.commonValues())
	}
	if !m.stated {
		m.requireAll()
	}
	additional := m.additional()
	if _, any := additional.(*anyNode); any && len(m.properties) == 0 {
		return c.add(rule, c.builtin("object", "object"))
	}
	return c.add(rule, c.members(m.properties, additional, name))
}

// deref is where a chain of refs ends. A circle of refs ends at a ref.
func deref(n node) node {
	for range MaxRules {
		ref, ok := n.(*refNode)
		if !ok {
			break
		}
		n = ref.target
	}
	return n
}

// add is bounded, since refs let parts of parts multiply.
func (m *merge) add(n node) {
	if m.parts++; m.parts > MaxRules {
		refuse(m.path, "allOf", "has more than %d parts, or itself for a part", MaxRules)
	}
	switch n := deref(n).(type) {
	case *anyNode:
	case *enumNode:
		m.enums = append(m.enums, n)
	case *allNode:
		for _, part := range n.children {
			m.add(part)
		}
	case *unionNode:
		m.objects++
		for _, branch := range n.children {
			m.addBranch(branch)
		}
	case *objectNode:
		m.addObject(n)
	default:
		refuse(m.path, "allOf", "%s can only be merged with others if it is an object or an enum", n.path())
	}
	if m.objects > 0 && len(m.enums) > 0 {
		refuse(m.path, "allOf", "has objects and values for parts")
	}
}

func (m *merge) addObject(n *objectNode) {
	m.objects++
	m.stated = m.stated || n.states
	if !n.open {
		m.closed = append(m.closed, n)
	}
	for _, p := range n.properties {
		m.addProperty(p)
	}
}

// addProperty makes a property that two parts name an allOf of both schemas.
func (m *merge) addProperty(p property) {
	i, had := m.index[p.name]
	if !had {
		m.index[p.name] = len(m.properties)
		m.properties = append(m.properties, p)
		return
	}
	old := &m.properties[i]
	old.required = old.required || p.required
	if _, any := old.schema.(*anyNode); any {
		old.schema = p.schema
	} else if _, any := p.schema.(*anyNode); !any && old.schema != p.schema {
		old.schema = &allNode{at(p.schema.path()), []node{old.schema, p.schema}}
	}
}

// addBranch takes a branch of anyOf as properties that may come: an object that has none of them still fits it.
func (m *merge) addBranch(n node) {
	o, ok := deref(n).(*objectNode)
	if !ok || !o.open {
		refuse(m.path, "allOf", "%s can only be merged if it is an open object", n.path())
	}
	for _, p := range o.properties {
		if _, had := m.index[p.name]; had || p.required {
			refuse(m.path, "allOf", "%s can only be merged if its properties are optional, and its own", n.path())
		}
		m.addProperty(p)
		m.properties[len(m.properties)-1].branch = true
	}
}

// requireAll makes what the parts describe required where no part says a word about it, as llama.cpp does.
func (m *merge) requireAll() {
	for i := range m.properties {
		m.properties[i].required = !m.properties[i].branch
	}
}

// additional is what the merged object may have besides. A part that says so speaks of its own properties alone, so
// it must know all that others name.
func (m *merge) additional() node {
	var schema node
	if len(m.properties) == 0 {
		schema = &anyNode{at(m.path)}
	}
	for i, part := range m.closed {
		if len(part.properties) < len(m.properties) {
			refuse(part.path(), "additionalProperties", "would forbid properties of other parts of the allOf at %s", m.path)
		}
		if i > 0 && schema != nil && part.additional != nil {
			refuse(m.path, "allOf", "has two additionalProperties")
		}
		if i == 0 || part.additional == nil {
			schema = part.additional
		}
	}
	return schema
}

// commonValues is the values that every part lists, in the order of the first.
func (m *merge) commonValues() string {
	common := &enumNode{at: at(m.path)}
	count := map[string]int{}
	for _, e := range m.enums {
		for text := range e.texts() {
			count[text]++
		}
	}
	for _, v := range m.enums[0].values {
		if count[v.dump()] == len(m.enums) {
			common.values = append(common.values, v)
		}
	}
	if len(common.values) == 0 {
		refuse(m.path, "allOf", "no value is in all parts")
	}
	return common.rule()
}

// texts is the set of values as they are written.
func (n *enumNode) texts() map[string]bool {
	set := map[string]bool{}
	for _, v := range n.values {
		set[v.dump()] = true
	}
	return set
}
