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

// candidates are the waiting sequences that are let in next, in order: of requests that have begun, then of the favoured
// adapter's, then all others; as many as slots, so that a long queue costs a step nothing.
func (l *loop) candidates() []*sequence {
	if len(l.waiting) == 0 {
		return nil
	}
	favoured := l.turns.favour(claims(l.waiting), time.Now())
	var begun, first, others []*sequence
	for _, s := range l.waiting {
		switch {
		case s.run.started:
			begun = append(begun, s)
		case s.run.adapter == favoured:
			first = append(first, s)
		case len(others) < l.slots:
			others = append(others, s)
		}
	}
	all := slices.Concat(begun, first, others)
	return all[:min(len(all), l.slots)]
}

// claims are the first request of each adapter, of those that have not begun.
func claims(waiting []*sequence) (all []claim) {
	for _, s := range waiting {
		if !s.run.started && !slices.ContainsFunc(all, func(c claim) bool { return c.adapter == s.run.adapter }) {
			all = append(all, claim{s.run.adapter, s.run.deadline()})
		}
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
// that could be freed: else these might hold all of it for ever.
func (l *loop) there(s *sequence) bool {
	a, f := s.run.adapter, l.turns.favoured
	if !f.there() && f != l.loading && a != nil && a != f && !a.pinned && !s.run.started {
		return false
	}
	return a.there()
}

// groups are the running sequences by adapter.
func (l *loop) groups() (all []group) {
	for _, s := range l.running {
		i := slices.IndexFunc(all, func(g group) bool { return g.adapter == s.run.adapter })
		if i < 0 {
			i, all = len(all), append(all, group{adapter: s.run.adapter})
		}
		g := &all[i]
		g.rows++
		if d := s.run.deadline(); !d.IsZero() && (g.deadline.IsZero() || d.Before(g.deadline)) {
			g.deadline = d
		}
	}
	return all
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
	groups := l.groups()
	fixed := l.loading != nil
	if fixed {
		l.stalled = !l.sized || !slices.ContainsFunc(groups, func(g group) bool { return g.adapter == l.turns.now })
	}
	if len(groups) == 0 || l.stalled {
		return
	}
	before := l.turns.now
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
	for _, s := range l.candidates() {
		a := s.run.adapter
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
	l.loading = a
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
}
