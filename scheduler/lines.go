package scheduler

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"lorry/batch"
	"lorry/engine"
	"lorry/queue"
	"lorry/record"
)

// batchRoad is what dispatchers need of batches: what there is to feed, and how lines are read. Its view is filled by a
// watch; a nil one is empty.
type batchRoad struct {
	batches *batch.Batches
	lines   Lines

	mu        sync.Mutex
	live      map[string]batch.Batch // by ID: those that something is left to do for
	listeners map[chan struct{}]struct{}
}

func newBatchRoad(b *batch.Batches, l Lines) *batchRoad {
	return &batchRoad{batches: b, lines: l, live: map[string]batch.Batch{}, listeners: map[chan struct{}]struct{}{}}
}

// see takes news of a batch. What is older than what was seen is none: the watch and the keeper's own steps overtake each
// other.
func (r *batchRoad) see(b batch.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case b.Purged:
		delete(r.live, b.ID)
	case !b.Older(r.live[b.ID]):
		r.live[b.ID] = b
	}
	for ch := range r.listeners {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// listen is told of news, one for many.
func (r *batchRoad) listen() (news chan struct{}, stop func()) {
	if r == nil {
		return nil, func() {}
	}
	ch := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners[ch] = struct{}{}
	return ch, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.listeners, ch)
	}
}

// all are the batches that something is left to do for, the oldest first.
func (r *batchRoad) all() (out []batch.Batch) {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.live {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b batch.Batch) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// atOnce is how many batches of a tenant are fed from at a time, the most urgent: each costs an open file and a
// read-ahead.
const atOnce = 8

// feedable are the batches of a base that are to be fed from.
func (r *batchRoad) feedable(base string, now time.Time) map[string]batch.Batch {
	var of []batch.Batch
	for _, b := range r.all() {
		if b.Feedable(now) && b.Resolved.B() == base {
			of = append(of, b)
		}
	}
	slices.SortStableFunc(of, urgency)
	out, n := map[string]batch.Batch{}, map[string]int{}
	for _, b := range of {
		if n[b.Tenant]++; n[b.Tenant] <= atOnce {
			out[b.ID] = b
		}
	}
	return out
}

// urgency is rank, for batches.
func urgency(a, b batch.Batch) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ExpiresAt, b.ExpiresAt), strings.Compare(a.ID, b.ID))
}

// lines is a batch as a source: a cursor over its file that passes over what has ended.
type lines struct {
	road *batchRoad
	q    *queue.Queue
	b    batch.Batch
	file *batch.Lines
	next int
	// ended lines have verdicts, as far as is known; nil: RESULTS is to be asked. elsewhere are in JOBS or LATER.
	ended     *batch.Set
	elsewhere map[int]bool
	turn      int
	pace      pace
	verified  time.Time // last look into RESULTS
}

func batchSource(r *batchRoad, q *queue.Queue, b batch.Batch) *source {
	s := newSource(b.Tenant, &lines{road: r, q: q, b: b, next: 1})
	s.due, s.prio = b.ExpiresAt*1000, b.Priority
	return s
}

func (l *lines) read(ctx context.Context, s *source, n int) (its []*item, more bool, err error) {
	if err := l.open(ctx); err != nil {
		return nil, true, err
	}
	now := time.Now().UnixMilli()
	for ; len(its) < n && l.next <= l.b.Counts.Total; l.next++ {
		if _, open := s.open[uint64(l.next)]; open || l.ended.Has(l.next) || l.elsewhere[l.next] {
			continue
		}
		text, err := l.file.Line(l.next)
		if err != nil && len(its) > 0 {
			break // it is met again
		}
		if err != nil {
			return nil, true, errors.Join(err, l.close())
		}
		its = append(its, l.item(l.next, text, now))
	}
	l.arrange(its)
	return its, l.next <= l.b.Counts.Total, nil
}

// open looks at where the batch stands: a batch is fed from what RESULTS and JOBS say, not from what was written down.
func (l *lines) open(ctx context.Context) (err error) {
	if l.ended == nil {
		if err := l.verify(ctx); err != nil {
			return err
		}
		if l.elsewhere, err = l.waiting(ctx); err != nil {
			l.ended = nil
			return err
		}
		l.next = 1
	}
	if l.file == nil {
		l.file, err = l.road.batches.OpenLines(context.WithoutCancel(ctx), l.b)
	}
	return err
}

func (l *lines) close() error {
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

func (l *lines) verify(ctx context.Context) (err error) {
	l.verified = time.Now()
	l.ended, err = l.road.batches.Ended(ctx, l.b)
	return err
}

// item makes a line a job. One that can't be read is refused, by itself.
func (l *lines) item(n int, text []byte, now int64) *item {
	it := &item{seq: uint64(n), job: queue.Job{V: queue.V, ID: queue.LineID(l.b.ID, n), Tenant: l.b.Tenant, Lane: queue.Batch, Endpoint: l.b.Endpoint,
		Created: now, Batch: l.b.ID, Line: n, Request: engine.Request{Model: l.b.Resolved}}}
	line, e := batch.ParseLine(text, l.b.Endpoint)
	if e != nil { // it was checked: the bytes have changed
		it.refused = engine.Errorf(engine.Invalid, e.Code, e.Param, "%s", e.Message)
		return it
	}
	it.job.CustomID = line.CustomID
	if it.refused = l.road.lines.Read(&it.job, line.Body); it.refused != nil {
		return it
	}
	it.data = it.job.Encode()
	if most := l.q.Conn().MaxPayload() - envelope; int64(len(it.data)) > most {
		it.refused = engine.Errorf(engine.Invalid, "request_too_large", "", "The request is larger than the queue takes (%d bytes of %d). Send less text.", len(it.data), most)
	}
	return it
}

// envelope is what a message of one job holds beside it.
const envelope = 4 << 10

// arrange puts lines that begin alike next to each other: an engine that has just read a prefix has it still.
func (l *lines) arrange(its []*item) {
	slices.SortStableFunc(its, func(a, b *item) int {
		x, y := &a.job.Request, &b.job.Request
		return cmp.Or(bytes.Compare(x.Messages, y.Messages), strings.Compare(x.Prompt, y.Prompt))
	})
	for _, it := range its {
		l.turn++
		it.turn = l.turn
	}
}

// waiting are the batch's lines that are on their way: in JOBS, in LATER, or just moved back from it.
func (l *lines) waiting(ctx context.Context) (map[int]bool, error) {
	out := map[int]bool{}
	base := l.b.Resolved.B()
	err := l.each(ctx, queue.StreamJobs, queue.JobsSubject(queue.Batch, base), func(m queue.Stored) {
		if d, err := queue.DecodeDelivery(m.Data); err == nil {
			for i := range d.Jobs {
				out[l.mine(&d.Jobs[i])] = true
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = l.each(ctx, queue.StreamLater, queue.DueSubject(queue.Batch, base, l.b.Tenant), func(m queue.Stored) {
		if j, err := queue.DecodeJob(m.Data); err == nil {
			out[l.mine(&j)] = true
		}
	})
	if err != nil {
		return nil, err
	}
	later, err := l.q.Subjects(ctx, queue.StreamLater, queue.LaterSubject("*"))
	for name := range later {
		if strings.HasPrefix(name, queue.LaterSubject("job_"+l.b.ID)) {
			out[queue.LineOf(name)] = true
		}
	}
	return out, err
}

// mine is the line's number if it is this batch's, else 0, which no line has.
func (l *lines) mine(j *queue.Job) int {
	if j.Batch != l.b.ID {
		return 0
	}
	return j.Line
}

func (l *lines) each(ctx context.Context, stream, subject string, do func(queue.Stored)) error {
	for ms, err := range l.q.Pages(ctx, stream, subject, 0, readAhead) {
		if err != nil {
			return err
		}
		for _, m := range ms {
			do(m)
		}
	}
	return nil
}

// verifyEvery is between looks at whether a line was lost, while all are fed and some have not ended.
const verifyEvery = 15 * time.Second

// look closes the batch by looking: when all is fed, it is over once RESULTS has all lines, and lines that are nowhere are
// fed again.
func (l *lines) look(ctx context.Context, s *source) error {
	if l.ended == nil {
		s.more = true
	}
	if s.more || len(s.open) > 0 {
		return nil
	}
	if l.ended.Full() || l.counted(ctx) || time.Since(l.verified) >= verifyEvery {
		return l.settle(ctx, s)
	}
	return nil
}

// counted asks Redis, which is cheap, whether it is time to ask RESULTS.
func (l *lines) counted(ctx context.Context) bool {
	c, err := l.road.batches.Counts(ctx, l.b)
	return err == nil && c.Ended() >= l.b.Counts.Total
}

func (l *lines) settle(ctx context.Context, s *source) error {
	over, err := l.road.batches.AllEnded(ctx, l.b)
	if err != nil {
		return err
	}
	if over {
		_, err := l.road.batches.Finalize(ctx, l.b.Tenant, l.b.ID)
		if _, moved := errors.AsType[*batch.StatusError](err); moved {
			return nil // its owner or its deadline was quicker
		}
		return err
	}
	if err := l.verify(ctx); err != nil {
		return err
	}
	if l.elsewhere, err = l.waiting(ctx); err != nil {
		return err
	}
	for n := range l.ended.Missing() {
		if !l.elsewhere[n] {
			l.next, s.more = 1, true
			return nil
		}
	}
	return nil
}

func (l *lines) rewind() { l.ended = nil }

// batchName is a batch among a lane's sources: no subject begins so.
func batchName(id string) string { return "batch/" + id }

// lookBatches begins to feed from batches, and leaves those that are not to be fed any more.
func (d *dispatcher) lookBatches(context.Context) error {
	if d.batches == nil {
		return nil
	}
	ln := d.lanes[queue.Batch]
	feedable := d.batches.feedable(d.b, time.Now())
	for _, name := range sorted(ln.sources) {
		s := ln.sources[name]
		l, ok := s.from.(*lines)
		if !ok {
			continue
		}
		b, stays := feedable[l.b.ID]
		if !stays {
			d.leave(ln, name, s, l)
			continue
		}
		delete(feedable, b.ID)
		if s.prio != b.Priority || s.due != b.ExpiresAt*1000 {
			s.prio, s.due = b.Priority, b.ExpiresAt*1000
			ln.order.rerank(s.tenant)
		}
	}
	for _, b := range feedable {
		ln.sources[batchName(b.ID)] = batchSource(d.batches, d.q, b)
	}
	return nil
}

func (d *dispatcher) leave(ln *lane, name string, s *source, l *lines) {
	s.gone = true
	ln.order.drop(s)
	_ = l.close()
	delete(ln.sources, name)
}

// closeBatches lets go of the files.
func (d *dispatcher) closeBatches() {
	for _, s := range d.lanes[queue.Batch].sources {
		if l, ok := s.from.(*lines); ok {
			_ = l.close()
		}
	}
}

// onLines takes in which lines have ended, as onDone does of singles.
func (d *dispatcher) onLines(ctx context.Context, id string, m *nats.Msg) {
	var done queue.LinesDone
	if record.Unmarshal(m.Data, &done) != nil {
		return
	}
	ln := d.lanes[queue.Batch]
	s := ln.sources[batchName(id)]
	delta := 0.0
	for _, x := range done.Lines {
		job := queue.LineID(id, x.Line)
		if charged, ok := d.charged[job]; ok {
			delete(d.charged, job)
			delta += float64(x.Tokens) - charged
			d.meter.add(charged)
		}
		if s != nil {
			s.from.(*lines).end(x)
		}
		d.unpark(ctx, job)
	}
	if s == nil {
		return
	}
	ln.order.correct(s.tenant, delta, d.tenants.Weight(s.tenant))
	d.step(ctx, func(ctx context.Context) error { return s.from.(*lines).hint(ctx, s) })
}

func (l *lines) end(x queue.LineDone) {
	l.pace.add(x.Tokens)
	if l.ended != nil {
		l.ended.Add(x.Line)
	}
}

// hint looks at once when all lines are said to have ended.
func (l *lines) hint(ctx context.Context, s *source) error {
	if l.ended == nil || !l.ended.Full() {
		return nil
	}
	return l.look(ctx, s)
}
