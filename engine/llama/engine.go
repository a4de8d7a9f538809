// Package llama runs models on llama.cpp, in this process.
//
// One goroutine, the loop, owns a context and calls into it. A step computes one token for each sequence that draws, and
// a piece of the prompts of those that have joined, together or in turn (pace): so the time between tokens is bounded,
// nobody waits for another's long prompt, and sequences join and leave at any step. Tokens are drawn in Go, by a
// generator without state, so an answer does not depend on its neighbours, nor on being preempted half-way.
//
// Prompts of one tenant and adapter that begin alike share the KV cells of their beginning: with sequences at work, and
// with what is kept of those that have ended (tree, cache). A request whose beginning another is computing waits for it.
// Kept cells slow every step, so only those that were shared are kept for long, and on a CPU most of them as bytes in host
// memory. Who waits is known, so requests that begin alike run beside each other. Whatever the book says, llama.cpp's own
// positions are compared before any cell is shared.
//
// Calls of prompts alone and calls of less than 64 rows with answers are what a CPU is fastest with (pace). llama.cpp's
// attention takes another path from 64 rows on, and adds up in the order of cells, and the weights that it packs for a CPU
// are multiplied with four rows otherwise than with one. So an answer's logits depend on its neighbours in the last bits, and
// with quantized weights by some hundredths; so they do on a beginning that another computed. With Rows of at most 63, one
// thread, weights that are not packed and nothing shared they are the same alone and in a batch until a sequence leaves. Who
// needs the same bits always asks for a deterministic answer (exactLane).
//
// Weights of Q4_1, which llama.cpp packs for no CPU, are split there into such of Q4_0, which it packs, and their offsets
// (symmetric).
//
// llama.cpp is C++: it ends the process where it asserts, and reads memory where a file or an argument misleads it. So
// every id, index and count is checked here first, and the package belongs into a process of its own (cmd/lorry-engine).
package llama

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/rs/zerolog"

	"lorry/engine"
)

// Config says what to run. Lib and File must be set.
type Config struct {
	// Lib is the folder of llama.cpp's libraries, of exactly the release Version.
	Lib string
	// File is the model, in GGUF.
	File string
	// Model is what the model is called. An empty Base is computed from the file (which reads all of it), an empty
	// Template from the file's chat template.
	Model engine.Model
	// Device is what computes: cpu, gpu (any accelerator), a kind (cuda) or a name (cuda:1). Empty: an accelerator, or the
	// CPU where there is none. One that is not there is an error.
	Device string
	// KVType is how the cache's numbers are kept: f16, or q8_0 in half the memory. Empty: f16.
	KVType string
	// NoFlash has attention computed the long way; a KVType but f16 needs the short one.
	NoFlash bool
	// Slots is how many sequences run at the same moment. 0: 8 on a CPU, 64 on an accelerator.
	Slots int
	// Context is the size of the KV cache in tokens, for all sequences together. Each may grow to the smaller of it and
	// of what the model was trained on. 0: 8192 on a CPU; on an accelerator 2048 for each slot, within half of the memory
	// that the weights leave.
	Context int
	// Threads compute. 0: a thread for each core that this process may use, but one, which is left to everything else;
	// at least 1.
	Threads int
	// Rows is the most tokens of one native call, more than Slots. 0: 256 on a CPU, 512 on an accelerator.
	Rows int
	// StepTarget is about how long those who draw may pause while prompts are computed, where nobody watches them. On a
	// CPU prompts then have calls of their own, and more makes calls fuller; on an accelerator it is the time of a step that
	// both share. 0: 1 s on a CPU, 150 ms on an accelerator; negative: Rows is the only bound.
	StepTarget time.Duration
	// Stretch bounds the pause where somebody watches: an answer is streamed, or its deadline is near. It is how many times
	// as far apart as usual its tokens may come while a prompt is computed. Less makes answers steadier, and the prompt later:
	// near 1 it takes for ever. A prompt whose own answer is watched gets twice the time. On a CPU tokens are held back
	// meanwhile, so that there are some to show during a call for the prompt alone: by as long as it takes, StepTarget at
	// most; what is held when an answer ends is shown at once. 0: 2; negative: it makes no difference whether anybody watches.
	Stretch float64
	// Tenure is how long waiting requests of one adapter go before those of others, and those before others whose
	// prompts' beginnings are at hand: fuller calls, for a longer wait. Where a request of another adapter is urgent it is
	// 2 s at most. 0: 10 s.
	Tenure time.Duration
	// IdleCells is how many cells are kept of answers that have ended, for requests of the same tenant that begin
	// alike. Each thousand makes a step of a small model 5 to 20 % longer on a CPU, where putting them back from host
	// memory costs no more than a fraction of one step: there only 256 stay of those that ColdBytes has room for. 0: the
	// smaller of a quarter of Context and 2048; negative: none.
	IdleCells int
	// ColdBytes is how much host memory keeps the beginnings of prompts whose cells were given up, and what preempted
	// requests had computed: about 23 kB a token of a small model, 130 kB of one of 8 billion weights. 0: 256 MiB;
	// negative: none.
	ColdBytes int64
	// NoShare has every request compute all of its prompt.
	NoShare bool
	// Renderer is the command line of a process that calls [ServeTemplates], in which the model's chat template runs. nil:
	// it runs in this process, which a bad template may then hold up for ever, or end.
	Renderer []string
	// Adapters is the folder of LoRA adapters, each under its digest. Whoever runs a request sees that its adapter is
	// there. Empty: the engine serves none.
	Adapters string
	// AdapterBytes bounds the adapters that are loaded: of those that no request is at work with, the ones that were not
	// used for the longest time go. 0: 1 GiB.
	AdapterBytes int64
	// Cores is a file by which the engines of this host that compute on its processors take turns, step by step: with it
	// each may have all Threads. Empty: this one shares them with none. Without effect on an accelerator.
	Cores string
	// Pinned are digests of adapters that stay once they are loaded.
	Pinned []string
	// Observe is told whose requests the next native call holds. nil: nobody is.
	Observe engine.DecodeObserver
	// Log receives llama.cpp's errors, and its warnings at debug level. The zero value discards.
	Log zerolog.Logger

	cool  int  // idle cells that are kept though they could be in host memory; 0: all
	apart bool // prompts and answers have calls of their own
	asIs  bool // weights are computed as the file has them

	drawers int // goroutines that draw; less than 1: one does
}

// Engine runs one model. It is an engine.Engine.
type Engine struct {
	info     engine.Info
	limit    int
	model    *model
	adapters *adapters
	config   Config
	loop     *loop // of all requests but deterministic ones
	exact    exactLane
	gate     cores // held by the loop that computes
	watch    watch
	shelf    *shelf
	native   sync.RWMutex // held for reading while the tokenizer may be in use
	closed   bool
	closeOne sync.Once
}

var _ engine.Engine = (*Engine)(nil)

// Open loads the libraries, once in a process, and the model, and starts the loop.
func Open(c Config) (*Engine, error) {
	if err := load(c.Lib); err != nil {
		return nil, err
	}
	library.log.begin(c.Log)
	c.Threads = cmp.Or(c.Threads, defaultThreads())
	dev, err := choose(c.Device, accelerators())
	if err != nil {
		return nil, err
	}
	c.setDefaults(dev)
	m, err := openModel(c, dev)
	if err != nil {
		return nil, err
	}
	if c.Model.Base == "" {
		if c.Model.Base, err = Digest(c.File); err != nil {
			m.free()
			return nil, err
		}
	}
	c.Model.Template = cmp.Or(c.Model.Template, textDigest(m.source))
	files, err := openCores(c.Cores)
	if err != nil {
		m.free()
		return nil, err
	}
	return start(c, m, dev.describe(c.Threads), files), nil
}

func (c *Config) setDefaults(dev device) {
	slots, rows, target := 8, 256, time.Second
	c.cool, c.apart = 256, true
	c.drawers = min(drawers, runtime.GOMAXPROCS(0)-c.Threads+1) // between two calls the threads of ggml spin, but one
	if dev.accelerated() {
		c.Cores = ""
		slots, rows, target = 64, 512, 150*time.Millisecond
		c.cool, c.apart = 0, false
		c.drawers = min(drawers, runtime.GOMAXPROCS(0))
	}
	c.Slots = min(cmp.Or(max(c.Slots, 0), slots), maxSlots)
	if c.Context <= 0 {
		c.Context = cells(*c, dev)
	}
	c.Rows = max(cmp.Or(max(c.Rows, 0), rows), c.Slots+1) // llama.cpp ends the process where there are more sequences than rows
	c.StepTarget = cmp.Or(c.StepTarget, target)
	c.Stretch = max(0, cmp.Or(c.Stretch, 2))
	c.Tenure = cmp.Or(max(0, c.Tenure), tenure)
	c.AdapterBytes = cmp.Or(max(c.AdapterBytes, 0), 1<<30)
	c.IdleCells = max(0, cmp.Or(c.IdleCells, min(c.Context/4, 2048)))
	c.ColdBytes = max(0, cmp.Or(c.ColdBytes, 256<<20))
}

// maxSequences is llama.cpp's bound on sequences. One of them is the device's own, to save and restore through.
const (
	maxSequences = 256
	maxSlots     = maxSequences - 1
)

// ahead is how many requests for each slot are to wait in the loop. Of four adapters whose requests come in turn, that is
// enough to fill all slots with those of one: half as many steps as with none waiting, and 1.4 times the tokens a second.
const ahead = 3

// defaultThreads leaves a core free: a thread of ggml that waits for its turn stops all the others.
func defaultThreads() int {
	return max(1, min(runtime.GOMAXPROCS(0)-1, int(llama.Threads())))
}

func start(c Config, m *model, device string, files *coreFiles) *Engine {
	e := &Engine{model: m, limit: m.limit(), shelf: newShelf(m.vocab), watch: watch{observe: c.Observe}, adapters: newAdapters(c), gate: cores{files: files}}
	c.Rows = m.rows
	e.config = c
	c.Observe = e.watch.loop()
	e.info = engine.Info{
		Models: []engine.ModelInfo{{Model: c.Model, Context: e.limit}},
		Slots:  c.Slots, Ahead: min(ahead*c.Slots, lookAhead), Device: device, Version: "llama.cpp " + Version,
	}
	e.loop = e.open(c, m)
	c.Log.Info().Str("model", c.Model.Name).Str("device", device).Int("slots", c.Slots).Int("cells", m.cells).
		Int("context", e.limit).Int("threads", c.Threads).Int("rows", m.rows).Msg("model loaded")
	return e
}

// open starts a loop on a context.
func (e *Engine) open(c Config, m *model) *loop {
	l := newLoop(c, m, m.vocab, m.cells, m.branches)
	l.gate = &e.gate
	if m == e.model {
		l.texts = &embedder{open: m.newEmbedContext, rack: &l.rack}
		l.rack.texts = l.texts
	}
	go func() {
		runtime.LockOSThread() // a CUDA device is current to a thread
		defer runtime.UnlockOSThread()
		l.run()
	}()
	return l
}

// Info says what is served.
func (e *Engine) Info(context.Context) (engine.Info, error) { return e.info, nil }

// Stats counts what was done so far, up to the last step.
func (e *Engine) Stats() Stats { return e.exact.add(e.loop.read()) }

// Steps counts the native calls so far: who watches tells from it whether one hangs. See child.Stepper.
func (e *Engine) Steps() int { return e.Stats().Steps }

// Run answers one request. See [engine.Engine].
func (e *Engine) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	switch r.Kind {
	case engine.Embed:
		r.Begin()
		return e.embed(ctx, r)
	case engine.Tokenize, engine.Detokenize:
		r.Begin()
		return e.spell(r)
	case engine.Count:
		return e.count(r)
	}
	if r.Sampling.BestOf > r.Sampling.N {
		return engine.Best(ctx, r, e.Run)
	}
	begun := time.Now()
	job, err := e.prepare(r)
	if err != nil {
		return nil, err
	}
	r = interruptible(r)
	l, err := e.loopFor(r)
	if err != nil {
		return nil, err
	}
	u, err := e.begin(ctx, r, job, emit != nil)
	if err != nil {
		return nil, err
	}
	u.begun = begun
	if err := l.enter(u); err != nil {
		u.free()
		return nil, err
	}
	c, err := u.wait(job.emitter(r.Sampling.N, emit))
	if err != nil {
		return nil, err
	}
	if err := e.finish(u, job, c); err != nil {
		return nil, err
	}
	return c, nil
}

// finish takes thoughts and calls out of the texts of a run that is over, and checks what is left.
func (e *Engine) finish(u *run, job prepared, c *engine.Completion) error {
	if err := job.take(u, c, e.model.vocab); err != nil {
		return err
	}
	return job.form.validate(u, c, e.model.vocab.end)
}

// begin makes a run, at its beginning or where an earlier one of the same request stood.
func (e *Engine) begin(ctx context.Context, r *engine.Request, job prepared, stream bool) (*run, error) {
	e.native.RLock() // grammars read the vocabulary
	defer e.native.RUnlock()
	if e.closed {
		return nil, errClosed()
	}
	u, err := e.fresh(ctx, r, job, stream)
	if err != nil || r.Resume == nil || u.replay(r.Resume, e.model.vocab) {
		return u, err
	}
	u.free()
	return e.fresh(ctx, r, job, stream)
}

func (e *Engine) fresh(ctx context.Context, r *engine.Request, job prepared, stream bool) (*run, error) {
	grammars, err := e.shelf.copies(job.form, r.Sampling.N)
	if err != nil {
		return nil, err
	}
	u := newRun(ctx, r, job.prompt, e.limit, stream)
	u.adapter = job.adapter
	u.hold(grammars)
	for _, s := range u.seqs {
		s.sampler.gate = gateOf(job, e.model.vocab)
		if r.OneToolCall && job.tools != nil {
			s.text.through = callClose
		}
	}
	if r.Echo {
		e.echo(u)
	}
	return u, nil
}

// enter has the loop make what is left of the answers, if anything is.
func (l *loop) enter(u *run) error {
	if u.open > 0 {
		return l.submit(u)
	}
	u.free()
	u.outbox.end(nil)
	return nil
}

// Close ends all runs and frees the model. It waits for the step under way.
func (e *Engine) Close() error {
	e.closeOne.Do(func() {
		e.loop.close()
		e.exact.close()
		e.gate.close()
		e.native.Lock()
		defer e.native.Unlock()
		e.closed = true
		e.loop.texts.free()
		e.shelf.free()
		e.model.free()
	})
	return nil
}

// prepared is a request that was checked, with all that it needs to run.
type prepared struct {
	prompt  []int32
	adapter *adapter
	form    *form
	tools   *tools
	mind    *mind
	// channels says that the answer comes as messages on channels.
	channels bool
}

// prepare checks a request and makes its prompt's tokens, on the caller's goroutine.
func (e *Engine) prepare(r *engine.Request) (p prepared, err error) {
	e.native.RLock()
	defer e.native.RUnlock()
	if err = e.admits(r); err != nil {
		return p, err
	}
	if p.adapter, err = e.adapters.find(r.Model.Adapter); err != nil {
		return p, err
	}
	if p.form, err = formOf(r); err != nil {
		return p, err
	}
	if p.tools, err = toolsOf(r); err != nil {
		return p, err
	}
	if p.tools != nil && p.tools.form != nil {
		p.form = p.tools.form
	}
	if t := e.model.template; r.Kind == engine.Chat && t != nil && t.channels {
		p.speak()
	}
	p.prompt, err = e.tokens(r, &p)
	return p, err
}

// admits says whether a request is one for this engine. The caller holds native.
func (e *Engine) admits(r *engine.Request) error {
	if e.closed {
		return errClosed()
	}
	if err := e.serves(r.Model); err != nil {
		return err
	}
	return check(r, e.model.vocab)
}

// serves compares digests where the request has them, since a name may be an alias. Adapters are looked for later.
func (e *Engine) serves(m engine.Model) error {
	own := e.info.Models[0].Model
	same := m.Base == own.Base
	if m.Base == "" {
		same = m.Name == "" || m.Name == own.Name
	}
	if !same || m.Template != "" && m.Template != own.Template {
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the model %q is not served here", m.Name)
	}
	return nil
}

func (e *Engine) tokens(r *engine.Request, p *prepared) ([]int32, error) {
	switch {
	case r.Kind == engine.Chat:
		return e.chatTokens(r, p)
	case r.Suffix != "":
		return e.gapTokens(r)
	case len(r.Tokens) > 0:
		return e.fit(r.Tokens, "prompt")
	}
	return e.textTokens(r.Prompt)
}

// chatTokens renders a conversation. What the client wrote never becomes a control token. It notes how the answer thinks.
func (e *Engine) chatTokens(r *engine.Request, p *prepared) ([]int32, error) {
	if e.model.template == nil {
		return nil, engine.Errorf(engine.Invalid, engine.CodeUnsupported, "messages", "this model has no chat template: ask for a completion")
	}
	var list json.RawMessage
	if p.tools != nil {
		list = p.tools.raw
	}
	veil := e.model.vocab.newVeil()
	prompt, err := e.model.template.prompt(r.Messages, list, veil, r.ReasoningEffort)
	if err != nil {
		return nil, err
	}
	p.mind = mindOf(e.model.template.thought, prompt)
	if err := e.tooLong(prompt, "messages"); err != nil {
		return nil, err
	}
	return e.fit(e.model.vocab.begin(veil.tokenize(prompt)), "messages")
}

// textTokens takes the prompt as its author wrote it, control tokens and all.
func (e *Engine) textTokens(prompt string) ([]int32, error) {
	if !utf8.ValidString(prompt) {
		return nil, engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "prompt", "the prompt is no valid UTF-8")
	}
	if err := e.tooLong(prompt, "prompt"); err != nil {
		return nil, err
	}
	ids := e.model.vocab.begin(e.model.vocab.tokenize(prompt, true))
	if len(ids) == 0 {
		return nil, engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "prompt", "the prompt is empty")
	}
	return e.fit(ids, "prompt")
}

// gapTokens is a prompt for what comes between a text and its suffix. The texts stay texts: the model's own tokens say
// which is which.
func (e *Engine) gapTokens(r *engine.Request) ([]int32, error) {
	v := e.model.vocab
	before := r.Tokens
	switch {
	case !v.has(v.gap.before) || !v.has(v.gap.after) || !v.has(v.gap.middle):
		return nil, unsupported("suffix", "suffix with this model: it has no tokens for the parts around a gap")
	case !utf8.ValidString(r.Prompt) || !utf8.ValidString(r.Suffix):
		return nil, invalid("suffix", "the prompt or the suffix is no valid UTF-8")
	}
	if err := e.tooLong(r.Prompt+r.Suffix, "prompt"); err != nil {
		return nil, err
	}
	if len(before) == 0 {
		before = v.tokenize(r.Prompt, false)
	}
	ids := slices.Concat([]int32{v.gap.before}, before, []int32{v.gap.after}, v.tokenize(r.Suffix, false), []int32{v.gap.middle})
	return e.fit(v.begin(ids), "prompt")
}

// tooLong refuses a text that can't fit, before the time is spent to count its tokens.
func (e *Engine) tooLong(prompt, param string) error {
	if least := len(prompt) / max(1, e.model.vocab.longest); least >= e.limit {
		return contextLength(e.limit, fmt.Sprint("at least ", least), param)
	}
	return nil
}

// fit refuses a prompt that leaves no room for an answer.
func (e *Engine) fit(ids []int32, param string) ([]int32, error) {
	if len(ids) >= e.limit {
		return nil, contextLength(e.limit, fmt.Sprint(len(ids)), param)
	}
	return ids, nil
}

func contextLength(limit int, got, param string) error {
	return engine.Errorf(engine.Invalid, engine.CodeContextLength, param,
		"This model's maximum context length is %d tokens. However, your %s resulted in %s tokens. Please reduce the length of the %s.",
		limit, param, got, param)
}

// echo puts the prompt before each answer.
func (e *Engine) echo(u *run) {
	prompt := u.request.Prompt
	if len(u.request.Tokens) > 0 {
		prompt = e.model.vocab.detokenize(u.request.Tokens)
	}
	for _, s := range u.seqs {
		s.text.done.WriteString(prompt)
		u.outbox.put(engine.Chunk{Index: s.choice, Text: prompt}, time.Time{})
	}
}
