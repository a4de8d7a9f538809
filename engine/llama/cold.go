package llama

import "slices"

// cold keeps the beginnings of prompts in host memory when their cells are given up. Cells are few, and each idle one
// slows every step; state bytes cost nothing but memory, and putting them back is some hundred times cheaper than
// computing their tokens again (ENGINE-PROBES 4). It holds no goroutine and knows nothing of llama.cpp. The bytes name
// neither model nor adapter: they live and die with one context, and the scope has the adapter.
type cold struct {
	bound int // bytes kept; 0: none
	bytes int
	items map[scope][]*frozen
	now   uint64 // counts uses
	// wanted is how many branches that nobody has shared yet are still kept: some others of the kind were missed lately.
	wanted int
}

// frozen is a run of cells as bytes.
type frozen struct {
	tokens []int32 // of the whole beginning
	from   int     // the bytes hold the cells of tokens[from:]
	state  []byte
	used   uint64
}

// wantedFor is how many branches that are given up unshared are kept after one was missed.
const wantedFor = 64

func newCold(bound int) *cold { return &cold{bound: bound, items: map[scope][]*frozen{}} }

// worth says that cells are to be kept: enough of them, of what was shared or of a kind that was missed.
func (c *cold) worth(s scope, cells int, proven bool) bool {
	if c.bound <= 0 || cells < worthwhile || s.only != nil {
		return false
	}
	if !proven {
		c.wanted--
	}
	return proven || c.wanted >= 0
}

// put keeps bytes, and forgets what was not used for the longest time where the bound wants it.
func (c *cold) put(s scope, tokens []int32, from int, state []byte) {
	if len(state) == 0 || len(state) > c.bound || c.has(s, tokens, from) {
		return
	}
	c.now++
	c.items[s] = append(c.items[s], &frozen{slices.Clone(tokens), from, state, c.now})
	for c.bytes += len(state); c.bytes > c.bound; {
		c.forget()
	}
}

// has says that the same cells are there already.
func (c *cold) has(s scope, tokens []int32, from int) bool {
	return slices.ContainsFunc(c.items[s], func(f *frozen) bool {
		return f.from <= from && common(f.tokens, tokens) == len(tokens)
	})
}

// find is the item that goes on furthest from the first n tokens, which are in cells, and how far. Nil: none goes on
// far enough to be worth it.
func (c *cold) find(s scope, tokens []int32, n int) (best *frozen, to int) {
	to = n + worthwhile - 1
	for _, f := range c.items[s] {
		if f.from > n {
			continue
		}
		if k := common(f.tokens, tokens); k > to {
			best, to = f, k
		}
	}
	if best != nil {
		c.now++
		best.used = c.now
	}
	return best, to
}

func (c *cold) forget() {
	var oldest *frozen
	var of scope
	for s, items := range c.items {
		for _, f := range items {
			if oldest == nil || f.used < oldest.used {
				oldest, of = f, s
			}
		}
	}
	c.drop(of, oldest)
}

// drop forgets an item.
func (c *cold) drop(s scope, f *frozen) {
	c.bytes -= len(f.state)
	if c.items[s] = without(c.items[s], f); len(c.items[s]) == 0 {
		delete(c.items, s)
	}
}

// freeze keeps the cells of a branch's leaf that are about to be given up, all of them though it may be given up bit by
// bit. It says whether they are in host memory now.
func (c *cache) freeze(leaf *node, s scope) bool {
	if !leaf.frozen && !c.cold.worth(s, len(leaf.tokens), leaf.proven) {
		return false
	}
	path, from := leaf.path(), leaf.parent.depth()
	if !leaf.frozen {
		leaf.frozen = true
		c.keepCold(s, leaf.any().id, path, from)
	}
	return c.cold.has(s, path, from)
}

// freezeOwn keeps the cells that only this sequence holds, which is about to lose them.
func (c *cache) freezeOwn(s *sequence) {
	if !c.share || s.alone || s.holder == nil {
		return
	}
	if from := s.own(); c.cold.worth(s.run.scope, s.done-from, true) {
		c.keepCold(s.run.scope, s.slot, s.tokens[:s.done], from)
	}
}

// own is the position from which on only this sequence holds its cells.
func (s *sequence) own() (from int) {
	from = s.holder.end.depth()
	for x := s.holder.end; x.parent != nil && len(x.ends)+len(x.children) == 1; x = x.parent {
		from -= len(x.tokens)
	}
	return from
}

func (c *cache) keepCold(s scope, id int, tokens []int32, from int) {
	if !c.cold.has(s, tokens, from) {
		c.cold.put(s, tokens, from, c.dev.freeze(id, from, len(tokens)))
	}
}

// thaw puts back what a sequence's prompt goes on with after the cells that it shares. All of an item's cells are there
// for a moment, beside those that the sequence has reserved.
func (c *cache) thaw(s *sequence) {
	for {
		tokens := s.tokens[:c.known(s)]
		if s.done > len(tokens) {
			return
		}
		f, to := c.cold.find(s.run.scope, tokens, s.done)
		if f == nil || to-s.done > s.spare || len(f.tokens)-f.from > s.spare+c.free {
			return
		}
		if !c.dev.thaw(f.state, s.slot, s.done, to) {
			c.cold.drop(s.run.scope, f)
			return
		}
		c.thawed += to - s.done
		for _, t := range tokens[s.done:to] {
			c.computed(s, t)
		}
	}
}
