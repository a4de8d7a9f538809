package llama

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

func embedRequest(texts ...string) *engine.Request {
	r := &engine.Request{ID: "e", Kind: engine.Embed}
	for _, s := range texts {
		r.Inputs = append(r.Inputs, engine.Input{Text: s})
	}
	return r
}

func cosine(a, b engine.Vector) (c float64) {
	for i := range a {
		c += float64(a[i]) * float64(b[i])
	}
	return c
}

// alike is how near two computations of one vector are: activations are rounded, and by other rules in larger calls.
const alike = 0.998

func TestEmbedBatch(t *testing.T) {
	e := open(t, config(t))
	together := answer(t, e, embedRequest(prompts...))
	calls := e.Stats().EmbedCalls
	if calls > 2 || e.Stats().Embedded != len(prompts) {
		t.Errorf("%d texts took %d calls: %+v", len(prompts), calls, e.Stats())
	}
	tokens := 0
	for i, s := range prompts {
		alone := answer(t, e, embedRequest(s))
		v := together.Embeddings[i]
		if got := cosine(v, alone.Embeddings[0]); got < alike {
			t.Errorf("text %d: alone and in a batch have the cosine %v", i, got)
		}
		if got := cosine(v, v); math.Abs(got-1) > 1e-5 {
			t.Errorf("text %d: the vector's length is %v", i, math.Sqrt(got))
		}
		if other := together.Embeddings[(i+1)%len(prompts)]; cosine(v, other) > alike {
			t.Errorf("texts %d and the next have one vector", i)
		}
		tokens += alone.Usage.PromptTokens
	}
	if got := together.Usage.PromptTokens; got != tokens || got < 20 {
		t.Errorf("counted %d tokens together and %d alone", got, tokens)
	}
}

// TestEmbedLong compares a text that takes several calls with llama.cpp's own mean over one call.
func TestEmbedLong(t *testing.T) {
	e := open(t, config(t))
	text := strings.Repeat(strings.Join(prompts, ". ")+" ", 3)
	got := answer(t, e, embedRequest(text)).Embeddings[0]
	if e.Stats().EmbedCalls < 2 {
		t.Fatalf("the text took %d calls", e.Stats().EmbedCalls)
	}
	if c := cosine(got, ownMean(t, e, text)); c < alike {
		t.Errorf("llama.cpp's own mean has the cosine %v to ours", c)
	}
}

// ownMean has llama.cpp pool, in a context that takes the text in one piece.
func ownMean(t *testing.T, e *Engine, text string) engine.Vector {
	p := e.model.params
	p.NCtx, p.NBatch, p.NUbatch, p.NSeqMax = 512, 512, 512, 1
	p.Embeddings, p.PoolingType = 1, llama.PoolingTypeMean
	ctx, err := llama.InitFromModel(e.model.handle, p)
	if err != nil {
		t.Fatal(err)
	}
	defer llama.Free(ctx)
	if err := e.model.equip(ctx); err != nil {
		t.Fatal(err)
	}
	b := llama.BatchInit(512, 0, 1)
	defer llama.BatchFree(b)
	for i, id := range e.model.vocab.passage(text) {
		b.Add(llama.Token(id), llama.Pos(i), []llama.SeqId{0}, true)
	}
	if code, err := llama.Decode(ctx, b); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	row, err := llama.GetEmbeddingsSeq(ctx, 0, int32(e.model.width()))
	if err != nil || row == nil {
		t.Fatal("no vector", err)
	}
	sum := make([]float64, len(row))
	for i, x := range row {
		sum[i] = float64(x)
	}
	v, _ := engine.Unit(sum)
	return v
}

// TestEmbedBesideChat embeds while others draw: their answers and their cells stay as they are.
func TestEmbedBesideChat(t *testing.T) {
	e := open(t, config(t))
	request := func(i int) *engine.Request {
		r := ask(prompts[i], 24)
		r.Sampling.IgnoreEOS = true
		return r
	}
	want := atOnce(t, e, 4, request)
	before := e.Stats()
	var texts sync.WaitGroup
	for range 4 {
		texts.Go(func() {
			if _, err := e.Run(t.Context(), embedRequest(prompts...), nil); err != nil {
				t.Error(err)
			}
		})
	}
	got := atOnce(t, e, 4, request)
	texts.Wait()
	after := e.Stats()
	if after.Preempted != before.Preempted || after.Mismatched != 0 || after.CellsInUse != before.CellsInUse {
		t.Errorf("before %+v, after %+v", before, after)
	}
	for i := range got {
		if len(got[i].Choices[0].Text) == 0 || got[i].Usage.CompletionTokens != want[i].Usage.CompletionTokens {
			t.Errorf("answer %d: %+v, without texts %+v", i, got[i], want[i])
		}
	}
}

func TestEmbedRefusals(t *testing.T) {
	e := open(t, config(t))
	for name, c := range map[string]struct {
		change func(*engine.Request)
		param  string
		is     error
	}{
		"no input":         {func(r *engine.Request) { r.Inputs = nil }, "input", engine.ErrInvalid},
		"an empty input":   {func(r *engine.Request) { r.Inputs[0].Text = "" }, "input", engine.ErrInvalid},
		"NUL":              {func(r *engine.Request) { r.Inputs[0].Text = "a\x00" }, "input", engine.ErrInvalid},
		"dimensions":       {func(r *engine.Request) { r.Dimensions = 100 }, "dimensions", engine.ErrInvalid},
		"a foreign token":  {func(r *engine.Request) { r.Inputs[0].Tokens = []int32{1 << 30} }, "input", engine.ErrInvalid},
		"too long":         {func(r *engine.Request) { r.Inputs[0].Text = strings.Repeat("one two ", 2000) }, "input 0", engine.ErrContextLength},
		"far too long":     {func(r *engine.Request) { r.Inputs[0].Text = strings.Repeat("x", 1<<20) }, "input 0", engine.ErrContextLength},
		"more than fit":    {func(r *engine.Request) { r.Inputs = make2(r.Inputs[0], 5000) }, "input", engine.ErrInvalid},
		"a lost adapter":   {func(r *engine.Request) { r.Model.Adapter = strings.Repeat("a", 64) }, "model", engine.ErrNotFound},
		"of another model": {func(r *engine.Request) { r.Model.Name = "other" }, "model", engine.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := embedRequest("hello")
			c.change(r)
			_, err := e.Run(t.Context(), r, nil)
			if !errors.Is(err, c.is) || engine.AsError(err).Param != c.param {
				t.Errorf("got %+v", engine.AsError(err))
			}
		})
	}
	r := embedRequest("hello")
	r.Dimensions = e.model.width()
	if got := len(answer(t, e, r).Embeddings[0]); got != r.Dimensions {
		t.Errorf("got %d numbers", got)
	}
}

// adaptedTexts asks for vectors of an adapter's, of the base's for none.
func adaptedTexts(digest string, texts ...string) *engine.Request {
	r := embedRequest(texts...)
	r.Model.Adapter = digest
	return r
}

// TestEmbedAdaptersInTurn: base, A, base, B have the vectors of a context of their own, to the last bit.
func TestEmbedAdaptersInTurn(t *testing.T) {
	c, digests := adapted(t, 1, 2)
	e := open(t, c)
	var all []engine.Vector
	for i, digest := range []string{"", digests[0], "", digests[1], digests[0]} {
		got := answer(t, e, adaptedTexts(digest, prompts[0])).Embeddings[0]
		fresh := open(t, c)
		want := answer(t, fresh, adaptedTexts(digest, prompts[0])).Embeddings[0]
		if err := fresh.Close(); err != nil || !slices.Equal(got, want) {
			t.Errorf("vector %d: the cosine to that of a fresh context is %v, %v", i, cosine(got, want), err)
		}
		all = append(all, got)
	}
	for _, pair := range [][2]int{{0, 1}, {0, 3}, {1, 3}} {
		if got := cosine(all[pair[0]], all[pair[1]]); got > alike {
			t.Errorf("vectors %v can't be told apart: their cosine is %v", pair, got)
		}
	}
	if s := e.Stats(); s.AdapterLoads != 2 {
		t.Errorf("want 2 loads: %+v", s)
	}
}

// TestEmbedManyAdapters: texts and answers of four adapters share the room of one or two, and none waits for ever.
func TestEmbedManyAdapters(t *testing.T) {
	c, digests := adapted(t, 1, 2, 3, 4)
	roomy := open(t, c)
	var want []engine.Vector
	for _, d := range digests {
		want = append(want, answer(t, roomy, adaptedTexts(d, prompts[0])).Embeddings[0])
	}
	roomy.Close()
	c.AdapterBytes = 3 << 20 // of one or two
	e := open(t, c)
	var all sync.WaitGroup
	for i := range 16 {
		digest := digests[i%4]
		all.Go(func() {
			got, err := e.Run(t.Context(), adaptedTexts(digest, prompts[0], prompts[1]), nil)
			if err != nil {
				t.Error(err)
			} else if near := cosine(got.Embeddings[0], want[i%4]); near < alike {
				t.Errorf("vector %d: the cosine to that of an engine with room is %v", i, near)
			}
		})
		all.Go(func() {
			if _, err := e.Run(t.Context(), with(digest, prompts[i%len(prompts)], 2), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if s := e.Stats(); s.Evicted == 0 || s.AdapterBytes > c.AdapterBytes {
		t.Errorf("there was room for all: this test shows nothing: %+v", s)
	}
	for _, a := range e.loop.rack.loaded {
		if a.runs != 0 {
			t.Errorf("the adapter %s is held by %d runs that have ended", a.digest, a.runs)
		}
	}
}

// TestEmbedTurns: a call is of one adapter; none begins before those of another that came first.
func TestEmbedTurns(t *testing.T) {
	w := &wheel{vectorShape: vectorShape{rows: 2, cells: 64, width: 8}, bad: -1, deaf: 9}
	first, second, unloaded := &adapter{handle: 1}, &adapter{handle: 2}, &adapter{}
	r := &rack{}
	e := &embedder{open: func() (vectors, error) { return w, nil }, rack: r}
	of := map[*adapter]*embedding{}
	var ended []*adapter
	for _, a := range []*adapter{first, second, first, nil, unloaded, first} {
		u := &embedding{ctx: t.Context(), adapter: a, left: 1, done: make(chan struct{})}
		u.passages = []*passage{{of: u, tokens: []int32{1, 2, 3}, slot: -1}}
		e.put(u.passages)
		of[a] = u
	}
	for i := 0; e.receive() && i < 50; i++ {
		e.step(w.rows, func([]string) {})
		for _, r := range w.last {
			if r.of.of.adapter != w.last[0].of.of.adapter {
				t.Fatal("a call is of two adapters")
			}
		}
		for _, u := range e.over {
			ended = append(ended, u.adapter)
		}
		e.report()
	}
	if want := []*adapter{first, second, first, nil, first}; !slices.Equal(ended, want) {
		t.Errorf("they ended in the order %v, want %v", ended, want)
	}
	if e.wants() != unloaded || first.runs != 0 || second.runs != 0 {
		t.Errorf("held by %d and %d runs", first.runs, second.runs)
	}
	e.forget(first)
	if last := w.used[len(w.used)-1]; last != 0 || e.using != nil {
		t.Errorf("a freed adapter is in use: %v", w.used)
	}
	no := errors.New("it can't be loaded")
	e.refuse(unloaded, no)
	e.report()
	<-of[unloaded].done
	if of[unloaded].err != no || e.waiting() {
		t.Errorf("refused, it ended with %v", of[unloaded].err)
	}
}

// TestEmbedNoChange: an adapter that the context does not change to fails its own texts alone.
func TestEmbedNoChange(t *testing.T) {
	w := &wheel{vectorShape: vectorShape{rows: 2, cells: 64, width: 8}, bad: -1, deaf: 9}
	e := &embedder{open: func() (vectors, error) { return w, nil }, rack: &rack{}}
	var all []*embedding
	for _, a := range []*adapter{{handle: 9}, nil} {
		u := &embedding{ctx: t.Context(), adapter: a, left: 1, done: make(chan struct{})}
		u.passages = []*passage{{of: u, tokens: []int32{1}, slot: -1}}
		e.put(u.passages)
		all = append(all, u)
	}
	for e.receive() {
		e.step(w.rows, func([]string) {})
		e.report()
	}
	if !errors.Is(all[0].err, &engine.Error{Class: engine.Internal}) || all[1].err != nil {
		t.Errorf("they ended with %v and %v", all[0].err, all[1].err)
	}
}

func make2(in engine.Input, n int) []engine.Input {
	all := make([]engine.Input, n)
	for i := range all {
		all[i] = in
	}
	return all
}

// wheel stands for llama.cpp where a call is to fail. Its vector of a token points where the token says.
type wheel struct {
	vectorShape
	bad   int32 // a call that holds this token fails
	last  []textRow
	calls int
	used  []llama.AdapterLora
	deaf  llama.AdapterLora // is not changed to
}

func (w *wheel) shape() vectorShape { return w.vectorShape }
func (w *wheel) remove(int)         {}
func (w *wheel) why(int32) string   { return "it is bad" }
func (w *wheel) free()              {}

func (w *wheel) use(handle llama.AdapterLora) bool {
	w.used = append(w.used, handle)
	return handle != w.deaf
}

func (w *wheel) decode(rows []textRow) int32 {
	w.last = rows
	w.calls++
	for _, r := range rows {
		if r.of.tokens[r.pos] == w.bad {
			return -1
		}
	}
	return 0
}

func (w *wheel) vector(i int) []float32 {
	v := make([]float32, w.width)
	v[w.last[i].of.tokens[w.last[i].pos]] = 1
	return v
}

// turn runs an embedder over texts until all are through.
func turn(t *testing.T, w *wheel, texts ...[]int32) []*embedding {
	e := &embedder{open: func() (vectors, error) { return w, nil }}
	var all []*embedding
	for _, tokens := range texts {
		u := &embedding{ctx: t.Context(), left: 1, done: make(chan struct{})}
		u.passages = []*passage{{of: u, tokens: tokens, slot: -1}}
		e.put(u.passages)
		all = append(all, u)
	}
	for i := 0; e.receive(); i++ {
		if e.step(w.rows, func([]string) {}); i > 100 {
			t.Fatal("it does not end")
		}
	}
	e.report()
	if e.cells != w.cells {
		t.Errorf("%d of %d cells are free", e.cells, w.cells)
	}
	return all
}

// TestEmbedFault: a text that llama.cpp can't take fails alone; what shared its calls is computed again.
func TestEmbedFault(t *testing.T) {
	w := &wheel{vectorShape: vectorShape{rows: 4, cells: 8, width: 8}, bad: 7}
	all := turn(t, w, []int32{1, 2, 1}, []int32{3, 7}, []int32{4, 5, 4, 5, 4, 5, 5, 5}, []int32{6})
	for i, u := range all {
		<-u.done
		if (u.err != nil) != (i == 1) {
			t.Errorf("text %d ended with %v", i, u.err)
		}
	}
	if p := all[0].passages[0].pooled; p[1] != 2 || p[2] != 1 {
		t.Errorf("a text that was computed twice has %v", p)
	}
}

func TestEmbedPooling(t *testing.T) {
	for name, c := range map[string]struct {
		how  llama.PoolingType
		want [4]float64
	}{
		"mean":  {llama.PoolingTypeMean, [4]float64{0, 2, 1, 0}},
		"first": {llama.PoolingTypeCLS, [4]float64{0, 1, 0, 0}},
		"last":  {llama.PoolingTypeLast, [4]float64{0, 0, 1, 0}},
	} {
		w := &wheel{vectorShape: vectorShape{rows: 2, cells: 8, width: 4, pooling: c.how}, bad: -1}
		if got := turn(t, w, []int32{1, 1, 2})[0].passages[0].pooled; [4]float64(got) != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestEmbedEnds(t *testing.T) {
	e := open(t, config(t))
	why := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := e.Run(ctx, embedRequest("hello"), nil); !errors.Is(err, why) {
		t.Errorf("a cancelled request ended with %v", err)
	}
	e.Close()
	if _, err := e.Run(t.Context(), embedRequest("hello"), nil); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSpell(t *testing.T) {
	e := open(t, config(t))
	for _, s := range []string{"hello world", "<|im_start|>user\nHéllo 🙂<|im_end|>", " lead", "日本語", ""} {
		c := answer(t, e, &engine.Request{Kind: engine.Tokenize, Prompt: s})
		if s != "" && len(c.Tokens) == 0 || e.model.vocab.has(e.model.vocab.bos) && len(c.Tokens) > 0 && s[0] != '<' && c.Tokens[0] == e.model.vocab.bos {
			t.Errorf("%q: got the tokens %v", s, c.Tokens)
		}
		back := answer(t, e, &engine.Request{Kind: engine.Detokenize, Tokens: c.Tokens})
		if got := back.Choices[0].Text; got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	}
	if got := answer(t, e, &engine.Request{Kind: engine.Tokenize, Prompt: "<|im_start|>"}).Tokens; len(got) != 1 {
		t.Errorf("a control token's text has the tokens %v", got)
	}
	_, err := e.Run(t.Context(), &engine.Request{Kind: engine.Detokenize, Tokens: []int32{-1}}, nil)
	if got := engine.AsError(err); got.Param != "tokens" {
		t.Errorf("got %+v", got)
	}
}
