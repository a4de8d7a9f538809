package llama

import (
	"cmp"
	"slices"
	"time"
)

// turns says whose sequences compute next. One native call serves one adapter, and the first call after a change costs
// more, since llama.cpp plans its graph anew. So those of one adapter compute for a while, then those of the next:
//
//   - A turn is at least turnFactor times as long as what a change costs, by the mean of what changes have cost here; a
//     change then takes less than a tenth of the time. Of several sequences it is as many times as long, up to longTurn.
//     While nobody watches what the others draw it is calmTurn: they are no later on average, since some are done sooner.
//   - Adapters wait in line, and go to its end after their turn. So each waits for one turn of each other.
//   - Whose deadline is near goes first, and cuts a long turn short; but not twice in a row while others wait.
//   - Who would compute in far fuller calls when others of the same adapter have come has no turn before (thin).
//
// A context for each adapter would have no changes. It would cost a KV cache for each, which has to be divided
// beforehand, and on a CPU only one of them could compute at a time all the same: see BenchmarkAdapters. Here all
// adapters share the cells, and any number of adapters can be at work.
//
// It holds no goroutine and no clock. The base is the adapter nil.
type turns struct {
	now    *adapter
	begun  time.Time
	rushed bool // it was given its turn out of line
	line   []*adapter

	favoured *adapter
	since    time.Time
	tenure   time.Duration // 0: the constant's

	cost    cost
	changes int           // of the adapter, since ever
	ended   int           // turns that ended while others waited, since ever
	length  time.Duration // of these together
}

const (
	// turnFactor is how many times as long as a change a turn is at least.
	turnFactor = 10
	// longTurn bounds a turn of many sequences: how long the tokens of others pause.
	longTurn = 500 * time.Millisecond
	// calmTurn is how long a turn lasts that nobody watches others wait for.
	calmTurn = 2 * time.Second
	// soon is when a deadline lets its adapter go first.
	soon = 5 * time.Second
	// ample is how far a deadline is that no order of requests endangers.
	ample = time.Minute
	// tenure is how long requests of one adapter are let in before all others, so that calls are full; urgentTenure the
	// same while one of another is urgent.
	tenure       = 10 * time.Second
	urgentTenure = 2 * time.Second
)

// group is the sequences of one adapter that could compute.
type group struct {
	adapter  *adapter
	rows     int
	deadline time.Time // the nearest; zero: none
	urgent   bool      // somebody waits for what one of them draws
}

// near says that one of them must hurry.
func (g group) near(now time.Time) bool { return !g.deadline.IsZero() && g.deadline.Sub(now) < soon }

// next is whose turn it is, of those that could compute: at least one group, in any order. fixed keeps the adapter while
// there is anything to do for it.
func (t *turns) next(groups []group, now time.Time, fixed bool) *adapter {
	if len(groups) == 1 {
		t.line = t.line[:0]
		t.begin(groups[0].adapter, now, false)
		return t.now
	}
	t.queue(groups)
	i := slices.IndexFunc(groups, func(g group) bool { return g.adapter == t.now })
	if i >= 0 && (fixed || !t.over(groups, groups[i], now)) {
		return t.now
	}
	if i >= 0 {
		t.ended++
		t.length += now.Sub(t.begun)
		t.line = append(t.line, t.now)
	}
	next, rushed := t.first(groups, now)
	t.line = without(t.line, next)
	t.begin(next, now, rushed)
	return next
}

// queue puts newcomers at the line's end, and takes out who has nothing to do.
func (t *turns) queue(groups []group) {
	t.line = slices.DeleteFunc(t.line, func(a *adapter) bool {
		return a == t.now || !slices.ContainsFunc(groups, func(g group) bool { return g.adapter == a })
	})
	for _, g := range groups {
		if g.adapter != t.now && !slices.Contains(t.line, g.adapter) {
			t.line = append(t.line, g.adapter)
		}
	}
}

// over says whether a turn has been long enough.
func (t *turns) over(groups []group, g group, now time.Time) bool {
	least := turnFactor * t.cost.change()
	took := now.Sub(t.begun)
	long := min(longTurn, time.Duration(g.rows)*least)
	if !slices.ContainsFunc(groups, func(o group) bool { return o.urgent && o.adapter != t.now }) {
		long = calmTurn
	}
	if took >= max(least, long) {
		return true
	}
	return took >= least && !t.rushed && slices.ContainsFunc(groups, func(o group) bool {
		return o.adapter != t.now && o.near(now)
	})
}

// first is who is next in line, unless a deadline is near.
func (t *turns) first(groups []group, now time.Time) (next *adapter, rushed bool) {
	var hurry *group
	for i, g := range groups {
		if g.adapter != t.now && slices.Contains(t.line, g.adapter) && g.near(now) && (hurry == nil || g.deadline.Before(hurry.deadline)) {
			hurry = &groups[i]
		}
	}
	if hurry == nil || t.rushed || hurry.adapter == t.line[0] {
		return t.line[0], false
	}
	return hurry.adapter, true
}

func (t *turns) begin(a *adapter, now time.Time, rushed bool) {
	if a != t.now {
		t.changes++
		t.cost.changed = true
	}
	if a != t.now || rushed || t.begun.IsZero() {
		t.begun = now
	}
	t.now, t.rushed = a, rushed
}

// claim is the first request of an adapter that waits to be let in.
type claim struct {
	adapter  *adapter
	deadline time.Time
	urgent   bool // one of the adapter's requests is
}

// longest is how long one adapter is favoured at most while others wait.
func (t *turns) longest() time.Duration { return cmp.Or(t.tenure, tenure) }

// spell is the same beside these claims.
func (t *turns) spell(claims []claim) time.Duration {
	if slices.ContainsFunc(claims, func(c claim) bool { return c.urgent && c.adapter != t.favoured }) {
		return min(urgentTenure, t.longest())
	}
	return t.longest()
}

// favour decides whose requests are let in first: of claims, the first of each adapter that has any, in the order in
// which they came. It is one adapter for a while, so that calls are full; then the one whose request came first, or must
// hurry.
func (t *turns) favour(claims []claim, now time.Time) *adapter {
	if len(claims) == 0 {
		return t.favoured
	}
	has := slices.ContainsFunc(claims, func(c claim) bool { return c.adapter == t.favoured })
	if has && (len(claims) == 1 || now.Sub(t.since) < t.spell(claims)) {
		return t.favoured
	}
	var next *claim
	for i, c := range claims {
		if has && c.adapter == t.favoured {
			continue
		}
		if next == nil || hurries(c, *next, now) {
			next = &claims[i]
		}
	}
	t.favoured, t.since = next.adapter, now
	return t.favoured
}

// hurries says that c must go before an earlier claim.
func hurries(c, before claim, now time.Time) bool {
	if c.deadline.IsZero() || c.deadline.Sub(now) >= soon {
		return false
	}
	return before.deadline.IsZero() || c.deadline.Before(before.deadline)
}

// cost learns what a change of the adapter costs: by how much the first call after one takes longer than calls of as
// many rows do.
type cost struct {
	typical map[int]float64 // seconds of a call, by rows, smoothed
	mean    float64         // seconds of a change, smoothed
	known   bool
	changed bool // the next call is the first after a change
}

const (
	// guess is what a change costs before one was measured.
	guess = 10 * time.Millisecond
	// leastChange is what one costs at least, whatever a noisy clock says.
	leastChange = time.Millisecond
)

// note learns from a call.
func (c *cost) note(rows int, took time.Duration) {
	if c.typical == nil {
		c.typical = map[int]float64{}
	}
	usual, seen := c.typical[rows]
	switch {
	case c.changed && seen && took.Seconds() < usual: // that was too much: there may be no call without a change to show it
		c.typical[rows] = smooth(usual, took.Seconds())
	case c.changed && seen:
		c.learn(took.Seconds() - usual)
	case !c.changed:
		c.typical[rows] = smooth(usual, took.Seconds())
	}
	c.changed = false
}

func (c *cost) learn(x float64) {
	if !c.known {
		c.known, c.mean = true, x
	}
	c.mean += smoothing * (x - c.mean)
}

// change is what one costs.
func (c *cost) change() time.Duration {
	if !c.known {
		return guess
	}
	return max(leastChange, time.Duration(c.mean*float64(time.Second)))
}
