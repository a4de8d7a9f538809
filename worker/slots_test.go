package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// bay is slots under test, with jobs that are named.
type bay struct {
	*slots
	t *testing.T
}

func (b bay) put(l queue.Lane, solo bool, ids ...string) (rs []*run) {
	for _, id := range ids {
		r := &run{held: &result.Held{Job: &queue.Job{ID: id, Lane: l}}, solo: solo, ctx: b.t.Context()}
		b.add(r)
		rs = append(rs, r)
	}
	return rs
}

func names(rs []*run) string {
	var ids []string
	for _, r := range rs {
		ids = append(ids, r.held.Job.ID)
	}
	return strings.Join(ids, " ")
}

// leaving are the jobs whose stay in the engine is over.
func (b bay) leaving(why error) (rs []*run) {
	for _, r := range b.inside {
		if context.Cause(r.stay) == why {
			rs = append(rs, r)
		}
	}
	return rs
}

// step wants certain jobs to be given to the engine and certain ones to be called back.
func (b bay) step(begin, back string) (began, called []*run) {
	b.t.Helper()
	began = b.next()
	called = b.leaving(errCalled)
	if names(began) != begin || names(called) != back {
		b.t.Fatalf("%q begin and %q are called back, want %q and %q", names(began), names(called), begin, back)
	}
	return began, called
}

// TestSlotsAhead: an engine that chooses by itself has some jobs of one lane ahead. Those that have not begun make way
// for another lane's, and come again in their order.
func TestSlotsAhead(t *testing.T) {
	b := bay{newSlots(8, 2), t}
	b.put(queue.Batch, false, strings.Fields("a b c d e f g h i j k l")...)
	given, _ := b.step("a b c d e f g h i j", "")
	for _, r := range given {
		if id := r.held.Job.ID; id != "c" && id != "j" && !b.began(r) { // the engine took i before c
			t.Errorf("%s had begun", id)
		}
	}
	if b.began(given[0]) {
		t.Error("a begins twice")
	}
	if running, waiting := b.counts(); running != 8 || waiting != 4 {
		t.Errorf("%d run and %d wait", running, waiting)
	}
	b.put(queue.Interactive, false, "now")
	_, called := b.step("", "c j")
	b.step("", "c j") // until they have left
	for _, r := range called {
		b.done(r)
		b.back(r)
	}
	b.step("", "")
	b.done(given[0])
	last, _ := b.step("now", "")
	b.done(given[1])
	b.step("c", "")
	b.put(queue.Batch, true, "alone")
	b.step("", "now c")
	if r := b.waiting[queue.Batch]; names(r) != "j k l" {
		t.Errorf("%q wait", names(r))
	}
	b.drop(b.solo[0])
	b.done(last[0])
	b.step("j", "c")
	for _, r := range given[3:9] {
		b.done(r)
	}
	b.put(queue.Batch, false, strings.Fields("m n o p q r s t u v w x")...)
	b.step("k l m n o p", "c")
	b.done(given[2])
	b.step("q r s", "") // eight have ended since the lanes were mixed
}

// TestSlotsHandBack: a drain learns what waits, here and in the engine, and no more is given ahead.
func TestSlotsHandBack(t *testing.T) {
	b := bay{newSlots(2, 2), t}
	b.put(queue.Flex, false, strings.Fields("a b c d e")...)
	given, _ := b.step("a b c d", "")
	b.began(given[0])
	b.began(given[3])
	if here, there := b.takeWaiting(), b.leaving(engine.ErrHandOver); names(here) != "e" || names(there) != "b c" {
		t.Errorf("%q wait here and %q there", names(here), names(there))
	}
	for _, r := range given[1:3] {
		b.done(r)
	}
	b.put(queue.Flex, false, "f")
	b.step("", "")
}

// choosy is an engine of two slots that has two more requests waiting, and begins the newest first. It ends the oldest
// that runs when it is told to: whichever goroutine is quicker, the same ones end.
type choosy struct {
	*scripted

	mu               sync.Mutex
	waiting, running []*seat
	ended            int
	begun            []string
	hasty            bool // each ends at once
}

type seat struct {
	r          *engine.Request
	begun, end chan struct{}
}

func (c *choosy) Info(ctx context.Context) (engine.Info, error) {
	info, err := c.scripted.Info(ctx)
	info.Slots, info.Ahead = 2, 2
	return info, err
}

func (c *choosy) Run(ctx context.Context, r *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
	s := &seat{r, make(chan struct{}), make(chan struct{})}
	c.change(func() { c.waiting = append(c.waiting, s) })
	select {
	case <-s.begun:
	case <-ctx.Done():
		c.change(func() { c.waiting = slices.DeleteFunc(c.waiting, func(x *seat) bool { return x == s }) })
		return nil, context.Cause(ctx)
	}
	<-s.end
	return answer(r.ID), nil
}

// change does something to the seats, then fills the slots.
func (c *choosy) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	for c.hasty && len(c.running) > 0 {
		c.endOldest()
	}
	for len(c.running) < 2 && len(c.waiting) > 0 {
		s := c.waiting[len(c.waiting)-1]
		c.waiting = c.waiting[:len(c.waiting)-1]
		c.running = append(c.running, s)
		c.begun = append(c.begun, s.r.ID)
		s.r.Begin()
		close(s.begun)
	}
}

func (c *choosy) endOldest() {
	close(c.running[0].end)
	c.running, c.ended = c.running[1:], c.ended+1
}

func (c *choosy) began(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.begun, id)
}

// queued are the requests that wait in the engine.
func (c *choosy) queued() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, s := range c.waiting {
		ids = append(ids, s.r.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// full says whether n requests have ended and two wait behind those that run since: none of the two begins by itself.
func (c *choosy) full(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended == n && len(c.running) == 2 && len(c.waiting) == 2
}

// endOne ends the oldest that runs, if any does.
func (c *choosy) endOne() (ended bool) {
	c.change(func() {
		if ended = len(c.running) > 0; ended {
			c.endOldest()
		}
	})
	return ended
}

// TestEngineThatChooses is given what waits, until another lane's job comes; each job ends once. A drain hands back
// what has not begun.
func TestEngineThatChooses(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	e := &choosy{scripted: newScripted(nil)}
	stop := r.start(e, func(c *Config) { c.Slots = 0 })
	var jobs []*queue.Job
	for i := range 10 {
		jobs = append(jobs, r.job(fmt.Sprint("job_", i), "p"))
	}
	r.feed(1, jobs...)
	eventually(t, "two wait in the engine", func() bool { return e.full(0) })
	now := r.job("job_now", "p")
	now.Lane = queue.Interactive
	ok(t, r.s.Accept(t.Context(), now))
	_, errs := r.q.Feed(t.Context(), queue.Interactive, r.b, queue.Pack([][]byte{now.Encode()}, 1))
	ok(t, errors.Join(errs...))
	eventually(t, "they are called back", func() bool { return e.queued() == "" })
	eventually(t, "one ends", e.endOne)
	eventually(t, "the other lane's is next", func() bool { return e.began(now.ID) })
	for range 2 {
		eventually(t, "one ends", e.endOne)
	}
	r.wait(now.ID) // the lanes are mixed until the worker has seen this
	for range 2 {
		eventually(t, "one ends", e.endOne)
	}
	eventually(t, "two wait in the engine again", func() bool { return e.full(5) })
	left := strings.Fields(e.queued())
	drained := make(chan struct{})
	go func() { defer close(drained); stop() }()
	for _, id := range left {
		eventually(t, "what waits is queued again", func() bool {
			st, err := r.s.Get(t.Context(), "acme", id)
			return err == nil && st.State == queue.Queued && st.Attempt == 0
		})
	}
	e.change(func() { e.hasty = true })
	<-drained
	r.start(newScripted(func(_ context.Context, q *engine.Request, _ int) (*engine.Completion, error) {
		return answer(q.ID), nil
	}))
	for _, j := range append(jobs, now) {
		if v := r.wait(j.ID); v.State != queue.Succeeded || v.Completion.Choices[0].Text != j.ID || v.Attempt != 1 {
			t.Errorf("%s: %s in attempt %d", j.ID, v.State, v.Attempt)
		}
	}
}
