package llama

import (
	"cmp"
	"container/list"
	"encoding/json"
	"strings"
	"sync"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
	"lorry/engine/gbnf"
)

// form is what an answer must look like.
type form struct {
	grammar string          // in GBNF, checked
	root    string          // the rule that all of it keeps to; empty: root
	schema  *gbnf.Validator // nil: nothing but the grammar is asked for
	param   string          // the field of the request that asks for it
}

// formOf reads the form that a request asks for; nil is any.
func formOf(r *engine.Request) (*form, error) {
	f, err := responseForm(r.ResponseFormat)
	if err != nil {
		return nil, err
	}
	if r.Grammar != "" {
		if f != nil {
			return nil, invalid("grammar", "grammar and response_format both say what the answer looks like: give one")
		}
		f, err = clientForm(r.Grammar)
	}
	if f == nil || err != nil {
		return nil, err
	}
	return f, f.check(r.Sampling)
}

// clientForm reads a grammar before llama.cpp does, which ends or stalls the process over some. Grammars of schemas
// were read so when they were made.
func clientForm(grammar string) (*form, error) {
	if err := gbnf.Check(grammar); err != nil {
		return nil, invalid("grammar", "%s", reason(err))
	}
	return &form{grammar: grammar, param: "grammar"}, nil
}

// check refuses what would have an answer go on after its form has ended.
func (f *form) check(s engine.Sampling) error {
	if s.IgnoreEOS {
		return unsupported("ignore_eos", "ignore_eos together with "+f.param+", which says where the answer ends")
	}
	if s.MinTokens > 0 {
		return unsupported("min_tokens", "min_tokens together with "+f.param+", which says where the answer ends")
	}
	return nil
}

// reason is an error of gbnf in a client's words.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), "gbnf: ")
}

// responseForm reads response_format. Its fields are OpenAI's; others are refused.
func responseForm(raw json.RawMessage) (*form, error) {
	const param = "response_format"
	if blank(raw) {
		return nil, nil
	}
	fields, err := only(raw, param, "type", "json_schema")
	if err != nil {
		return nil, err
	}
	switch kind := word(fields["type"], ""); {
	case kind != "json_schema" && !blank(fields["json_schema"]):
		return nil, invalid(param+".json_schema", "response_format.json_schema belongs to the type json_schema")
	case kind == "text":
		return nil, nil
	case kind == "json_object":
		return &form{grammar: gbnf.JSON, param: param}, nil
	case kind == "json_schema":
		return schemaForm(fields["json_schema"], param+".json_schema")
	}
	return nil, unsupported(param, "response formats other than text, json_object and json_schema")
}

// schemaForm reads {"name", "description", "schema", "strict"}. An answer always keeps to the schema, strict or not.
func schemaForm(raw json.RawMessage, param string) (*form, error) {
	fields, err := only(raw, param, "name", "description", "schema", "strict")
	if err != nil {
		return nil, err
	}
	schema := fields["schema"]
	if blank(schema) {
		return nil, invalid(param+".schema", "%s.schema is missing", param)
	}
	return formOfSchema(schema, "response_format", param+".schema")
}

// formOfSchema is the form of any JSON that fits a schema, which stands in a request at the place at.
func formOfSchema(schema json.RawMessage, param, at string) (*form, error) {
	grammar, err := gbnf.FromSchema(schema)
	if err != nil {
		return nil, engine.Errorf(engine.Invalid, engine.CodeUnsupported, at, "%s", reason(err))
	}
	v, err := gbnf.NewValidator(schema)
	if err != nil {
		return nil, invalid(at, "%s", reason(err))
	}
	return &form{grammar: grammar, schema: v, param: param}, nil
}

// only reads an object with no fields but those named.
func only(raw json.RawMessage, param string, names ...string) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, invalid(param, "%s must be an object", param)
	}
	rest := len(fields)
	for _, name := range names {
		if _, ok := fields[name]; ok {
			rest--
		}
	}
	if rest > 0 {
		return nil, invalid(param, "%s holds a field that is not known: %v are", param, names)
	}
	return fields, nil
}

// validate holds a run's answers against the schema, where one was asked for: a grammar does not hold all of it. Those
// that were cut, by their length or by a stop string, are what they are. The class is Internal, for the request was
// right: it is tried again, and given up with the reason after the usual attempts.
func (f *form) validate(u *run, c *engine.Completion, end map[int32]bool) error {
	if f == nil || f.schema == nil {
		return nil
	}
	for i, s := range u.seqs {
		if last := s.tokens[len(s.tokens)-1]; s.finish != engine.FinishStop || !end[last] {
			continue
		}
		if err := f.schema.Validate(c.Choices[i].Text); err != nil {
			return engine.Errorf(engine.Internal, codeSchemaMismatch, "", "an answer breaks the schema: %s", reason(err))
		}
	}
	return nil
}

// codeSchemaMismatch is an answer that is finished and does not fit what was asked for.
const codeSchemaMismatch = "schema_mismatch"

// shelf keeps the grammars that were used last, parsed: requests with one schema come by the thousand, and a copy
// costs a hundredth of parsing. It may be used from many goroutines.
type shelf struct {
	mu    sync.Mutex
	vocab *vocab
	index map[string]*list.Element
	used  *list.List // of *parsed, last used first
}

type parsed struct {
	text   string
	native llama.Sampler
}

// maxShelf bounds how many grammars are kept. Each takes some hundred kilobytes at most.
const maxShelf = 64

func newShelf(v *vocab) *shelf {
	return &shelf{vocab: v, index: map[string]*list.Element{}, used: list.New()}
}

// copies is n grammars for a form, each at its beginning, to be freed by the caller; none for no form.
func (h *shelf) copies(f *form, n int) ([]*grammar, error) {
	if f == nil {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.find(f)
	if err != nil {
		return nil, err
	}
	gs := make([]*grammar, n)
	for i := range gs {
		gs[i] = &grammar{native: llama.SamplerClone(p.native), form: f, vocab: h.vocab}
	}
	return gs, nil
}

func (h *shelf) find(f *form) (*parsed, error) {
	if at := h.index[f.grammar]; at != nil {
		h.used.MoveToFront(at)
		return at.Value.(*parsed), nil
	}
	native := llama.SamplerInitGrammar(h.vocab.native, f.grammar, cmp.Or(f.root, "root"))
	if native == 0 {
		return nil, invalid(f.param, "llama.cpp can't read the grammar of %s", f.param)
	}
	p := &parsed{f.grammar, native}
	h.index[p.text] = h.used.PushFront(p)
	if h.used.Len() > maxShelf {
		h.drop(h.used.Back())
	}
	return p, nil
}

func (h *shelf) drop(at *list.Element) {
	p := h.used.Remove(at).(*parsed)
	delete(h.index, p.text)
	llama.SamplerFree(p.native)
}

// free empties the shelf. Copies live on.
func (h *shelf) free() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.used.Len() > 0 {
		h.drop(h.used.Back())
	}
}
