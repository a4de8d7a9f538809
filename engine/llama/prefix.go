package llama

import (
	"math"
	"slices"
)

// reserve is how many tokens of an answer are provided for when its sequence is admitted, and each time that these are
// used up. More makes preemption rarer, less lets more sequences run.
const reserve = 64

// cache is the KV cache as sequences hold it. It counts cells before a call needs them, since a call that finds none
// fails for everybody in it, and it has sequences share the cells of the longest prefix that is there: of another one at
// work, or of one that has ended and rests. free + tree.cells + what sequences reserved is all cells there are.
type cache struct {
	dev   decoder
	tree  *tree
	share bool  // the model can share a part of a sequence
	bound int   // idle cells kept
	cool  int   // of these, how many though they could be kept in host memory; 0: all
	fresh int   // of these, how many that have not been shared yet
	free  int   // cells
	slots []int // free ones, of sequences at work; the highest is taken last
	ids   []int // free ones, of those that rest
	wrong int   // times that llama.cpp did not hold what the tree says
	peak  int   // most cells that were in use since they were packed
	past  []memory

	cold   *cold
	thawed int // tokens that came back from it
}

// memory is what a sequence held that has ended, as tokens alone: they cost no cells. It tells what would have been
// found, had more been kept.
type memory struct {
	scope  scope
	tokens []int32
}

// memories is how many sequences are remembered.
const memories = 64

// leastFresh cells are kept even if none was ever shared. It takes as many to find out that prompts begin alike.
const leastFresh = 64

// newCache makes the cache of a context for as many sequences at work. One ID behind theirs is the device's own.
func newCache(dev decoder, slots, cells, bound, cool, coldBytes int, share bool) *cache {
	c := &cache{dev: dev, tree: newTree(), share: share, bound: bound, cool: cool, fresh: bound / 4, free: cells, cold: newCold(coldBytes)}
	for i := range slots {
		c.slots = append(c.slots, i)
	}
	for i := slots + 1; i < maxSequences; i++ {
		c.ids = append(c.ids, i)
	}
	return c
}

// admit gives a sequence a slot, the cells of the longest prefix that is there, and room for the rest of what it holds
// and a first piece of its answer. The last token is always computed, for its logits.
func (c *cache) admit(s *sequence) bool {
	if len(c.slots) == 0 || c.need(s, c.found(s)) > c.free+c.tree.idle {
		return false
	}
	c.join(s)
	need := c.need(s, s.done)
	if !c.take(need) { // what it shares is idle no more
		c.release(s)
		return false
	}
	s.spare = need
	c.thaw(s)
	return true
}

func (c *cache) need(s *sequence, shared int) int {
	return len(s.tokens) - shared + min(s.left(), reserve)
}

// join gives a sequence the next slot with the cells that it shares, before any are evicted to make room for others.
func (c *cache) join(s *sequence) {
	won := c.tree.won
	h, from, n := c.tree.join(c.slots[0], s.run.scope, s.tokens[:c.known(s)])
	missed := c.missed(s) >= n+worthwhile
	if c.tree.won > won || missed {
		c.fresh = min(2*c.fresh, c.bound)
	}
	if missed {
		c.cold.wanted = wantedFor
	}
	s.holder, s.done = h, n
	s.slot, c.slots = c.slots[0], c.slots[1:]
	if n == 0 || c.dev.share(from, s.slot, n) {
		return
	}
	c.release(s)
	s.alone = true
	c.wrong++
	c.join(s)
}

// known is how many of a sequence's tokens it may share.
func (c *cache) known(s *sequence) int {
	if !c.share || s.alone {
		return 0
	}
	return len(s.tokens) - 1
}

// found is how many of a sequence's tokens would be shared if it were admitted now.
func (c *cache) found(s *sequence) int { return c.tree.match(s.run.scope, s.tokens[:c.known(s)]) }

// missed is how many of a sequence's tokens others had that ended not long ago.
func (c *cache) missed(s *sequence) (most int) {
	for _, m := range c.past {
		if m.scope == s.run.scope {
			most = max(most, common(m.tokens, s.tokens[:c.known(s)]))
		}
	}
	return most
}

// take reserves cells, all or none, those of sequences that rest if need be.
func (c *cache) take(n int) bool {
	if n > c.free+c.tree.idle {
		return false
	}
	for c.free < n && c.evict(n-c.free) {
	}
	c.free -= n
	return true
}

// evict gives up at most n idle cells, fresh ones before all. It says false when there are none.
func (c *cache) evict(n int) bool {
	return c.cut(c.tree.evict(n, c.tree.fresh > 0, func(leaf *node, s scope) bool {
		c.freeze(leaf, s)
		return true
	}))
}

// chill gives up at most n idle cells, those that were shared only if they are in host memory then. It says false where
// it can't.
func (c *cache) chill(n int) bool {
	return c.cut(c.tree.evict(n, false, func(leaf *node, s scope) bool { return c.freeze(leaf, s) || !leaf.proven }))
}

func (c *cache) cut(cuts []cut, freed int) bool {
	for _, x := range cuts {
		c.dev.remove(x.id, x.from)
		if x.gone {
			c.ids = append(c.ids, x.id)
		}
	}
	c.free += freed
	return freed > 0
}

// clear gives up all idle cells. It says false when there were none.
func (c *cache) clear() bool {
	had := c.tree.idle > 0
	for c.evict(math.MaxInt) {
	}
	return had
}

// grow makes sure that a sequence has a cell for its next token.
func (c *cache) grow(s *sequence) bool {
	for n := min(s.left()+1, reserve); s.spare == 0 && n > 0; n /= 2 {
		if c.take(n) {
			s.spare = n
		}
	}
	return s.spare > 0
}

// computed notes that a sequence's next token is in its cell.
func (c *cache) computed(s *sequence, token int32) {
	c.tree.extend(s.holder, token)
	s.spare--
	s.done++
	c.peak = max(c.peak, c.tree.cells)
}

// sparse says that packing pays: many more cells were in use than are now. llama.cpp's attention walks all of them up to
// the highest that is in use, and it takes the lowest free ones, so what is left may lie as high as there were any. To
// move a cell through host memory takes some 40 µs here, and a thousand that are walked in vain 8 ms of each step with
// eight answers: that pays within ten steps. It says so once, whatever comes of it: where the cells lie llama.cpp does
// not tell, and shared ones stay where they are.
func (c *cache) sparse() bool {
	used := c.tree.cells
	if used > 0 && (c.cool == 0 || c.peak-used < max(used, 2*c.cool)) {
		return false
	}
	c.peak = used
	return used > 0
}

// lower moves the cells that only this sequence holds to the lowest free ones. It says false where they are lost.
func (c *cache) lower(s *sequence) bool {
	from := s.own()
	if !c.share || s.done-from < worthwhile {
		return true
	}
	state := c.dev.freeze(s.slot, from, s.done)
	if len(state) == 0 {
		return true
	}
	return c.dev.remove(s.slot, from) && c.dev.thaw(state, s.slot, from, s.done)
}

// release takes back all that a sequence holds, and forgets it.
func (c *cache) release(s *sequence) {
	c.dev.remove(s.slot, 0)
	c.free += c.tree.drop(s.holder)
	c.vacant(s)
}

// retire takes back a sequence's slot and keeps what it computed for those that begin alike, within the bound: what those
// who wait begin with before all.
func (c *cache) retire(s *sequence, waiting []*sequence) {
	for len(c.ids) == 0 && c.evict(math.MaxInt) {
	}
	if !c.share || c.bound <= 0 || len(c.ids) == 0 {
		c.release(s)
		return
	}
	if len(c.past) == memories {
		c.past = slices.Delete(c.past, 0, 1)
	}
	c.past = append(c.past, memory{s.run.scope, s.tokens[:s.done]})
	if n := c.awaited(s, waiting); n >= worthwhile {
		c.tree.prove(s.holder, n)
	}
	c.keep(s, c.ids[len(c.ids)-1])
}

// keeps says that what a sequence has computed can be kept for itself to come back to.
func (c *cache) keeps(s *sequence) bool { return c.share && !s.alone && s.done <= c.bound }

// awaited is how many of a sequence's first cells somebody who waits begins with.
func (c *cache) awaited(s *sequence, waiting []*sequence) (most int) {
	for _, w := range waiting {
		if w.run.scope == s.run.scope {
			most = max(most, common(s.tokens[:s.done], w.tokens[:c.known(w)]))
		}
	}
	return most
}

// keep moves a sequence's cells to an id of those that rest.
func (c *cache) keep(s *sequence, id int) {
	n := s.done
	before := c.tree.cells
	switch {
	case !c.tree.rest(s.holder, id): // all of them are held by others
		c.free += before - c.tree.cells
	case c.dev.share(s.slot, id, n):
		c.ids = c.ids[:len(c.ids)-1]
	default:
		c.free += c.tree.drop(s.holder)
	}
	c.dev.remove(s.slot, 0)
	c.vacant(s)
}

// vacant takes back a slot and what was reserved and not used. Now cells may be idle that a sequence which rests shared
// with it: the bound holds for these too.
func (c *cache) vacant(s *sequence) {
	c.free += s.spare
	at, _ := slices.BinarySearch(c.slots, s.slot)
	c.slots = slices.Insert(c.slots, at, s.slot)
	s.slot, s.spare, s.done, s.holder = -1, 0, 0, nil
	c.bind()
}

// bind gives up the idle cells that are too many. All of them slow every step, by a tenth for each 500 here, so those
// that nobody has shared must earn their place: the bound for these falls while they are given up unused, and doubles
// whenever one is shared, or is missed.
func (c *cache) bind() {
	for c.tree.idle > c.bound && c.evict(c.tree.idle-c.bound) {
	}
	over := c.tree.fresh - c.fresh
	for c.tree.fresh > c.fresh && c.evict(c.tree.fresh-c.fresh) {
	}
	if over > 0 {
		c.fresh = min(c.bound, max(leastFresh, c.fresh-over/8))
	}
	for c.cool > 0 && c.tree.idle > c.cool && c.chill(c.tree.idle-c.cool) {
	}
}

// A sequence waits for another to compute what both begin with when that is at least long tokens, of which at least
// worthwhile are still to come: for less a step's wait does not pay.
const (
	long       = 64
	worthwhile = 16
)

// coming says that a sequence at work is just computing what s begins with, and that it pays to wait for it: the same
// tokens computed beside it would slow both. One at work gets on in every step, so the wait ends.
func (c *cache) coming(s *sequence, running []*sequence) bool {
	if c.known(s) < long {
		return false
	}
	most := 0
	for _, r := range running {
		if r.pending() > 1 && r.run.scope == s.run.scope {
			if n := common(r.tokens[:len(r.tokens)-1], s.tokens[:len(s.tokens)-1]); n > r.done {
				most = max(most, n)
			}
		}
	}
	return most >= long && most-c.found(s) >= worthwhile
}
