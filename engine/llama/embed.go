package llama

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// embedder makes vectors of texts, in a context of its own: what it computes takes no cell from running answers. The
// loop gives it a call after each of its steps, so that both have the processors to themselves in turn, and a call is no
// longer than a piece of a prompt may be. It is made at the first text, for most engines never embed: that takes some
// tens of milliseconds.
//
// Texts of many requests share a call, and a long one takes several. The vectors of tokens are put together here and not
// by llama.cpp, which silently answers with those of the last call only.
//
// A call serves one adapter, as the loop's do. Those of one adapter begin until one of another, that is loaded, comes
// first; the next turn is that one's, when all that have begun are through.
type embedder struct {
	open   func() (vectors, error)
	rack   *rack    // holds the adapters of texts that have begun
	using  *adapter // that the context computes with
	native vectors  // nil before the first text
	shape  vectorShape
	stats  embedStats

	mu    sync.Mutex
	inbox []*passage

	queue []*passage   // taken, in order
	over  []*embedding // whose end is to be told
	slots []*passage   // those that are being computed, by their number in native code
	cells int          // that are free
	alone bool         // a call failed: texts are computed one by one until none is left of it
}

type embedStats struct{ calls, texts int }

// vectors is what an embedder asks of llama.cpp.
type vectors interface {
	shape() vectorShape
	decode(rows []textRow) (code int32)
	// use has the calls from now on compute with an adapter, with none for 0. It says false when that is impossible.
	use(handle llama.AdapterLora) bool
	vector(row int) []float32
	remove(slot int)
	why(code int32) string
	free()
}

// vectorShape is what a context for vectors holds, and what it gives.
type vectorShape struct {
	rows, cells, width int
	pooling            llama.PoolingType
}

// passage is one text on its way to its vector.
type passage struct {
	of     *embedding
	tokens []int32
	done   int       // tokens computed
	pooled []float64 // of these
	slot   int
}

// embedding is one request.
type embedding struct {
	ctx      context.Context
	id       string
	adapter  *adapter // nil: the base
	holds    bool     // the adapter, which is not freed then
	passages []*passage
	left     int
	seconds  float64 // its share of the calls
	err      error
	ended    bool
	done     chan struct{} // closed at the end
}

// embedAtOnce is how many texts share a call at most. It divides what llama.cpp allots rows by.
const embedAtOnce = 32

// embed makes the vectors of a request's inputs.
func (e *Engine) embed(ctx context.Context, r *engine.Request) (*engine.Completion, error) {
	u, err := e.passages(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := e.loop.submitTexts(u.passages); err != nil {
		return nil, err
	}
	select {
	case <-u.done:
	case <-ctx.Done():
		e.loop.signal() // its texts are dropped at the next step
		return nil, context.Cause(ctx)
	}
	if u.err != nil {
		return nil, u.err
	}
	return u.completion()
}

// passages checks a request for vectors, and makes the tokens of its texts.
func (e *Engine) passages(ctx context.Context, r *engine.Request) (*embedding, error) {
	e.native.RLock()
	defer e.native.RUnlock()
	if err := e.admits(r); err != nil {
		return nil, err
	}
	width := e.model.width()
	switch {
	case e.model.pooling() == llama.PoolingTypeRank:
		return nil, unsupported("model", "vectors of a model that ranks")
	case r.Dimensions != 0 && r.Dimensions != width:
		return nil, unsupported("dimensions", fmt.Sprintf("dimensions other than %d, which the vectors of this model have", width))
	}
	if err := engine.CheckVectors(len(r.Inputs), width); err != nil {
		return nil, err
	}
	adapter, err := e.adapters.find(r.Model.Adapter)
	if err != nil {
		return nil, err
	}
	u := &embedding{ctx: ctx, id: r.ID, adapter: adapter, left: len(r.Inputs), done: make(chan struct{})}
	for i, in := range r.Inputs {
		tokens, err := e.inputTokens(in, i)
		if err != nil {
			return nil, err
		}
		u.passages = append(u.passages, &passage{of: u, tokens: tokens, slot: -1})
	}
	return u, nil
}

// inputTokens are a text's, with the marks for beginning and end that the model was trained with. The texts of control
// tokens stay text.
func (e *Engine) inputTokens(in engine.Input, i int) ([]int32, error) {
	limit, name := e.model.embedLimit(), fmt.Sprintf("input %d", i)
	ids := in.Tokens
	if len(ids) == 0 {
		if least := len(in.Text) / max(1, e.model.vocab.longest); least >= limit {
			return nil, contextLength(limit, fmt.Sprint("at least ", least), name)
		}
		ids = e.model.vocab.passage(in.Text)
	}
	for _, id := range ids {
		if !e.model.vocab.has(id) {
			return nil, invalid("input", "%s holds the token %d, but there are %d", name, id, e.model.vocab.size)
		}
	}
	if len(ids) > limit {
		return nil, contextLength(limit, fmt.Sprint(len(ids)), name)
	}
	return ids, nil
}

func (u *embedding) completion() (*engine.Completion, error) {
	c := &engine.Completion{Usage: engine.Usage{EngineSeconds: u.seconds}}
	for i, p := range u.passages {
		v, ok := engine.Unit(p.pooled)
		if !ok {
			return nil, engine.Errorf(engine.Internal, "", "", "llama.cpp computed no numbers for input %d", i)
		}
		c.Embeddings = append(c.Embeddings, v)
		c.Usage.PromptTokens += len(p.tokens)
	}
	return c, nil
}

// submitTexts queues texts behind those that wait.
func (l *loop) submitTexts(ps []*passage) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed()
	}
	l.texts.put(ps)
	l.signal()
	return nil
}

// embed gives texts a call. It has the rows that a step would have for prompts, less those that this one had.
func (l *loop) embed(rows int) {
	if l.texts == nil {
		return
	}
	defer l.texts.report()
	if !l.texts.receive() {
		return
	}
	l.texts.step(max(l.limit-rows, leastPiece), l.tell)
	l.mu.Lock()
	l.publish()
	l.mu.Unlock()
}

func (e *embedder) put(ps []*passage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inbox = append(e.inbox, ps...)
}

// waiting says whether there are texts that the loop must wake for.
func (e *embedder) waiting() bool {
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.inbox)+len(e.queue) > 0
}

// receive takes what has come, drops what nobody waits for, and says whether anything is to be done.
func (e *embedder) receive() bool {
	e.mu.Lock()
	e.queue = append(e.queue, e.inbox...)
	e.inbox = nil
	e.mu.Unlock()
	for _, p := range slices.Clone(e.queue) {
		if p.of.ended || p.of.ctx.Err() != nil {
			e.end(p.of, context.Cause(p.of.ctx))
			e.remove(p)
		}
	}
	return len(e.queue) > 0
}

// end notes how a request ended, to be told by report.
func (e *embedder) end(u *embedding, err error) {
	if !u.ended {
		u.err, u.ended = err, true
		e.over = append(e.over, u)
		if u.holds {
			e.rack.end(u.adapter)
		}
	}
}

// report ends requests, when the counts say so too.
func (e *embedder) report() {
	if e == nil {
		return
	}
	for _, u := range e.over {
		close(u.done)
	}
	clear(e.over)
	e.over = e.over[:0]
}

// remove forgets a text and frees its cells.
func (e *embedder) remove(p *passage) {
	e.vacate(p)
	e.queue = slices.DeleteFunc(e.queue, func(x *passage) bool { return x == p })
	if len(e.queue) == 0 {
		e.alone = false
	}
}

func (e *embedder) vacate(p *passage) {
	if p.slot < 0 {
		return
	}
	e.native.remove(p.slot)
	e.slots[p.slot] = nil
	e.cells += len(p.tokens)
	p.slot, p.done, p.pooled = -1, 0, nil
}

// step makes one call of at most so many rows.
func (e *embedder) step(most int, tell func([]string)) {
	if err := e.begin(); err != nil {
		e.fail(e.queue, err)
		return
	}
	a, ok := e.turn()
	if !ok || !e.change(a) {
		return
	}
	rows := e.plan(a, min(most, e.shape.rows))
	tell(requestsOf(rows))
	begun := time.Now()
	code := e.native.decode(rows)
	e.stats.calls++
	share := time.Since(begun).Seconds() / float64(len(rows))
	if code != 0 {
		e.failed(rows, code)
		return
	}
	for i, r := range rows {
		r.of.of.seconds += share
		e.harvest(r, e.native.vector(i))
	}
}

// begin makes the context, if there is none yet.
func (e *embedder) begin() error {
	if e.native != nil {
		return nil
	}
	native, err := e.open()
	if err != nil {
		return engine.Errorf(engine.Internal, "", "", "%v", err)
	}
	e.native, e.shape = native, native.shape()
	e.slots, e.cells = make([]*passage, embedAtOnce), e.shape.cells
	return nil
}

// textRow is one token of one text in one call.
type textRow struct {
	of  *passage
	pos int
}

// turn is whose texts the next call is for: of those that have begun, which are of one adapter, else of the first whose
// adapter is loaded. ok is false when all wait for theirs.
func (e *embedder) turn() (a *adapter, ok bool) {
	for _, begun := range []bool{true, false} {
		for _, p := range e.queue {
			if p.slot >= 0 || !begun && p.of.adapter.there() {
				return p.of.adapter, true
			}
		}
	}
	return nil, false
}

// change has the context compute with an adapter. Where it can't, that adapter's texts fail.
func (e *embedder) change(a *adapter) bool {
	if a == e.using {
		return true
	}
	if !e.native.use(a.native()) {
		e.refuse(a, engine.Errorf(engine.Internal, "", "", "llama.cpp can't change to this request's adapter"))
		return false
	}
	e.using = a
	return true
}

// forget is called before an adapter is freed: llama.cpp would read freed memory.
func (e *embedder) forget(a *adapter) {
	if e != nil && a == e.using {
		e.native.use(0)
		e.using = nil
	}
}

// refuse ends the requests of an adapter.
func (e *embedder) refuse(a *adapter, err error) {
	if e != nil {
		e.fail(e.of(a), err)
	}
}

// of are the texts of an adapter.
func (e *embedder) of(a *adapter) (ps []*passage) {
	for _, p := range e.queue {
		if p.of.adapter == a {
			ps = append(ps, p)
		}
	}
	return ps
}

// wants is the first adapter that texts wait for; nil: they wait for none.
func (e *embedder) wants() *adapter {
	if e == nil {
		return nil
	}
	for _, p := range e.queue {
		if !p.of.adapter.there() {
			return p.of.adapter
		}
	}
	return nil
}

// plan fills a call with texts of one adapter, in order: those that are begun go on, others begin where there are cells
// for all of them, and none of another adapter comes first that could.
func (e *embedder) plan(a *adapter, most int) (rows []textRow) {
	open := true
	for _, p := range e.queue {
		if p.of.adapter != a {
			open = open && !p.of.adapter.there()
			continue
		}
		if p.slot < 0 && !open {
			continue
		}
		if len(rows) >= most || !e.admit(p) {
			break
		}
		for pos := p.done; pos < len(p.tokens) && len(rows) < most; pos++ {
			rows = append(rows, textRow{p, pos})
		}
		if e.alone {
			break
		}
	}
	return rows
}

// admit gives a text a slot and the cells of all its tokens. The first in the queue always fits.
func (e *embedder) admit(p *passage) bool {
	if p.slot >= 0 {
		return true
	}
	free := slices.Index(e.slots, nil)
	if free < 0 || e.cells < len(p.tokens) {
		return false
	}
	p.slot, e.slots[free] = free, p
	e.cells -= len(p.tokens)
	if !p.of.holds {
		p.of.holds = true
		e.rack.begin(p.of.adapter)
	}
	return true
}

// harvest adds a token's vector to its text's, and ends the text with its last.
func (e *embedder) harvest(r textRow, v []float32) {
	p := r.of
	if p.slot < 0 {
		return // it failed within this call
	}
	if len(v) != e.shape.width {
		e.fail([]*passage{p}, engine.Errorf(engine.Internal, "", "", "llama.cpp computed no vector"))
		return
	}
	p.done++
	p.pool(v, e.shape.pooling)
	if p.done < len(p.tokens) {
		return
	}
	pooled := p.pooled
	e.remove(p)
	p.pooled = pooled
	e.stats.texts++
	if p.of.left--; p.of.left == 0 {
		e.end(p.of, nil)
	}
}

// pool puts token number done-1 to those before it: the first, the last, or the sum, whose direction is the mean's.
func (p *passage) pool(v []float32, how llama.PoolingType) {
	switch {
	case p.pooled == nil:
		p.pooled = make([]float64, len(v))
	case how == llama.PoolingTypeCLS:
		return
	case how == llama.PoolingTypeLast:
		clear(p.pooled)
	}
	for i, x := range v {
		p.pooled[i] += float64(x)
	}
}

// failed starts over what a failed call held, one text at a time: it fails the one text of a call alone, not its
// neighbours.
func (e *embedder) failed(rows []textRow, code int32) {
	first := rows[0].of
	sole := !slices.ContainsFunc(rows, func(r textRow) bool { return r.of != first })
	if sole {
		e.fail([]*passage{first}, engine.Errorf(engine.Internal, "", "", "llama.cpp can't embed this text: %s", e.native.why(code)))
	}
	for _, p := range slices.Clone(e.slots) {
		if p != nil {
			e.vacate(p)
		}
	}
	e.alone = len(e.queue) > 0
}

// fail ends the requests of texts.
func (e *embedder) fail(ps []*passage, err error) {
	for _, p := range slices.Clone(ps) {
		e.end(p.of, err)
		for _, x := range p.of.passages {
			e.remove(x)
		}
	}
}

// abandon ends all requests when the engine closes.
func (e *embedder) abandon() {
	if e != nil {
		e.receive()
		e.fail(e.queue, errClosed())
		e.report()
	}
}

func (e *embedder) free() {
	if e.native != nil {
		e.native.free()
	}
}

// requestsOf is the IDs of the requests in a call, each once, in order.
func requestsOf(rows []textRow) (ids []string) {
	for _, r := range rows {
		if id := r.of.of.id; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// embedContext is native code's side of an embedder.
type embedContext struct {
	vectorShape
	model *model
	ctx   llama.Context
	mem   llama.Memory
	batch llama.Batch
	named llama.AdapterLora // that computes; 0: none
}

// maxPassage bounds a text to embed, in tokens, and so the memory that goes with it. OpenAI's bound is 8192.
const maxPassage = 2048

// embedLimit is the longest text that can be embedded, in tokens.
func (m *model) embedLimit() int { return min(m.trained, maxPassage) }

func (m *model) width() int { return int(llama.ModelNEmbdOut(m.handle)) }

// pooling is how the model's file says that tokens' vectors become a text's. A model made for chatting says nothing:
// then it is the mean, since its last token's vector tells what comes next and not what was said.
func (m *model) pooling() llama.PoolingType {
	arch, _ := llama.ModelMetaValStr(m.handle, "general.architecture")
	s, _ := llama.ModelMetaValStr(m.handle, arch+".pooling_type")
	switch s {
	case "2":
		return llama.PoolingTypeCLS
	case "3":
		return llama.PoolingTypeLast
	case "4":
		return llama.PoolingTypeRank
	}
	return llama.PoolingTypeMean
}

// newEmbedContext makes a context that gives a vector for each token. llama.cpp's own pooling is off.
func (m *model) newEmbedContext() (vectors, error) {
	p := m.params
	p.NCtx, p.NSeqMax = uint32(m.embedLimit()), embedAtOnce
	p.Embeddings, p.PoolingType = 1, llama.PoolingTypeNone
	c := &embedContext{model: m, vectorShape: vectorShape{width: m.width(), pooling: m.pooling()}}
	var err error
	m.listing.Lock()
	c.ctx, err = llama.InitFromModel(m.handle, p)
	m.listing.Unlock()
	if err != nil {
		return nil, fmt.Errorf("make a context for vectors: %w", library.log.explain(err))
	}
	if err := m.equip(c.ctx); err != nil {
		llama.Free(c.ctx)
		return nil, fmt.Errorf("make a context for vectors: %w", err)
	}
	if c.mem, err = llama.GetMemory(c.ctx); err != nil || c.mem == 0 {
		llama.Free(c.ctx)
		return nil, fmt.Errorf("make a context for vectors: it has no memory")
	}
	c.cells = int(llama.NCtx(c.ctx))
	c.rows = min(m.rows, int(llama.NBatch(c.ctx)))
	c.batch = llama.BatchInit(int32(c.rows), 0, 1)
	return c, nil
}

// decode computes rows in one call and returns llama.cpp's code, or badRows where it would end the process.
func (c *embedContext) decode(rows []textRow) int32 {
	if len(rows) == 0 || len(rows) > c.rows {
		return badRows
	}
	c.batch.Clear()
	for _, r := range rows {
		id := r.of.tokens[r.pos]
		if !c.model.vocab.has(id) || r.pos >= c.cells || r.of.slot < 0 || r.of.slot >= embedAtOnce {
			return badRows
		}
		if c.batch.Add(llama.Token(id), llama.Pos(r.pos), []llama.SeqId{llama.SeqId(r.of.slot)}, true) != nil {
			return badRows
		}
	}
	code, err := llama.Decode(c.ctx, c.batch)
	if err != nil {
		return badRows
	}
	return code
}

// vector is what the last call computed for a row, in native memory that the next call overwrites.
func (c *embedContext) vector(i int) []float32 {
	v, err := llama.GetEmbeddingsIth(c.ctx, int32(i), int32(c.width))
	if err != nil {
		return nil
	}
	return v
}

func (c *embedContext) use(handle llama.AdapterLora) bool {
	if handle == c.named {
		return true
	}
	if !c.model.compute(c.ctx, handle, c.named) {
		return false
	}
	c.named = handle
	return true
}

func (c *embedContext) shape() vectorShape { return c.vectorShape }

func (c *embedContext) why(code int32) string { return c.model.why(code) }

func (c *embedContext) remove(slot int) {
	_, _ = llama.MemorySeqRm(c.mem, llama.SeqId(slot), -1, -1) // removing a whole sequence never fails
}

func (c *embedContext) free() {
	llama.BatchFree(c.batch)
	llama.Free(c.ctx)
}
