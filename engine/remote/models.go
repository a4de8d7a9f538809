package remote

import (
	"cmp"
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"lorry/engine"
)

// listing is what the server said that it serves.
type listing struct {
	at      time.Time
	dialect dialect
	served  []served
	loras   []lora // nil: none are registered
}

// served is one model, or one of llama-server's adapters on it.
type served struct {
	info engine.ModelInfo
	id   string // the server's name of the model
	lora int    // the adapter's number, -1: none
}

// lora is one adapter that a llama-server was started with.
type lora struct {
	ID   int    `json:"id"`
	Path string `json:"path"`
}

func (l *listing) infos() []engine.ModelInfo {
	var out []engine.ModelInfo
	for _, s := range l.served {
		out = append(out, s.info)
	}
	return out
}

// scales names every adapter: one that is left out gets the scale of the server's start.
func (l *listing) scales(s served) []map[string]any {
	var out []map[string]any
	for _, a := range l.loras {
		scale := 0
		if a.ID == s.lora {
			scale = 1
		}
		out = append(out, map[string]any{"id": a.ID, "scale": scale})
	}
	return out
}

// find looks a model up by its digests, or by its name where it has none.
func (l *listing) find(m engine.Model) (served, bool) {
	i := slices.IndexFunc(l.served, func(s served) bool {
		if m.Base == "" {
			return s.info.Name == m.Name
		}
		return s.info.Base == m.Base && s.info.Adapter == m.Adapter
	})
	if i < 0 {
		return served{}, false
	}
	return l.served[i], true
}

// resolve finds a model. An unknown one is looked for in a fresh list, though not more than once a second.
func (e *Engine) resolve(ctx context.Context, m engine.Model) (served, *listing, error) {
	for _, age := range []time.Duration{e.cfg.ListEvery, min(time.Second, e.cfg.ListEvery)} {
		l, err := e.listed(ctx, age)
		if err != nil {
			return served{}, nil, err
		}
		if s, ok := l.find(m); ok {
			return s, l, nil
		}
	}
	return served{}, nil, engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the model %q is not served at %s", m.Name, e.at.root)
}

func (e *Engine) models(ctx context.Context) (*listing, error) { return e.listed(ctx, e.cfg.ListEvery) }

// listed is the list, at most so old. Callers that come together share one question.
func (e *Engine) listed(ctx context.Context, age time.Duration) (*listing, error) {
	select {
	case e.listing <- struct{}{}:
		defer func() { <-e.listing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.list != nil && time.Since(e.list.at) < age {
		return e.list, nil
	}
	l, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	e.list = l
	return l, nil
}

// askFor bounds a question about models, which no server needs long to answer.
const askFor = 15 * time.Second

func (e *Engine) ask(ctx context.Context) (*listing, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	var reply modelList
	err := e.get(ctx, "/v1/models", &reply)
	if classOf(err) == engine.NotFound && len(e.cfg.Models) > 0 {
		err = nil // a server without a list
	}
	if err != nil {
		return nil, err
	}
	if len(reply.Data) == 0 {
		for _, id := range e.cfg.Models {
			reply.Data = append(reply.Data, modelEntry{ID: id})
		}
	}
	l := &listing{at: time.Now()}
	for _, m := range reply.Data {
		l.dialect = cmp.Or(l.dialect, dialectOf(m.OwnedBy))
	}
	if l.loras, err = e.askLoras(ctx, l.dialect); err != nil {
		return nil, err
	}
	return l, e.fill(l, reply.Data)
}

// modelList is the server's answer: OpenAI's, and how long the context is in the words of several.
type modelList struct {
	Data []modelEntry `json:"data"`
}

type modelEntry struct {
	ID            string `json:"id"`
	OwnedBy       string `json:"owned_by"`
	MaxModelLen   int    `json:"max_model_len"`  // vLLM, SGLang
	ContextLength int    `json:"context_length"` // Lorry, and some hosts
	Meta          struct {
		Ctx int `json:"n_ctx"` // llama-server; its n_ctx_train is not what it runs with
	} `json:"meta"`
}

func (m modelEntry) context() int { return cmp.Or(m.MaxModelLen, m.ContextLength, m.Meta.Ctx) }

// fill takes the models that are wanted. None of them is an error: it is a name misspelt, or a server not ready.
func (e *Engine) fill(l *listing, data []modelEntry) error {
	var names []string
	for _, m := range data {
		names = append(names, m.ID)
		if len(e.cfg.Models) == 0 || slices.Contains(e.cfg.Models, m.ID) {
			l.served = append(l.served, e.served(l, m)...)
		}
	}
	if len(l.served) == 0 {
		return engine.Errorf(engine.Unavailable, "", "", "engine/remote: %s serves %q, and none of %q", e.at.root, names, e.cfg.Models)
	}
	return nil
}

// served is the model, and it again with each of the adapters: named model/adapter.
func (e *Engine) served(l *listing, m modelEntry) []served {
	base := engine.Model{Name: m.ID, Base: e.at.digest(m.ID)}
	out := []served{{engine.ModelInfo{Model: base, Context: m.context()}, m.ID, -1}}
	for _, a := range l.loras {
		with := base
		with.Name += "/" + strings.TrimSuffix(path.Base(a.Path), ".gguf")
		with.Adapter = e.at.digest("lora:" + a.Path)
		out = append(out, served{engine.ModelInfo{Model: with, Context: m.context()}, m.ID, a.ID})
	}
	return out
}

// askLoras is nil where the server knows no adapters. A llama-server that does not answer may have some, and a request
// that does not name them would run with all of them: so that is an error.
func (e *Engine) askLoras(ctx context.Context, d dialect) ([]lora, error) {
	if d == vLLM || d == sgLang {
		return nil, nil // theirs are models of the list
	}
	var all []lora
	err := e.get(ctx, "/lora-adapters", &all)
	if err != nil && d == llamaServer && classOf(err) != engine.NotFound {
		return nil, err
	}
	if err != nil || len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// get reads JSON. Its errors say what was asked and what to look at.
func (e *Engine) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.at.root+path, nil)
	if err != nil {
		return err
	}
	resp, err := e.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decode(req, resp, into)
}
