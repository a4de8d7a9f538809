package llama

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// shadow is a tree as one would write it without care for cost: what each sequence of llama.cpp holds, cell by cell.
type shadow struct {
	*tree
	next  int
	held  map[int][]*int32
	live  []*holder
	idle  map[int]*holder
	scope map[int]scope
}

func (s *shadow) apply(t *rapid.T, cuts []cut) {
	for _, c := range cuts {
		h := s.idle[c.id]
		if h == nil {
			t.Fatalf("%+v cuts a sequence at work, or none", c)
		}
		if c.gone {
			delete(s.idle, c.id)
			delete(s.held, c.id)
			continue
		}
		s.held[c.id] = s.held[c.id][:c.from]
	}
}

func (s *shadow) unique(of func(id int) bool) int {
	all := map[*int32]bool{}
	for id, cells := range s.held {
		for _, c := range cells {
			if of(id) {
				all[c] = true
			}
		}
	}
	return len(all)
}

// check compares the tree with the shadow: each holder's tokens, and the counts.
func (s *shadow) check(t *rapid.T) {
	busy := map[int]bool{}
	for _, h := range slices.Concat(s.live, slices.Collect(maps.Values(s.idle))) {
		busy[h.id] = busy[h.id] || h.live
		var want []int32
		for _, c := range s.held[h.id] {
			want = append(want, *c)
		}
		if got := h.tokens(); !slices.Equal(got, want) {
			t.Fatalf("%d holds %v by the book, %v in truth", h.id, got, want)
		}
	}
	all := s.unique(func(int) bool { return true })
	atWork := s.unique(func(id int) bool { return busy[id] })
	if s.cells != all || s.tree.idle != all-atWork {
		t.Fatalf("counts %d cells, %d idle; there are %d, %d at work", s.cells, s.tree.idle, all, atWork)
	}
	fresh := 0
	for _, r := range s.roots {
		r.check(t)
		fresh += r.fresh()
	}
	if fresh != s.fresh {
		t.Fatalf("counts %d fresh cells, there are %d", s.fresh, fresh)
	}
}

func (n *node) fresh() (cells int) {
	if n.live == 0 && !n.proven {
		cells = len(n.tokens)
	}
	for _, c := range n.children {
		cells += c.fresh()
	}
	return cells
}

// check wants a node's links to agree, and no node without a use.
func (n *node) check(t *rapid.T) {
	live := 0
	for _, h := range n.ends {
		if h.end != n {
			t.Fatalf("a holder of %v ends elsewhere", n.tokens)
		}
		if h.live {
			live++
		}
	}
	for _, c := range n.children {
		if c.parent != n || len(c.tokens) == 0 {
			t.Fatalf("a child of %v is %+v", n.tokens, c)
		}
		if c.proven && n.parent != nil && !n.proven {
			t.Fatalf("node %v is proven, the one above is not", c.tokens)
		}
		live += c.live
		c.check(t)
	}
	if live != n.live || n.parent != nil && len(n.ends) == 0 && len(n.children) < 2 && (len(n.children) == 0 || n.proven == n.children[0].proven) {
		t.Fatalf("node %v has %d holders at work by its count and %d in truth, %d children", n.tokens, n.live, live, len(n.children))
	}
}

func (h *holder) tokens() (all []int32) {
	for n := h.end; n != nil; n = n.parent {
		all = slices.Concat(n.tokens, all)
	}
	return all
}

// longest is the longest prefix of tokens that a sequence of a scope holds.
func (s *shadow) longest(of scope, tokens []int32) (most int) {
	for id, cells := range s.held {
		n := 0
		for s.scope[id] == of && n < min(len(cells), len(tokens)) && *cells[n] == tokens[n] {
			n++
		}
		most = max(most, n)
	}
	return most
}

func (s *shadow) join(t *rapid.T) {
	of := scope{tenant: fmt.Sprint(rapid.IntRange(0, 1).Draw(t, "tenant"))}
	tokens := rapid.SliceOfN(rapid.Int32Range(0, 2), 0, 12).Draw(t, "tokens")
	want := s.longest(of, tokens)
	if got := s.match(of, tokens); got != want {
		t.Fatalf("finds %d of %v, there are %d", got, tokens, want)
	}
	s.next++
	h, from, n := s.tree.join(s.next, of, tokens)
	if n != want || n > 0 && (s.longestOf(from, tokens) < n || s.scope[from] != of) {
		t.Fatalf("shares %d cells of %d for %v, want %d", n, from, tokens, want)
	}
	s.live = append(s.live, h)
	s.scope[h.id] = of
	s.held[h.id] = slices.Clone(s.held[from][:n])
}

func (s *shadow) longestOf(id int, tokens []int32) (n int) {
	for n < min(len(s.held[id]), len(tokens)) && *s.held[id][n] == tokens[n] {
		n++
	}
	return n
}

func (s *shadow) pick(t *rapid.T) *holder {
	if len(s.live) == 0 {
		t.Skip("nobody is at work")
	}
	return rapid.SampledFrom(s.live).Draw(t, "holder")
}

func (s *shadow) extend(t *rapid.T) {
	h := s.pick(t)
	for range rapid.IntRange(1, 5).Draw(t, "times") {
		token := rapid.Int32Range(0, 2).Draw(t, "token")
		s.tree.extend(h, token)
		s.held[h.id] = append(slices.Clip(s.held[h.id]), &token)
	}
}

func (s *shadow) rest(t *rapid.T) {
	h := s.pick(t)
	s.live = without(s.live, h)
	old := h.id
	s.next++
	if s.tree.rest(h, s.next) {
		s.held[s.next], s.scope[s.next], s.idle[s.next] = s.held[old], s.scope[old], h
	}
	delete(s.held, old)
}

func (s *shadow) drop(t *rapid.T) {
	h := s.pick(t)
	s.live = without(s.live, h)
	before := s.unique(func(int) bool { return true })
	freed := s.tree.drop(h)
	delete(s.held, h.id)
	if want := before - s.unique(func(int) bool { return true }); freed != want {
		t.Fatalf("freed %d cells, want %d", freed, want)
	}
}

// unseen lets leaves go without a look at them.
func unseen(*node, scope) bool { return true }

func (s *shadow) evict(t *rapid.T) {
	n := rapid.IntRange(1, 20).Draw(t, "cells")
	before, idle := s.unique(func(int) bool { return true }), s.tree.idle
	fresh := rapid.Bool().Draw(t, "fresh")
	if fresh {
		idle = s.tree.fresh
	}
	cuts, freed := s.tree.evict(n, fresh, unseen)
	s.apply(t, cuts)
	if got := before - s.unique(func(int) bool { return true }); got != freed || freed > n || freed == 0 && idle > 0 {
		t.Fatalf("says that it freed %d of %d idle cells, wanted %d: it freed %d", freed, idle, n, got)
	}
}

// prove changes no cell.
func (s *shadow) prove(t *rapid.T) {
	if len(s.live) == 0 {
		t.Skip("nothing is at work")
	}
	h := rapid.SampledFrom(s.live).Draw(t, "holder")
	before := s.tree.cells
	s.tree.prove(h, rapid.IntRange(0, h.end.depth()+1).Draw(t, "cells"))
	if s.tree.cells != before {
		t.Fatalf("%d cells became %d", before, s.tree.cells)
	}
}

// TestTree runs any order of joins, computed tokens, ends and evictions against a book without sharing.
func TestTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &shadow{tree: newTree(), held: map[int][]*int32{}, idle: map[int]*holder{}, scope: map[int]scope{}}
		t.Repeat(map[string]func(*rapid.T){
			"join": s.join, "extend": s.extend, "rest": s.rest, "drop": s.drop, "evict": s.evict, "prove": s.prove, "": s.check,
		})
		for _, h := range s.live {
			s.tree.drop(h)
		}
		for _, freed := s.tree.evict(1000, false, unseen); freed > 0; _, freed = s.tree.evict(1000, false, unseen) {
		}
		if s.cells != 0 || s.tree.idle != 0 || s.tree.fresh != 0 || len(s.roots) != 0 {
			t.Fatalf("at the end %d cells are held, %d idle, under %d roots", s.cells, s.tree.idle, len(s.roots))
		}
	})
}

// TestTreeForgetsTheStalest wants what many begin with to outlive what each added.
func TestTreeForgetsTheStalest(t *testing.T) {
	b := newTree()
	var of scope
	shared := []int32{1, 2, 3, 4, 5, 6, 7, 8}
	for i := range int32(5) {
		h, _, n := b.join(int(i), of, append(slices.Clone(shared), 10+i))
		for _, token := range append(slices.Clone(shared), 10+i, 20+i)[n:] {
			b.extend(h, token)
		}
		b.rest(h, 100+int(i))
	}
	for b.idle > 10 {
		b.evict(b.idle-10, false, unseen)
	}
	if got := b.match(of, shared); got != 8 {
		t.Errorf("%d of the shared tokens are left, want all", got)
	}
	if got := b.match(of, append(slices.Clone(shared), 14, 24)); got != 10 {
		t.Errorf("%d of the newest one's tokens are left, want all", got)
	}
}
