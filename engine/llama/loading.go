package llama

import (
	"fmt"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// arrival is an adapter that was loaded, or could not be.
type arrival struct {
	adapter *adapter
	handle  llama.AdapterLora
	err     error
}

// lookAhead is how many waiting sequences are looked at, so that a long queue costs a step nothing.
const lookAhead = 64

// candidates are the waiting sequences that are let in next, in order: of requests that have begun, then of the favoured
// adapter's, then of each other one's, together, for a call serves one adapter.
func (l *loop) candidates() []*sequence {
	if len(l.waiting) == 0 {
		return nil
	}
	now := time.Now()
	favoured := l.turns.favour(claims(l.waiting, now), now)
	var all []*sequence
	var kinds []*adapter
	of := map[*adapter][]*sequence{}
	for _, s := range l.waiting {
		a := s.run.adapter
		switch {
		case s.run.started:
			all = append(all, s)
			continue
		case len(of[a]) == lookAhead:
			continue
		case len(of[a]) == 0 && a == favoured:
			kinds = slices.Insert(kinds, 0, a)
		case len(of[a]) == 0:
			kinds = append(kinds, a)
		}
		of[a] = append(of[a], s)
	}
	for _, a := range kinds {
		all = append(all, l.warmFirst(of[a], now)...)
	}
	return all[:min(len(all), lookAhead)]
}

// warmFirst puts those forward whose beginnings are in cells: together they take fewer, and each cell slows every step.
// It leaves the order where the first is wanted soon, or has been passed over for long.
func (l *loop) warmFirst(list []*sequence, now time.Time) []*sequence {
	if len(list) < 2 || !l.patient(list[0].run, now) {
		return list
	}
	var warm, rest []*sequence
	for _, s := range list {
		if l.cache.found(s) >= long {
			warm = append(warm, s)
		} else {
			rest = append(rest, s)
		}
	}
	return append(warm, rest...)
}

// patient says that a run may be passed over by others that were to come later: it is watched by nobody and wanted by no
// deadline in sight, and has not waited for as long as one adapter may be favoured.
func (l *loop) patient(u *run, now time.Time) bool {
	d := u.deadline()
	return !u.outbox.stream && (d.IsZero() || d.Sub(now) > ample) && now.Sub(u.begun) < l.turns.longest()
}

// claims are the first request of each adapter, of those that have not begun.
func claims(waiting []*sequence, now time.Time) (all []claim) {
	at := map[*adapter]int{}
	for _, s := range waiting {
		if s.run.started {
			continue
		}
		a := s.run.adapter
		i, known := at[a]
		if !known {
			i = len(all)
			at[a], all = i, append(all, claim{adapter: a, deadline: s.run.deadline()})
		}
		all[i].urgent = all[i].urgent || s.run.urgent(now)
	}
	return all
}

// deadline is when a run is wanted at the latest; zero is whenever.
func (u *run) deadline() time.Time {
	if u.request.Deadline == 0 {
		return time.Time{}
	}
	return time.UnixMilli(u.request.Deadline)
}

// there says that a sequence's adapter is loaded. While the favoured one waits for room, no request begins with another
// that could be freed: else these might hold all of it for ever. Who has begun goes on, since it holds its adapter.
func (l *loop) there(s *sequence) bool {
	a, f := s.run.adapter, l.turns.favoured
	if !f.there() && f != l.loading && a != nil && a != f && !a.pinned && !s.run.started && !s.run.held {
		return false
	}
	return a.there()
}

// groups are the running sequences by adapter.
func (l *loop) groups(now time.Time) (all []group) {
	for _, s := range l.running {
		i := slices.IndexFunc(all, func(g group) bool { return g.adapter == s.run.adapter })
		if i < 0 {
			i, all = len(all), append(all, group{adapter: s.run.adapter})
		}
		g := &all[i]
		g.rows++
		g.urgent = g.urgent || s.run.urgent(now)
		if d := s.run.deadline(); !d.IsZero() && (g.deadline.IsZero() || d.Before(g.deadline)) {
			g.deadline = d
		}
	}
	return all
}

// full leaves out the thin groups, unless all are.
func (l *loop) full(groups []group, now time.Time) []group {
	some := slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return l.thin(g.adapter, now) })
	if len(some) == 0 {
		return groups
	}
	return some
}

// thin says that those of an adapter who are at work would compute in calls of twice as many once others, who wait for a
// slot, have come to the same point: until then they only take the time of groups that are full. All of them draw, and
// can wait.
func (l *loop) thin(a *adapter, now time.Time) bool {
	rows := 0
	for _, s := range l.running {
		if s.run.adapter != a {
			continue
		}
		if s.drawn == 0 || s.pending() > 1 || s.run.forked && len(s.run.seqs) > 1 || !l.patient(s.run, now) {
			return false
		}
		rows++
	}
	return 2*rows <= min(l.slots, rows+l.queued(a))
}

// queued is how many of an adapter wait for a slot alone.
func (l *loop) queued(a *adapter) (n int) {
	for _, s := range l.waiting[:min(len(l.waiting), lookAhead)] {
		if s.run.adapter == a && !s.run.started && l.there(s) {
			n++
		}
	}
	return n
}

// mine are the sequences whose turn it is.
func (l *loop) mine() []*sequence {
	if l.stalled {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(l.running), func(s *sequence) bool { return s.run.adapter != l.turns.now })
}

// turn decides who computes in this step. While an adapter is being loaded no other can take its turn (see decoder): it
// goes on with those whose turn it is, and where there are none it waits. Since the file was in memory before, that is
// as long as copying it takes.
func (l *loop) turn(now time.Time) {
	groups := l.groups(now)
	fixed := l.loading != nil
	if fixed {
		l.stalled = !l.sized || !slices.ContainsFunc(groups, func(g group) bool { return g.adapter == l.turns.now })
	}
	if len(groups) == 0 || l.stalled {
		return
	}
	before := l.turns.now
	if !fixed {
		groups = l.full(groups, now)
	}
	next := l.turns.next(groups, now, fixed)
	if next == before {
		return
	}
	l.sized = false
	if !l.dev.use(next.native()) {
		l.turns.now = before
		l.refuseAdapter(next, engine.Errorf(engine.Internal, "", "", "llama.cpp can't change to this request's adapter"))
	}
}

// native is llama.cpp's name of an adapter; 0 is the base.
func (a *adapter) native() llama.AdapterLora {
	if a == nil {
		return 0
	}
	return a.handle
}

// load begins to load the first adapter that is waited for, if there is room. One at a time: in between, all others get
// their turns.
func (l *loop) load() {
	if l.loading != nil {
		return
	}
	before := map[*adapter]bool{}
	for _, a := range l.wanted() {
		before[a] = true
		if a.there() {
			continue
		}
		switch ok, never := l.room(a, before); {
		case ok:
			l.begin(a)
		case never:
			l.refuseAdapter(a, badAdapter(a.digest, fmt.Errorf("it takes %d bytes, and there is no room for it beside the pinned ones: allow more (adapter_memory)", a.bytes)))
			l.report()
		}
		return
	}
}

// wanted are the adapters that are waited for, in order: the texts' one behind those of answers, or before them where the
// last one that was loaded was an answer's.
func (l *loop) wanted() (all []*adapter) {
	candidates := l.candidates()
	for _, s := range candidates[:min(len(candidates), l.slots)] {
		all = append(all, s.run.adapter)
	}
	text := l.texts.wants()
	switch {
	case text == nil:
	case l.textNext:
		all = slices.Insert(all, 0, text)
	default:
		all = append(all, text)
	}
	return all
}

// room makes room for an adapter, but takes none from those that are waited for more.
func (l *loop) room(a *adapter, wanted map[*adapter]bool) (ok, never bool) {
	ok, never = l.rack.room(a, func(x *adapter) bool { return wanted[x] })
	if !l.turns.now.there() { // it was freed
		l.turns.now, l.sized = nil, false
	}
	return ok, never
}

// begin loads an adapter in a goroutine of its own. A crash there is put down to those who wait for it.
func (l *loop) begin(a *adapter) {
	l.loading, l.textNext = a, a != l.texts.wants()
	if !l.textNext {
		for _, p := range l.texts.of(a) {
			if len(l.blamed) < l.slots && !slices.Contains(l.blamed, p.of.id) {
				l.blamed = append(l.blamed, p.of.id)
			}
		}
	}
	for _, s := range l.waiting {
		if s.run.adapter == a && len(l.blamed) < l.slots {
			l.blamed = append(l.blamed, s.run.request.ID)
		}
	}
	l.tell(nil)
	l.loaders.Go(func() {
		handle, err := l.dev.load(a)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.arrived = &arrival{a, handle, err}
		l.signal()
	})
}

// arrive takes in what was loaded.
func (l *loop) arrive() {
	x := l.arrived
	if x == nil {
		return
	}
	l.arrived, l.loading, l.blamed, l.stalled = nil, nil, nil, false
	if x.err != nil {
		l.refuseAdapter(x.adapter, x.err)
		return
	}
	l.rack.add(x.adapter, x.handle)
}

// refuseAdapter ends all runs of an adapter.
func (l *loop) refuseAdapter(a *adapter, err error) {
	for _, s := range slices.Concat(l.running, l.waiting) {
		if s.run.adapter == a && s.run.open > 0 {
			l.end(s.run, err)
		}
	}
	l.texts.refuse(a, err)
	l.texts.report()
}
