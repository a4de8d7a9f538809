package llama

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ardanlabs/jinja"
	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// parityFails are renders that are known to differ from Python's, by template and case, and why. Of llama.cpp's whole
// collection others differ for these reasons: the library prints 1.0 as 1 and None as nothing outside of tojson, and
// takes as empty what Python refuses as undefined; a type that is no word (enum) is Any instead of Union[].
var parityFails = map[string]string{
	"ByteDance-Seed-OSS.jinja/a call and its result": "prints 1.0 as 1 outside of tojson",
}

type render struct{ Text, Error *string }

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestTemplatesAreThoseOfPython compares templates with what Python's Jinja2 makes of them, byte for byte: models were
// trained on that. LORRY_TEMPLATES names another folder that scripts/templates was run over.
func TestTemplatesAreThoseOfPython(t *testing.T) {
	const own = "testdata/templates"
	folder := cmp.Or(os.Getenv("LORRY_TEMPLATES"), own)
	var cases map[string]struct{ Messages, Tools json.RawMessage }
	var golden map[string]map[string]render
	readJSON(t, filepath.Join(own, "cases.json"), &cases)
	readJSON(t, filepath.Join(folder, "golden.json"), &golden)
	tools, err := os.ReadFile(filepath.Join(own, "tools.json"))
	if err != nil {
		t.Fatal(err)
	}
	for file, renders := range golden {
		t.Run(file, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				t.Fatal(err)
			}
			x, err := newTemplate(string(source), "<s>", "</s>")
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range renders {
				list := tools
				if c := cases[name]; c.Tools == nil {
					list = nil
				}
				got, err := renderAsIs(x, cases[name].Messages, list)
				if why := parityFails[file+"/"+name]; why != "" {
					if agrees(want, got, err) {
						t.Errorf("%s: is listed as different, and is not: %s", name, why)
					}
					continue
				}
				if !agrees(want, got, err) {
					t.Errorf("%s:\ngot    %q, %v\npython %s", name, got, err, show(want))
				}
			}
		})
	}
}

// renderAsIs renders messages as they stand: what we make of contents and calls before is ours, and tested apart.
func renderAsIs(x *template, messages, tools json.RawMessage) (string, error) {
	list, err := decodeOrdered(messages)
	if err != nil {
		return "", err
	}
	day := func([]jinja.Value, map[string]jinja.Value) (jinja.Value, error) {
		return jinja.NewString("1 January 2026"), nil
	}
	more := variables{"strftime_now": jinja.NewCallable("strftime_now", day)}
	if tools == nil {
		return x.write(list, nil, more)
	}
	v, err := decodeOrdered(tools)
	if err != nil {
		return "", err
	}
	return x.write(list, &v, more)
}

// agrees wants the same text, or a refusal for a refusal.
func agrees(want render, got string, err error) bool {
	if want.Text == nil {
		return errors.Is(err, engine.ErrInvalid)
	}
	return err == nil && got == *want.Text
}

func show(r render) string {
	b, _ := json.Marshal(r)
	return string(b)
}

// TestPythonJSON has what Python 3.11's json.dumps wrote.
func TestPythonJSON(t *testing.T) {
	for value, want := range map[string]string{
		`1.0`: "1.0", `-0.5`: "-0.5", `1e16`: "1e+16", `123456789012345680.0`: "1.2345678901234568e+17", `0.0001`: "0.0001", `0.00001`: "1e-05",
		`0.0`: "0.0", `12345678901234567`: "12345678901234567", `[]`: "[]", `{}`: "{}", `[true,null,"a\u2028<&>\u007f"]`: "[true, null, \"a\u2028<&>\u007f\"]",
		`"\b\f\n\r\t\u0001\"\\"`: `"\b\f\n\r\t\u0001\"\\"`, `{"b":1,"a":[1,2]}`: `{"b": 1, "a": [1, 2]}`,
	} {
		v, err := decodeOrdered([]byte(value))
		if err != nil {
			t.Fatal(err)
		}
		got, err := tojsonFilter([]jinja.Value{v}, nil)
		if err != nil || got.AsString() != want {
			t.Errorf("%s: got %s, want %s", value, got.AsString(), want)
		}
	}
	v, _ := decodeOrdered([]byte(`{"b":[],"a":["é🚚",{}]}`))
	for want, named := range map[string]map[string]jinja.Value{
		"{\n  \"b\": [],\n  \"a\": [\n    \"é🚚\",\n    {}\n  ]\n}": {"indent": jinja.NewInt(2)},
		`{"a": ["é🚚", {}], "b": []}`:                               {"sort_keys": jinja.NewBool(true)},
		`{"b": [], "a": ["\u00e9\ud83d\ude9a", {}]}`:               {"ensure_ascii": jinja.NewBool(true)},
		`{"b":[],"a":["é🚚",{}]}`:                                   {"separators": jinja.NewList([]jinja.Value{jinja.NewString(","), jinja.NewString(":")})},
	} {
		if got, err := tojsonFilter([]jinja.Value{v}, named); err != nil || got.AsString() != want {
			t.Errorf("got %s, want %s", got.AsString(), want)
		}
	}
}

// TestAnswersAreThoseOfLlamaCpp: at temperature 0 our engine draws, token for token, what llama.cpp's own sampler draws in
// llama.cpp's own loop (examples/simple), with the base and with each of three adapters. Weights are F16. The calls are
// the same on both sides: the prompt in one, then a token each, from the first cell on, with one thread.
func TestAnswersAreThoseOfLlamaCpp(t *testing.T) {
	const tokens = 32
	c, digests := adapted(t, 1, 2, 3)
	c.File = quantized(t, c.File, "f16")
	c.NoShare, c.StepTarget = true, -1
	e, own := open(t, c), openSimple(t, c)
	texts := map[string]string{}
	for _, digest := range append([]string{""}, digests...) {
		own.use(t, digest)
		for _, prompt := range prompts[:2] {
			r := ask(prompt, tokens)
			r.Model.Adapter, r.Sampling.Logprobs = digest, true
			got := answer(t, e, r).Choices[0]
			want := own.generate(t, prompt, tokens)
			for i, w := range want {
				if i >= len(got.Logprobs) || string(got.Logprobs[i].Bytes) != string(w) {
					t.Errorf("adapter %.8q, %q, token %d of %d: llama.cpp says %q, we %q", digest, prompt, i, len(want), want, got.Text)
					break
				}
			}
			if len(got.Logprobs) > len(want) {
				t.Errorf("adapter %.8q, %q: llama.cpp ends after %d tokens, we after %d", digest, prompt, len(want), len(got.Logprobs))
			}
			texts[got.Text] = prompt
		}
	}
	if len(texts) < 2*len(digests) {
		t.Errorf("there are %d texts in all: adapters change too little for this to show anything", len(texts))
	}
}

// simple is llama.cpp's examples/simple: a model and a context of its own, nothing of ours between.
type simple struct {
	dir   string
	model llama.Model
	ctx   llama.Context
	vocab llama.Vocab
}

func openSimple(t *testing.T, c Config) *simple {
	t.Helper()
	load := llama.ModelDefaultParams()
	load.NGpuLayers = 0
	m, err := llama.ModelLoadFromFile(c.File, load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llama.ModelFree(m) })
	p := llama.ContextDefaultParams()
	p.NCtx, p.NBatch, p.NThreads, p.NThreadsBatch = 256, 63, 1, 1
	p.FlashAttentionType = llama.FlashAttentionTypeEnabled
	ctx, err := llama.InitFromModel(m, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llama.Free(ctx) })
	return &simple{dir: c.Adapters, model: m, ctx: ctx, vocab: llama.ModelGetVocab(m)}
}

// use has the context compute with an adapter from now on; the base comes first, and needs none.
func (s *simple) use(t *testing.T, digest string) {
	t.Helper()
	if digest == "" {
		return
	}
	a, err := llama.AdapterLoraInit(s.model, filepath.Join(s.dir, digest))
	if err != nil || a == 0 || llama.SetAdaptersLora(s.ctx, []llama.AdapterLora{a}, []float32{1}) != 0 {
		t.Fatalf("llama.cpp does not take the adapter %s: %v", digest, err)
	}
}

// generate is the pieces of up to n tokens, as llama.cpp's greedy sampler draws them.
func (s *simple) generate(t *testing.T, prompt string, n int) (pieces [][]byte) {
	t.Helper()
	mem, err := llama.GetMemory(s.ctx)
	if err == nil {
		err = llama.MemoryClear(mem, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	sampler := llama.SamplerChainInit(llama.SamplerChainDefaultParams())
	defer llama.SamplerFree(sampler)
	llama.SamplerChainAdd(sampler, llama.SamplerInitGreedy())
	batch := llama.Tokenize(s.vocab, prompt, true, true)
	for len(pieces) < n {
		if code, err := llama.Decode(s.ctx, llama.BatchGetOne(batch)); err != nil || code != 0 {
			t.Fatal(code, err)
		}
		id := llama.SamplerSample(sampler, s.ctx, -1)
		if llama.VocabIsEOG(s.vocab, id) {
			break
		}
		piece, _ := readPiece(s.vocab, id, make([]byte, 256))
		pieces, batch = append(pieces, piece), []llama.Token{id}
	}
	return pieces
}
