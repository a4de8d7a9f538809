package llama

import (
	"math"
	"slices"
)

// scope is whose cells may be shared with whom: never across tenants, nor across adapters, under which the same tokens
// have other keys and values. only, if not nil, narrows it to the answers of one request.
type scope struct {
	tenant  string
	adapter string
	only    *run
}

// tree is the book of all cells of the KV cache: which tokens are in them, and who holds them. It is a radix tree over
// tokens: a node is a run of cells that the same sequences hold, so that each cell stands in it once, however many
// sequences share it. Two sequences that computed the same tokens each for itself stand as two nodes side by side.
//
// It holds no goroutine and no clock, and knows nothing of llama.cpp.
type tree struct {
	roots map[scope]*node
	cells int    // of all nodes
	idle  int    // of nodes that no sequence at work holds
	fresh int    // of idle, those that have never been shared
	won   int    // fresh ones that came to be shared, since ever
	now   uint64 // counts uses
}

type node struct {
	parent   *node
	children []*node
	ends     []*holder // whose last cell is the node's last
	tokens   []int32
	live     int    // holders at work, of this node and those below
	proven   bool   // it has been shared, and so have those above
	frozen   bool   // its cells are kept in host memory
	used     uint64 // when last
}

// holder is a sequence of llama.cpp that holds the cells from a root to its end.
type holder struct {
	id    int
	scope scope
	end   *node
	live  bool // at work; else it only keeps cells for those to come
}

// cut is what is to be removed from a sequence of llama.cpp: its cells from a position on.
type cut struct {
	id   int
	from int
	gone bool // nothing is left of it
}

func newTree() *tree { return &tree{roots: map[scope]*node{}} }

func (t *tree) root(s scope) *node {
	r := t.roots[s]
	if r == nil {
		r = &node{}
		t.roots[s] = r
	}
	return r
}

// match is how many of the tokens are in cells already.
func (t *tree) match(s scope, tokens []int32) int {
	r := t.roots[s]
	if r == nil {
		return 0
	}
	_, _, n := r.longest(tokens)
	return n
}

// longest finds the node below n, and how many of its own tokens, with which the longest prefix ends.
func (n *node) longest(tokens []int32) (at *node, of, length int) {
	own := common(n.tokens, tokens)
	at, of, length = n, own, own
	if own < len(n.tokens) {
		return at, of, length
	}
	for _, c := range n.children {
		if len(c.tokens) == 0 || own == len(tokens) || c.tokens[0] != tokens[own] {
			continue
		}
		if a, o, l := c.longest(tokens[own:]); own+l > length {
			at, of, length = a, o, own+l
		}
	}
	return at, of, length
}

// common is the length of the longest common prefix.
func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// join makes a holder at work, with the cells of the longest prefix of tokens that there is. The cells are to be copied
// from the sequence from, and are n.
func (t *tree) join(id int, s scope, tokens []int32) (h *holder, from, n int) {
	at, of, n := t.root(s).longest(tokens)
	if of < len(at.tokens) {
		at = at.split(of)
	}
	if n > 0 {
		from = at.any().id
	}
	h = &holder{id: id, scope: s, end: at, live: true}
	at.ends = append(at.ends, h)
	t.now++
	for x := at; x != nil; x = x.parent {
		if x.live == 0 {
			t.rests(x, -len(x.tokens))
			if !x.proven {
				t.won += len(x.tokens)
			}
		}
		x.live++
		x.used, x.proven = t.now, true
		x.merge()
	}
	return h, from, n
}

// rests counts n more cells of a node as idle.
func (t *tree) rests(x *node, n int) {
	t.idle += n
	if !x.proven {
		t.fresh += n
	}
}

// any is a holder of the node's cells.
func (n *node) any() *holder {
	for len(n.ends) == 0 {
		n = n.children[0]
	}
	return n.ends[0]
}

// split makes the first k tokens of a node a node of its own, above it.
func (n *node) split(k int) *node {
	up := &node{parent: n.parent, children: []*node{n}, tokens: slices.Clone(n.tokens[:k]), live: n.live, proven: n.proven, frozen: n.frozen, used: n.used}
	n.parent.children[slices.Index(n.parent.children, n)] = up
	n.parent, n.tokens = up, n.tokens[k:]
	return up
}

// extend notes that a holder's next token has been computed.
func (t *tree) extend(h *holder, token int32) {
	n := h.end
	if n.parent == nil || len(n.children) > 0 || len(n.ends) > 1 {
		below := &node{parent: n, ends: []*holder{h}, live: 1, used: t.now}
		n.ends = without(n.ends, h)
		n.children = append(n.children, below)
		h.end, n = below, below
	}
	n.tokens = append(n.tokens, token)
	t.cells++
}

// rest takes a holder from work and keeps its cells, under another id, for those to come. It says false when others
// hold all of them: then it is dropped.
func (t *tree) rest(h *holder, id int) bool {
	if h.end.parent == nil || len(h.end.ends) > 1 || len(h.end.children) > 0 {
		t.drop(h)
		return false
	}
	t.now++
	t.leave(h)
	h.id = id
	return true
}

// prove notes that the first n cells of a holder are worth keeping: somebody waits who begins with them.
func (t *tree) prove(h *holder, n int) {
	for x := h.end; x != nil; {
		up := x.parent
		if depth := x.depth(); depth > n && depth-len(x.tokens) < n {
			up = x.split(n - depth + len(x.tokens))
		} else if depth <= n && !x.proven {
			if x.live == 0 {
				t.fresh -= len(x.tokens)
			}
			x.proven = true
		}
		x.merge()
		x = up
	}
}

// leave takes a holder from work.
func (t *tree) leave(h *holder) {
	h.live = false
	for x := h.end; x != nil; x = x.parent {
		if x.live--; x.live == 0 {
			t.rests(x, len(x.tokens))
		}
		x.used = t.now
	}
}

// drop takes a holder out, with the cells that nobody else holds. It says how many these were.
func (t *tree) drop(h *holder) (freed int) {
	if h.live {
		t.leave(h)
	}
	before := t.cells
	h.end.ends = without(h.end.ends, h)
	t.prune(h.end, h.scope)
	h.end = nil
	return before - t.cells
}

// prune removes nodes that nobody holds, from n upward.
func (t *tree) prune(n *node, s scope) {
	for len(n.ends) == 0 && len(n.children) == 0 {
		t.cells -= len(n.tokens)
		t.rests(n, -len(n.tokens))
		up := n.parent
		if up == nil {
			delete(t.roots, s)
			return
		}
		up.children = without(up.children, n)
		n = up
	}
	n.merge()
}

// merge joins a node with its only child, where nothing tells them apart.
func (n *node) merge() {
	if n.parent == nil || len(n.ends) > 0 || len(n.children) != 1 || n.proven != n.children[0].proven || n.frozen != n.children[0].frozen {
		return
	}
	c := n.children[0]
	c.tokens = slices.Concat(n.tokens, c.tokens)
	c.used = max(c.used, n.used)
	c.parent = n.parent
	n.parent.children[slices.Index(n.parent.children, n)] = c
}

// evict gives up at most n idle cells, or only fresh ones: from the end of the branch that was not used for the longest
// time. The leaf is shown before it is cut, and stays where show says no.
func (t *tree) evict(n int, fresh bool, show func(leaf *node, s scope) bool) (cuts []cut, freed int) {
	var leaf *node
	var s scope
	for k, r := range t.roots {
		if x := r.stalest(fresh); x != nil && (leaf == nil || x.used < leaf.used) {
			leaf, s = x, k
		}
	}
	if leaf == nil || n <= 0 || !show(leaf, s) {
		return nil, 0
	}
	if keep := len(leaf.tokens) - n; keep > 0 {
		return t.shorten(leaf, keep), n
	}
	return t.fell(leaf, s), len(leaf.tokens)
}

// stalest is the idle leaf below n that was not used for the longest time; nil if there is none.
func (n *node) stalest(fresh bool) (leaf *node) {
	if len(n.children) == 0 {
		if n.live > 0 || n.parent == nil || fresh && n.proven {
			return nil
		}
		return n
	}
	oldest := uint64(math.MaxUint64)
	for _, c := range n.children {
		if x := c.stalest(fresh); x != nil && x.used < oldest {
			leaf, oldest = x, x.used
		}
	}
	return leaf
}

// shorten leaves an idle leaf its first tokens.
func (t *tree) shorten(leaf *node, keep int) (cuts []cut) {
	t.cells -= len(leaf.tokens) - keep
	t.rests(leaf, keep-len(leaf.tokens))
	leaf.tokens = leaf.tokens[:keep]
	for _, h := range leaf.ends {
		cuts = append(cuts, cut{id: h.id, from: leaf.depth()})
	}
	return cuts
}

// fell removes an idle leaf. One of its holders may be all that keeps the branch below which it grew.
func (t *tree) fell(leaf *node, s scope) (cuts []cut) {
	up := leaf.parent
	from := up.depth()
	for _, h := range leaf.ends {
		if up.parent != nil && len(up.ends) == 0 && len(up.children) == 1 {
			h.end = up
			up.ends = append(up.ends, h)
			cuts = append(cuts, cut{id: h.id, from: from})
			continue
		}
		h.end = nil
		cuts = append(cuts, cut{id: h.id, gone: true})
	}
	leaf.ends = nil
	t.prune(leaf, s)
	return cuts
}

// path is all tokens from the root to a node's end.
func (n *node) path() []int32 {
	p := make([]int32, n.depth())
	for at := len(p); n != nil; n = n.parent {
		at -= len(n.tokens)
		copy(p[at:], n.tokens)
	}
	return p
}

// depth is how many cells there are from the root to a node's end.
func (n *node) depth() (d int) {
	for ; n != nil; n = n.parent {
		d += len(n.tokens)
	}
	return d
}

func without[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
