package llama

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// decoder is what the loop asks of llama.cpp.
type decoder interface {
	decode(rows []row) (code int32)
	logits(row int) []float32
	// share lets a sequence use the first n cells of another. It says false, and leaves to empty, where these are not
	// what from holds, or to is not empty.
	share(from, to, n int) bool
	remove(slot, from int) bool
	// freeze is the state of a sequence's cells from a position on, before another, as bytes of this context. None: it
	// can't be had.
	freeze(id, from, to int) []byte
	// thaw adds the cells [from, to) of a state to a sequence that holds those before. It says false, and leaves the
	// sequence as it was, where that can't be done.
	thaw(state []byte, slot, from, to int) bool
	why(code int32) string

	// load may run in a goroutine of its own, but neither beside unload, nor beside the first decode after a use or an
	// unload that changed anything.
	load(a *adapter) (llama.AdapterLora, error)
	unload(handle llama.AdapterLora)
	// use has the calls from now on compute with an adapter, with none for 0. It says false when that is impossible.
	use(handle llama.AdapterLora) bool
}

// Stats counts what an engine has done.
type Stats struct {
	Steps       int           // native calls
	Rows        int           // tokens computed in them
	Drawn       int           // tokens of answers
	Resumed     int           // tokens of answers that were drawn elsewhere, and computed here like prompts
	Preempted   int           // sequences that lost their cells to older ones and came back later
	Parked      int           // sequences that gave their slots to those of another adapter, and kept their cells
	Failed      int           // native calls that failed
	Busy        time.Duration // time in steps
	Running     int
	Waiting     int
	CellsInUse  int // held or reserved by sequences at work
	CellsIdle   int // kept for those that begin alike
	Shared      int // tokens that were not computed, since they were in cells or in host memory
	Thawed      int // of these, from host memory
	ColdBytes   int // kept in host memory
	Mismatched  int // times that llama.cpp's cells were not what was believed, and all was computed; 0 but for a fault
	CellsInAll  int
	SlotsInAll  int
	Outstanding int // requests taken and not ended
	Embedded    int // texts made vectors of, in EmbedCalls native calls
	EmbedCalls  int

	Adapters     int           // loaded
	AdapterBytes int64         // of these
	AdapterLoads int           // times that one was loaded
	Evicted      int           // of them, those that were freed to make room
	Changes      int           // of the adapter that the context computes with
	ChangeCost   time.Duration // of one, by the moving mean
	Turns        int           // turns that ended while others waited for theirs
	TurnTime     time.Duration // of these together
}

// loop owns the context: it alone calls into it. Sequences join and leave at every step.
type loop struct {
	dev      decoder
	vocab    *vocab
	rows     int // most rows of a step
	limit    int // rows that this step may have
	noShare  bool
	pace     pace
	turns    turns
	rack     rack
	loading  *adapter // by a goroutine of its own
	textNext bool     // the next one to be loaded is the texts'
	blamed   []string // the requests that it is loaded for
	sized    bool     // a call was made since the context's adapter changed
	stalled  bool     // there is nothing to do before an adapter is loaded
	loaders  sync.WaitGroup
	observe  engine.DecodeObserver
	cache    *cache
	texts    *embedder // nil: none are embedded
	cells    int
	slots    int
	running  []*sequence // oldest first
	waiting  []*sequence // by deadline, then first come, first served; preempted ones before all
	seen     []string    // what observe was told last
	finished []*sequence // in this step
	ended    []ending    // in this step
	fresh    []*run      // with chunks put out in this step
	scratch  []*scratch  // one for each goroutine that draws
	stats    Stats
	gauge    gauge
	patience time.Duration // how long a step waits for first chunks to be shown

	mu       sync.Mutex
	inbox    []*run
	asks     []inquiry
	arrived  *arrival // what was loaded
	closed   bool
	snapshot Stats
	gate     sync.Locker // held for a step: ggml's threads spin while they wait, so two loops on the same cores take turns
	wake     chan struct{}
	stopped  chan struct{}
}

// newLoop takes Slots, Rows, StepTarget, IdleCells, NoShare and what follows from the device from c, and as many cells as
// dev has.
func newLoop(c Config, dev decoder, v *vocab, cells int, branches bool) *loop {
	observe := c.Observe
	if observe == nil {
		observe = func([]string) {}
	}
	idle, coldBytes := c.IdleCells, int(max(0, c.ColdBytes))
	if c.NoShare {
		idle, coldBytes = 0, 0
	}
	return &loop{
		dev: dev, gate: new(sync.Mutex), vocab: v, rows: max(c.Rows, c.Slots), noShare: c.NoShare, observe: observe,
		rack: rack{dev: dev, most: c.AdapterBytes},
		pace: pace{target: c.StepTarget, stretch: c.Stretch, apart: c.apart}, turns: turns{tenure: c.Tenure},
		cache:   newCache(dev, c.Slots, cells, idle, c.cool, coldBytes, branches),
		scratch: scratches(c.drawers),
		cells:   cells, slots: c.Slots, patience: patience, wake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
}

func errClosed() error { return engine.Errorf(engine.Unavailable, "", "", "the engine is closed") }

// submit queues a run.
func (l *loop) submit(u *run) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed()
	}
	l.inbox = append(l.inbox, u)
	l.signal()
	return nil
}

func (l *loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// close ends all runs and waits until no native call is under way.
func (l *loop) close() {
	l.refuse()
	<-l.stopped
}

// refuse takes no more runs, and has the loop end after its step.
func (l *loop) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.signal()
}

func (l *loop) read() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snapshot
}

// run steps until close.
func (l *loop) run() {
	defer close(l.stopped)
	for l.receive() {
		l.gate.Lock()
		l.step()
		l.gate.Unlock()
	}
	l.abandon()
}

// receive takes what was submitted. It waits when there is nothing else to do, and says false after close.
func (l *loop) receive() bool {
	for {
		l.mu.Lock()
		l.takeInbox()
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return false
		}
		if l.work() {
			return true
		}
		l.tell(nil)
		l.stalled = false
		<-l.wake
	}
}

// work says that there is something to do.
func (l *loop) work() bool {
	if l.loading == nil && l.texts.waiting() {
		return true
	}
	return !l.stalled && len(l.running)+len(l.waiting)+len(l.ended) > 0
}

// takeInbox queues one sequence of each run; the others follow when the prompt is computed.
func (l *loop) takeInbox() {
	for _, u := range l.inbox {
		if l.noShare {
			u.scope.only = u
		}
		l.enqueue(u.unfinished()[0])
		l.stats.Outstanding++
		l.stats.Resumed += u.usage.ResumedTokens
	}
	l.inbox = nil
	l.arrive()
	l.publish()
	l.answer()
}

// enqueue puts a sequence behind those that are wanted no later, and were asked for before it. What has begun, and was
// preempted, stays before all.
func (l *loop) enqueue(s *sequence) {
	at := slices.IndexFunc(l.waiting, func(x *sequence) bool {
		return !x.run.started && (x.wanted() > s.wanted() || x.wanted() == s.wanted() && x.run.begun.After(s.run.begun))
	})
	if at < 0 {
		at = len(l.waiting)
	}
	l.waiting = slices.Insert(l.waiting, at, s)
}

func (l *loop) publish() {
	s := l.stats
	s.Running, s.Waiting, s.CellsInAll, s.SlotsInAll = len(l.running), len(l.waiting), l.cells, l.slots
	s.CellsIdle, s.Thawed, s.ColdBytes = l.cache.tree.idle, l.cache.thawed, l.cache.cold.bytes
	s.CellsInUse = l.cells - l.cache.free - s.CellsIdle
	if l.texts != nil {
		s.Embedded, s.EmbedCalls = l.texts.stats.texts, l.texts.stats.calls
	}
	s.Adapters, s.AdapterBytes, s.AdapterLoads, s.Evicted = len(l.rack.loaded), l.rack.held, l.rack.loads, l.rack.evicted
	s.Changes, s.ChangeCost, s.Turns, s.TurnTime = l.turns.changes, l.turns.cost.change(), l.turns.ended, l.turns.length
	l.snapshot = s
}

// step computes one token for every sequence that draws, and a piece of the prompts, of those whose turn it is.
func (l *loop) step() {
	begun := time.Now()
	l.gauge.begin()
	l.dropCancelled()
	l.admit()
	l.turn(begun)
	l.provide()
	rows, ready := l.plan(l.mine(), begun)
	if len(rows) > 0 {
		l.decode(rows)
	}
	took := time.Since(begun)
	l.pace.note(len(rows), ready, meanDepth(rows[min(ready, len(rows)):]), took)
	l.charge(rows, took)
	l.settle()
	l.pack()
	l.gauge.end()
	l.show()
	if l.loading == nil { // its context counts the model's adapters when it is made
		l.embed(len(rows))
	}
	l.load()
}

// plan is the rows of the next call, and how many of them are of those who draw.
func (l *loop) plan(mine []*sequence, now time.Time) (rows []row, ready int) {
	draw, prompts := drawing(mine), byDeadline(mine)
	d := demand{drawing: len(draw)}
	for _, s := range draw {
		d.watched = d.watched || s.run.urgent(now)
		if s.drew.IsZero() {
			s.drew = now
		}
		d.waited = max(d.waited, now.Sub(s.drew))
	}
	for _, s := range prompts {
		d.prompt += s.pending()
		d.hurried = d.hurried || s.run.urgent(now)
	}
	d.depth = meanDepth(fill(nil, prompts, fullCall))
	var alone bool
	if l.limit, alone = l.pace.share(d, l.rows); alone {
		draw = nil
	}
	for _, s := range draw {
		s.drew = now
	}
	return fill(draw, prompts, l.limit), len(draw)
}

// dropCancelled frees what belongs to requests that nobody waits for any more.
func (l *loop) dropCancelled() {
	for _, s := range slices.Concat(l.running, l.waiting) {
		if s.run.open > 0 && s.run.ctx.Err() != nil {
			if s.run.handedOver() {
				s.run.save(false)
			}
			l.end(s.run, context.Cause(s.run.ctx))
		}
	}
}

// admit starts waiting sequences, in the order of candidates, while there is room. One that does not fit is waited for:
// a later, smaller one never starves it. One that waits for its adapter lets others pass. So does one that waits for its
// beginning to be computed by another, or is early, but it keeps its slot from those of other adapters: calls are full
// when as many as can compute together do.
func (l *loop) admit() {
	now := time.Now()
	l.yield(now)
	if len(l.running) >= l.slots {
		return
	}
	var kept []*sequence
	for _, s := range l.candidates() {
		switch {
		case len(l.running) >= l.slots:
			return
		case !l.there(s):
		case l.cache.coming(s, l.running) || l.early(s, now):
			kept = append(kept, s)
		case len(l.running)+len(kept) >= l.slots && kept[0].run.adapter != s.run.adapter:
		case l.start(s):
			l.waiting = without(l.waiting, s)
		default:
			return
		}
	}
}

// yield takes slots back where more of the favoured adapter wait: from those of smaller groups of whose prompts nothing
// was computed yet, and from thin groups, whose cells are kept for them. So who came first, one of each adapter, does not
// leave calls to few rows. They wait on where they waited before.
func (l *loop) yield(now time.Time) {
	f := l.turns.favoured
	wanted := l.queued(f)
	rows := map[*adapter]int{}
	for _, s := range l.running {
		rows[s.run.adapter]++
	}
	together := min(l.slots, rows[f]+wanted)
	wanted -= l.slots - len(l.running)
	for _, s := range slices.Backward(slices.Clone(l.running)) {
		a := s.run.adapter
		switch {
		case wanted <= 0 || a == f || !l.patient(s.run, now):
		case rows[a] < together && s.untouched():
			l.giveBack(s)
			wanted--
		case l.cache.keeps(s) && l.thin(a, now):
			l.park(s)
			wanted--
		}
	}
}

// giveBack has a sequence wait again, as if it had never been let in.
func (l *loop) giveBack(s *sequence) {
	l.vacate(s, false)
	s.run.started = false
	l.enqueue(s)
}

// park has a sequence wait again behind what it has computed. It waits before it leaves, so that its cells are kept for it.
func (l *loop) park(s *sequence) {
	s.run.started = false
	l.enqueue(s)
	l.vacate(s, true)
	l.stats.Parked++
}

// early says that a sequence's prompt would only wait: those of its adapter that are at work, and wanted no later, fill a
// step. Its slot is kept for others that begin as these do, and can draw as soon as they are there.
func (l *loop) early(s *sequence, now time.Time) bool {
	if s.run.started || !l.patient(s.run, now) || s.pending()-l.cache.found(s) <= worthwhile {
		return false
	}
	work := 0
	for _, r := range l.running {
		if r.pending() > 1 && r.run.adapter == s.run.adapter && r.wanted() <= s.wanted() {
			work += r.pending()
		}
	}
	return work >= l.rows
}

// start gives a sequence its place, with the cells of the longest prefix that is there.
func (l *loop) start(s *sequence) bool {
	if !l.cache.admit(s) {
		return false
	}
	l.stats.Mismatched = l.cache.wrong
	u := s.run
	switch {
	case u.started:
		s.found = s.done
	case s.drawn == 0:
		s.found, u.usage.CachedTokens = s.done, s.done
	} // else it was parked, and finds its own
	u.started = true
	if !u.held { // it may have started elsewhere
		u.held = true
		l.rack.begin(u.adapter)
		u.request.Begin()
	}
	l.running = append(l.running, s)
	return true
}

// provide makes sure of a cell for each token that the step computes. Where there is none, the youngest gives way.
func (l *loop) provide() {
	for _, s := range l.mine() {
		for s.slot >= 0 && s.pending() == 1 && !l.cache.grow(s) {
			l.preempt()
		}
	}
}

// preempt puts the youngest sequence back to the head of the queue. What only it holds goes to host memory, which is far
// cheaper than to compute it again from its tokens; where it can't be kept there, that is what happens.
func (l *loop) preempt() {
	s := l.running[len(l.running)-1]
	l.cache.freezeOwn(s)
	l.vacate(s, false)
	if s.finish == "" {
		l.waiting = slices.Insert(l.waiting, 0, s)
		l.stats.Preempted++
	}
}

// vacate takes a sequence out of the batch, and its cells with it unless they are to be kept for others.
func (l *loop) vacate(s *sequence, keep bool) {
	if s.slot < 0 {
		return
	}
	if keep {
		l.cache.retire(s, l.waiting[:min(len(l.waiting), lookAhead)])
	} else {
		l.cache.release(s)
	}
	l.running = slices.DeleteFunc(l.running, func(x *sequence) bool { return x == s })
}

// decode computes rows and draws from what they gave. Failure is narrowed down to the sequence at fault: its neighbours
// are computed without it.
func (l *loop) decode(rows []row) {
	l.tell(requests(rows))
	l.gauge.lap(&l.gauge.step.Parts.Plan)
	begun := time.Now()
	code := l.dev.decode(rows)
	l.gauge.lap(&l.gauge.step.Parts.Compute)
	l.stats.Steps++
	if code == 0 {
		l.sized = true
		l.turns.cost.note(len(rows), time.Since(begun))
		l.stats.Rows += len(rows)
		l.gauge.computed(rows)
		l.harvest(rows)
		l.gauge.lap(&l.gauge.step.Parts.Draw)
		return
	}
	l.stats.Failed++
	if code == noRoom && l.relieve() {
		l.again(rows)
		return
	}
	l.divide(split(rows), code)
}

// relieve makes room where llama.cpp found none against our count: of idle cells first. It says false when all there are
// belong to one sequence.
func (l *loop) relieve() bool {
	if l.cache.clear() {
		return true
	}
	if len(l.running) < 2 {
		return false
	}
	l.preempt()
	return true
}

// divide computes the parts of a failed call one by one.
func (l *loop) divide(parts [][]row, code int32) {
	for _, part := range parts {
		s := part[0].seq
		if len(parts) == 1 {
			s.faults++
		}
		switch {
		case s.faults > maxFaults:
			l.fail(s.run, code)
		case l.restore(s):
			l.again(part)
		}
	}
}

// noRoom is llama.cpp's code for a full KV cache, with nothing changed.
const noRoom = 1

// again computes the rows of runs that still go on.
func (l *loop) again(rows []row) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.seq.slot < 0 })
	if len(rows) > 0 {
		l.decode(rows)
	}
}

// maxFaults is how many failures of its own a sequence survives.
const maxFaults = 2

// restore drops what a failed call may have left in a sequence's cells. Where the model can't drop a part, the sequence
// is computed from its beginning at the next step, and restore says false, as for one whose run has ended.
func (l *loop) restore(s *sequence) bool {
	if s.slot < 0 {
		return false
	}
	if l.dev.remove(s.slot, s.done) {
		return true
	}
	s.faults++
	l.vacate(s, false)
	l.waiting = slices.Insert(l.waiting, 0, s)
	return false
}

// pack moves cells down where many have been freed below them: one sequence's in a step, so that none pauses for long.
func (l *loop) pack() {
	if l.cache.sparse() {
		for _, s := range l.running {
			s.high = true
		}
	}
	i := slices.IndexFunc(l.running, func(s *sequence) bool { return s.high })
	if i < 0 {
		return
	}
	s := l.running[i]
	s.high = false
	if !l.cache.lower(s) { // it is computed again from its tokens
		l.vacate(s, false)
		l.waiting = slices.Insert(l.waiting, 0, s)
	}
}

func (l *loop) fail(u *run, code int32) {
	l.end(u, engine.Errorf(engine.Internal, "", "", "llama.cpp can't compute this request: %s", l.dev.why(code)))
}

// fork starts the other answers to a request when its prompt is in the cache, before the first answer can end.
func (l *loop) fork(u *run) {
	if u.forked {
		return
	}
	u.forked = true
	rest := u.unfinished()[1:]
	for len(rest) > 0 && l.start(rest[0]) {
		rest = rest[1:]
	}
	l.waiting = slices.Insert(l.waiting, 0, rest...)
}

func (l *loop) count(u *run) {
	l.stats.Drawn++
	u.usage.CompletionTokens++
	if u.usage.FirstTokenSeconds == 0 {
		u.usage.FirstTokenSeconds = time.Since(u.begun).Seconds()
	}
}

// put shows a piece of an answer, and notes the answer's end.
func (l *loop) put(s *sequence, p piece) {
	if s.finish != "" {
		l.finished = append(l.finished, s)
	}
	s.due = l.pace.due(s.due, time.Now())
	if s.finish == "" && p.empty() {
		return
	}
	s.put(p)
	if s.run.outbox.stream {
		l.fresh = append(l.fresh, s.run)
	}
}

// charge divides a step's time among its rows.
func (l *loop) charge(rows []row, took time.Duration) {
	l.stats.Busy += took
	for _, r := range rows {
		r.seq.run.usage.EngineSeconds += took.Seconds() / float64(len(rows))
	}
}

// settle gives back what finished answers hold, and ends runs whose answers are all there.
func (l *loop) settle() {
	for _, s := range l.finished {
		l.vacate(s, true)
		if s.run.open == 0 {
			continue // it failed meanwhile
		}
		if s.run.open--; s.run.open == 0 {
			l.finish(s.run, nil)
		}
	}
	l.finished = l.finished[:0]
	l.report()
}

// ending is what a run ends with. It is told at the end of a step, when the counts say so too.
type ending struct {
	run *run
	err error
}

// report publishes the counts, then ends runs.
func (l *loop) report() {
	l.mu.Lock()
	l.publish()
	l.mu.Unlock()
	for _, x := range l.ended {
		x.run.outbox.end(x.err)
	}
	clear(l.ended)
	l.ended = l.ended[:0]
}

// end gives up a whole run.
func (l *loop) end(u *run, err error) {
	for _, s := range u.seqs {
		l.vacate(s, false)
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(s *sequence) bool { return s.run == u })
	u.open = 0
	l.finish(u, err)
}

func (l *loop) finish(u *run, err error) {
	u.free()
	if u.held {
		l.rack.end(u.adapter)
	}
	l.stats.Outstanding--
	l.ended = append(l.ended, ending{u, err})
}

// patience bounds how long a step waits for first chunks to be shown. The wait is a few microseconds but for a slow reader.
const patience = 10 * time.Millisecond

// show lets the first chunk of an answer leave before its second token is computed: a native call may hold the only
// processor.
func (l *loop) show() {
	fresh := l.fresh
	l.fresh = l.fresh[:0]
	var timer <-chan time.Time
	for _, u := range fresh {
		if u.first {
			continue
		}
		u.first = true
		if timer == nil {
			timer = time.After(l.patience)
		}
		select {
		case <-u.outbox.shown:
		case <-u.ctx.Done():
		case <-timer:
			return
		}
	}
}

// tell lets the observer know whom the next native call may be put down to.
func (l *loop) tell(ids []string) {
	ids = slices.Concat(ids, l.blamed)
	if slices.Equal(ids, l.seen) {
		return
	}
	l.seen = ids
	l.observe(ids)
}

// abandon ends all runs when the engine closes.
func (l *loop) abandon() {
	l.loaders.Wait()
	l.blamed = nil
	for _, s := range slices.Concat(l.running, l.waiting) {
		if s.run.open > 0 {
			l.end(s.run, errClosed())
		}
	}
	l.texts.abandon()
	l.tell(nil)
	l.report()
}
