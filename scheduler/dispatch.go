package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// dispatcher keeps a small window of deliveries ready in JOBS for one base, fed in order from the backlog. There is one
// at a time a base (a KV lease); a second one would cost duplicates, which claims drop.
//
// All its state is a view: it reads the backlog anew when it starts, and what it feeds twice is claimed once.
type dispatcher struct {
	b       string
	q       *queue.Queue
	jobs    jetstream.Stream // JOBS, once it was asked
	results *result.Store
	fleet   *queue.Fleet
	tenants tenants
	log     zerolog.Logger
	lanes   map[queue.Lane]*lane
	// parked followers wait for their leader's answer, by leader.
	parked map[string][]*item
	// charged is what jobs in the window were charged, until their end says what they cost.
	charged map[string]float64
	// refused lines have answers that could not be committed yet.
	refused []*item
	batches *batchRoad // nil where there are none
	meter   meter
	rate    float64 // jobs a second, a moving mean
	ends    int     // since the last tick
}

// tenants says what an operator has set.
type tenants interface {
	// Weight is the tenant's share beside the others'; Paused ones are passed over; MaxReady bounds its jobs in the
	// window, 0 for no bound. Rate bounds what it may have run in a minute.
	Weight(tenant string) float64
	Paused(tenant string) bool
	MaxReady(tenant string) int
	Rate(tenant string) result.Rate
}

// lane is what waits and what is ready in one lane.
type lane struct {
	name    queue.Lane
	order   *order
	win     *window
	sources map[string]*source
	puller  *queue.Puller // to look, not to pull
	probed  time.Time
	ended   int // jobs since then
	limits  limits
}

func newDispatcher(b string, q *queue.Queue, r *result.Store, f *queue.Fleet, t tenants, br *batchRoad, log zerolog.Logger) *dispatcher {
	d := &dispatcher{b: b, q: q, results: r, fleet: f, tenants: t, batches: br, log: log.With().Str("base", b).Logger(), lanes: map[queue.Lane]*lane{},
		parked: map[string][]*item{}, charged: map[string]float64{}}
	for _, l := range queue.Lanes {
		d.lanes[l] = &lane{name: l, order: newOrder(), win: newWindow(), sources: map[string]*source{}, puller: q.Puller(l, b), limits: limits{}}
	}
	return d
}

// hints are the core messages that a dispatcher listens to. Each may be lost: a look each second finds the same.
type hints struct {
	acks, wake, done chan *nats.Msg
	subs             []*nats.Subscription
}

func (d *dispatcher) listen() (*hints, error) {
	h := &hints{acks: make(chan *nats.Msg, 1<<16), wake: make(chan *nats.Msg, 1<<12), done: make(chan *nats.Msg, 1<<16)}
	on := map[string]chan *nats.Msg{queue.WakeSubject(d.b): h.wake, queue.DoneSubject("*"): h.done}
	for _, l := range queue.Lanes {
		durable := queue.Durable(l, d.b)
		on["$JS.ACK.JOBS."+durable+".>"] = h.acks
		on["$JS.ACK.*.*.JOBS."+durable+".>"] = h.acks // the newer form, with domain and account
	}
	for subject, ch := range on {
		s, err := d.q.Conn().ChanSubscribe(subject, ch)
		if err != nil {
			h.stop()
			return nil, err
		}
		h.subs = append(h.subs, s)
	}
	return h, nil
}

func (h *hints) stop() {
	for _, s := range h.subs {
		_ = s.Unsubscribe()
	}
}

// errorPause is before the next try when NATS or Redis is away.
const errorPause = 100 * time.Millisecond

// run dispatches until ctx ends.
func (d *dispatcher) run(ctx context.Context) error {
	h, err := d.listen()
	if err != nil {
		return err
	}
	defer h.stop()
	news, forget := d.batches.listen()
	defer forget()
	defer d.closeBatches()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	d.look(ctx)
	for ctx.Err() == nil {
		if err := d.feedAll(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn().Err(err).Msg("dispatch stalls")
			pause(ctx, errorPause)
		}
		select {
		case <-ctx.Done():
		case m := <-h.acks:
			d.onAck(m)
		case m := <-h.wake:
			d.wake(string(m.Data))
		case m := <-h.done:
			d.onDone(ctx, m)
		case <-news:
			d.step(ctx, d.lookBatches)
		case <-tick.C:
			d.look(ctx)
		}
		d.drainHints(ctx, h)
	}
	return nil
}

// drainHints takes what has come meanwhile, so that one feed serves many hints.
func (d *dispatcher) drainHints(ctx context.Context, h *hints) {
	for {
		select {
		case m := <-h.acks:
			d.onAck(m)
		case m := <-h.wake:
			d.wake(string(m.Data))
		case m := <-h.done:
			d.onDone(ctx, m)
		default:
			return
		}
	}
}

func pause(ctx context.Context, t time.Duration) {
	select {
	case <-time.After(t):
	case <-ctx.Done():
	}
}

// wake says that a subject has news.
func (d *dispatcher) wake(subject string) {
	p, _, ok := queue.ParsePlace(subject)
	if !ok || p.B != d.b {
		return
	}
	ln := d.lanes[p.Lane]
	s := ln.sources[p.Subject]
	if s == nil {
		s = newBacklog(d.q, p, d.unreadable)
		ln.sources[p.Subject] = s
	}
	s.more = true
}

// onAck lowers a window's level. An acknowledgement's subject holds the delivery's sequence in JOBS.
func (d *dispatcher) onAck(m *nats.Msg) {
	if body := string(m.Data); body != "" && body != "+ACK" && body != "+TERM" {
		return
	}
	l, seq, ok := parseAck(m.Subject, d.b)
	if !ok {
		return
	}
	n := d.lanes[l].win.acked(seq)
	d.ends += n
	d.lanes[l].ended += n
}

// parseAck reads $JS.ACK.[<domain>.<account>.]JOBS.<lane>-<b>.<delivered>.<stream seq>.…
func parseAck(subject, b string) (l queue.Lane, seq uint64, ok bool) {
	p := strings.Split(subject, ".")
	for i, x := range p {
		name, base, found := strings.Cut(x, "-")
		if !found || base != b || i+2 >= len(p) {
			continue
		}
		lane, known := queue.ParseLane(name)
		seq, err := strconv.ParseUint(p[i+2], 10, 64)
		return lane, seq, known && err == nil
	}
	return "", 0, false
}

// verdictCost is what a dispatcher reads of a verdict: the answer's text is none of its business.
type verdictCost struct {
	Job, Tenant string
	Lane        queue.Lane
	Cached      bool
	Completion  *struct{ Usage engine.Usage }
}

// onDone lets followers go on, and mends their tenant's account: a job's true cost is known now.
func (d *dispatcher) onDone(ctx context.Context, m *nats.Msg) {
	id := strings.TrimPrefix(m.Subject, queue.DoneSubject(""))
	if strings.HasPrefix(id, "batch_") {
		d.onLines(ctx, id, m)
		return
	}
	if charged, ok := d.charged[id]; ok {
		delete(d.charged, id)
		var v verdictCost
		if json.Unmarshal(m.Data, &v) == nil && d.lanes[v.Lane] != nil {
			d.lanes[v.Lane].order.correct(v.Tenant, v.cost()-charged, d.tenants.Weight(v.Tenant))
		}
	}
	d.unpark(ctx, id)
}

// unpark lets a leader's followers go on.
func (d *dispatcher) unpark(ctx context.Context, leader string) {
	if its := d.parked[leader]; len(its) > 0 {
		delete(d.parked, leader)
		d.join(ctx, its)
	}
}

// cost in tokens, as order.cost guesses it. A job that never ran cost nothing.
func (v *verdictCost) cost() float64 {
	if v.Completion == nil || v.Cached {
		return 0
	}
	u := v.Completion.Usage
	return float64(u.PromptTokens - u.CachedTokens + u.CompletionTokens)
}

// look finds what hints have missed, corrects levels, purges, and ends what has expired.
func (d *dispatcher) look(ctx context.Context) {
	d.rate = max(float64(d.ends), d.rate+(float64(d.ends)-d.rate)/4) // up at once, down slowly
	d.ends = 0
	for _, step := range []func(context.Context) error{d.lookBacklog, d.lookBatches, d.lookWindows, d.lookSources, d.expire, d.rejoin, d.refuse, d.report, d.measure} {
		d.step(ctx, step)
	}
	if len(d.charged) > 8*maxWindow { // hints of their ends were lost
		clear(d.charged)
	}
	for _, ln := range d.lanes {
		ln.win.size(d.fleet.Slots(d.b), d.rate)
		ln.order.forget()
	}
}

func (d *dispatcher) step(ctx context.Context, step func(context.Context) error) {
	if err := step(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn().Err(err).Msg("look failed")
	}
}

func (d *dispatcher) lookBacklog(ctx context.Context) error {
	for stream, filter := range map[string]string{queue.StreamBacklog: "backlog.*." + d.b + ".>", queue.StreamLater: "due.*." + d.b + ".>"} {
		subjects, err := d.q.Subjects(ctx, stream, filter)
		if err != nil {
			return err
		}
		for s := range subjects {
			d.wake(s)
		}
	}
	return nil
}

// lookWindows asks each consumer where it stands, and JOBS what it holds: a consumer hears of a message a moment later, so
// that one without work may be about to be told of what was just fed. A JOBS that has lost its tail, or is gone, has lost
// what was fed: the backlog is read again from what was not purged.
func (d *dispatcher) lookWindows(ctx context.Context) error {
	js := d.q.JS()
	if d.jobs == nil {
		st, err := js.Stream(ctx, queue.StreamJobs)
		if err != nil {
			return err
		}
		d.jobs = st
	}
	held, err := d.jobs.Info(ctx, jetstream.WithSubjectFilter(queue.JobsSubject("*", d.b)))
	if err != nil {
		return err
	}
	for _, ln := range d.lanes {
		c, err := js.Consumer(ctx, queue.StreamJobs, queue.Durable(ln.name, d.b))
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			if err = d.q.SetupBase(ctx, d.b); err == nil {
				ln.rewind()
			}
			return err
		}
		if err != nil {
			return err
		}
		if held.State.LastSeq < ln.win.last {
			ln.rewind()
			continue
		}
		ln.win.settle(c.CachedInfo().AckFloor.Stream, held.State.Subjects[queue.JobsSubject(ln.name, d.b)] == 0)
	}
	return nil
}

func (ln *lane) rewind() {
	ln.win, ln.order = newWindow(), newOrder()
	for _, s := range ln.sources {
		s.rewind()
	}
}

func (d *dispatcher) lookSources(ctx context.Context) error {
	for _, ln := range d.lanes {
		for _, s := range ln.sources {
			if err := s.from.look(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// expire ends jobs whose deadline is past, fed or parked.
func (d *dispatcher) expire(ctx context.Context) error {
	now := time.Now()
	var its []*item
	for _, ln := range d.lanes {
		its = append(its, ln.order.expired(now)...)
	}
	for leader, ps := range d.parked {
		left := ps[:0:0]
		for _, it := range ps {
			if it.job.Expired(now) {
				its = append(its, it)
			} else {
				left = append(left, it)
			}
		}
		d.park(leader, left)
	}
	return d.endExpired(ctx, its)
}

func (d *dispatcher) endExpired(ctx context.Context, its []*item) error {
	return d.end(ctx, its, func(it *item) *result.Verdict {
		return result.For(&it.job, queue.Expired, time.Now().UnixMilli())
	})
}

func (d *dispatcher) park(leader string, its []*item) {
	if len(its) == 0 {
		delete(d.parked, leader)
		return
	}
	d.parked[leader] = its
}

// end settles jobs that will not be fed. Those that can't be settled now are candidates again.
func (d *dispatcher) end(ctx context.Context, its []*item, verdict func(*item) *result.Verdict) error {
	if len(its) == 0 {
		return nil
	}
	vs := make([]*result.Verdict, len(its))
	for i, it := range its {
		vs[i] = verdict(it)
	}
	stood, err := d.results.Settle(ctx, vs...)
	for i, it := range its {
		switch {
		case stood[i] != nil:
			it.src.close(it.seq)
		case it.refused != nil:
			d.refused = append(d.refused, it)
		default:
			d.candidate(it)
		}
	}
	return err
}

// candidate hands a job to the order, unless its source is gone.
func (d *dispatcher) candidate(it *item) {
	if !it.src.gone {
		d.lanes[it.job.Lane].order.add(it)
	}
}

// refuse answers lines that can't be run.
func (d *dispatcher) refuse(ctx context.Context) error {
	its := slices.DeleteFunc(d.refused, func(it *item) bool { return it.src.gone })
	d.refused = nil
	return d.end(ctx, its, func(it *item) *result.Verdict {
		v := result.For(&it.job, queue.Failed, time.Now().UnixMilli())
		v.Error = it.refused
		return v
	})
}

// rejoin asks again for followers whose leader's end was not heard.
func (d *dispatcher) rejoin(ctx context.Context) error {
	for _, leader := range sorted(d.parked) {
		its := d.parked[leader]
		delete(d.parked, leader)
		d.join(ctx, its)
	}
	return nil
}

// join sorts cacheable jobs: answered, following, or to be fed.
func (d *dispatcher) join(ctx context.Context, its []*item) {
	its = slices.DeleteFunc(its, func(it *item) bool { return it.src.gone })
	if len(its) == 0 {
		return
	}
	jobs := make([]*queue.Job, len(its))
	for i, it := range its {
		jobs[i] = &it.job
	}
	js, err := d.results.JoinAll(ctx, jobs)
	if err != nil { // Redis is away or lost: computing one twice costs time, nothing else
		js = make([]result.Joined, len(its))
	}
	var hits []*item
	answers := map[*item]*engine.Completion{}
	for i, it := range its {
		switch j := js[i]; {
		case j.Over:
			it.src.close(it.seq)
		case j.Hit != nil:
			hits, answers[it] = append(hits, it), j.Hit
		case j.Leader != "":
			it.leader = j.Leader
			d.parked[j.Leader] = append(d.parked[j.Leader], it)
		default:
			d.candidate(it)
		}
	}
	if err := d.end(ctx, hits, func(it *item) *result.Verdict { return cachedVerdict(it, answers[it]) }); err != nil {
		d.log.Warn().Err(err).Msg("cached answers not committed yet")
	}
}

func cachedVerdict(it *item, c *engine.Completion) *result.Verdict {
	v := result.For(&it.job, queue.Succeeded, time.Now().UnixMilli())
	v.Completion, v.Cached, v.Leader = c, true, it.leader
	return v
}

// feedAll reads ahead and fills each lane's window.
func (d *dispatcher) feedAll(ctx context.Context) error {
	for _, l := range queue.Lanes {
		ln := d.lanes[l]
		if err := d.readAhead(ctx, ln); err != nil {
			return err
		}
		if err := d.feed(ctx, ln); err != nil {
			return err
		}
	}
	return nil
}

// readAhead tops up the candidates of each source that has run low.
func (d *dispatcher) readAhead(ctx context.Context, ln *lane) error {
	for _, name := range sorted(ln.sources) {
		for s := ln.sources[name]; s.thirsty(); {
			its, err := s.read(ctx, readAhead)
			if err != nil { // the others go on; the next look tries again
				d.log.Warn().Err(err).Str("source", name).Msg("source is not read for now")
				s.more = false
				break
			}
			if err := d.sort(ctx, ln, its); err != nil {
				return err
			}
		}
	}
	return nil
}

// sort says what becomes of jobs that were read.
func (d *dispatcher) sort(ctx context.Context, ln *lane, its []*item) error {
	var cacheable []*item
	for _, it := range its {
		switch {
		case it.refused != nil:
			d.refused = append(d.refused, it)
		case it.job.CacheKey != "":
			cacheable = append(cacheable, it)
		default:
			ln.order.add(it)
		}
	}
	d.join(ctx, cacheable)
	return d.refuse(ctx)
}

func (d *dispatcher) unreadable(m queue.Stored, err error) {
	d.log.Error().Err(err).Str("subject", m.Subject).Uint64("seq", m.Seq).Msg("unreadable job passed over")
}

// feed fills a lane's window in the order's order. What has expired is not fed.
func (d *dispatcher) feed(ctx context.Context, ln *lane) error {
	if err := d.endExpired(ctx, ln.order.expired(time.Now())); err != nil {
		return err
	}
	for room := ln.win.room(); room > 0; room = ln.win.room() {
		picks := d.picks(ctx, ln, room)
		if len(picks) == 0 {
			return nil
		}
		d.probe(ctx, ln)
		if err := d.put(ctx, ln, picks); err != nil {
			return err
		}
	}
	return nil
}

// probeEvery is between looks at whether workers run dry: one costs 0.14 ms.
const probeEvery = 50 * time.Millisecond

// probe lets W grow when jobs wait here while nothing is ready in JOBS: what was fed is held by workers, and they want
// more than a round trip brings.
func (d *dispatcher) probe(ctx context.Context, ln *lane) {
	since := time.Since(ln.probed)
	if since < probeEvery {
		return
	}
	rate := float64(ln.ended) / since.Seconds()
	ln.probed, ln.ended = time.Now(), 0
	if ready, _, err := ln.puller.Pending(ctx); err == nil && ready == 0 {
		ln.win.grow(rate)
	}
}

// deliveryTime is about how long a delivery's jobs may take: short beside a turn of everybody else's, long enough that
// one acknowledgement stands for many jobs.
const deliveryTime = 10 * time.Millisecond

// perDelivery is how many jobs one delivery carries: what the fleet ends in deliveryTime, and no more than a thirtieth
// of the window while the rate is not known.
func (d *dispatcher) perDelivery(ln *lane) int {
	return min(queue.MaxDelivery, max(1, ln.win.want/32, int(d.rate*deliveryTime.Seconds())))
}

// picks are runs of jobs of one tenant and adapter, in order. One run is small beside the window, so that tenants take
// turns inside it.
func (d *dispatcher) picks(ctx context.Context, ln *lane, room int) (out [][]*item) {
	now, k := time.Now(), d.perDelivery(ln)
	ready := map[string]int{}
	for room > 0 {
		its := ln.order.pick(now, min(k, room), d.tenants.Weight, func(t string) bool {
			most := d.tenants.MaxReady(t)
			return d.tenants.Paused(t) || most > 0 && ln.win.tenants[t]+ready[t] >= most || ln.limits.holds(t, now)
		})
		if len(its) == 0 {
			return out
		}
		if its = d.allowed(ctx, ln, its, now); len(its) == 0 {
			continue
		}
		room -= len(its)
		ready[its[0].job.Tenant] += len(its)
		out = append(out, its)
	}
	return out
}

// put feeds picks as deliveries. Where the outcome is unknown the jobs are candidates again: claims drop duplicates.
func (d *dispatcher) put(ctx context.Context, ln *lane, picks [][]*item) error {
	var ps []queue.Parcel
	var of [][]*item
	for _, its := range picks {
		jobs := make([][]byte, len(its))
		for i, it := range its {
			jobs[i] = it.data
		}
		for _, p := range queue.Pack(jobs, 0) {
			ps, of = append(ps, p), append(of, its[:p.Jobs])
			its = its[p.Jobs:]
		}
	}
	seqs, errs := d.q.Feed(ctx, ln.name, d.b, ps)
	for i, err := range errs {
		for _, it := range of[i] {
			if err != nil {
				d.candidate(it)
				continue
			}
			it.src.close(it.seq)
			d.charged[it.job.ID] = it.cost
		}
		if err == nil {
			ln.win.put(seqs[i], of[i][0].job.Tenant, ps[i].Jobs)
		}
	}
	fedTotal.WithLabelValues(string(ln.name)).Add(float64(len(ps)))
	return errors.Join(errs...)
}
