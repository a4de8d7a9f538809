package producer

import (
	"encoding/json"
	"reflect"
	"testing"

	"lorry/engine"
)

func keyedRequest() engine.Request {
	return engine.Request{Kind: engine.Chat, Model: engine.Model{Name: "m", Base: "b", Adapter: "a", Template: "t", Settings: "s"},
		Messages: json.RawMessage(`[{"role":"user","content":"hi é"}]`), Sampling: engine.Sampling{Temperature: 0.5, TopP: 1, N: 1, Seed: 7}}
}

// The golden: cached answers of a running fleet are found under this name. A change empties every cache.
func TestCacheKeyGolden(t *testing.T) {
	r := keyedRequest()
	const want = "e4b6226f1cc890b894b2d0d35e6da252cdc75fa02e0d9f56896265adba9d1833"
	if got := CacheKey("acme", &r); got != want {
		t.Errorf("key %s, want %s", got, want)
	}
}

func TestCacheKeySame(t *testing.T) {
	r := keyedRequest()
	want := CacheKey("acme", &r)
	for name, change := range map[string]func(*engine.Request){
		"id":           func(r *engine.Request) { r.ID = "x" },
		"model's name": func(r *engine.Request) { r.Model.Name = "other" },
		"white space": func(r *engine.Request) {
			r.Messages = json.RawMessage("[ {\"role\":\n\"user\", \"content\":\"hi é\"} ]")
		},
		"escapes":        func(r *engine.Request) { r.Messages = json.RawMessage(`[{"role":"\u0075ser","content":"hi \u00e9"}]`) },
		"no stops":       func(r *engine.Request) { r.Sampling.Stop = []string{} },
		"repeat penalty": func(r *engine.Request) { r.Sampling.RepeatPenalty = 1 },
		"empty tools":    func(r *engine.Request) { r.Tools = json.RawMessage{} },
		"nothing at all": func(*engine.Request) {},
		"scope":          func(r *engine.Request) { r.Scope = "acme" },
	} {
		r := keyedRequest()
		change(&r)
		if got := CacheKey("acme", &r); got != want {
			t.Errorf("%s: another key", name)
		}
	}
}

func TestCacheKeyOther(t *testing.T) {
	r := keyedRequest()
	seen := map[string]string{CacheKey("acme", &r): "the request", CacheKey("other", &r): "another tenant"}
	if len(seen) != 2 {
		t.Fatal("two tenants share a key")
	}
	for name, change := range map[string]func(*engine.Request){
		"base":            func(r *engine.Request) { r.Model.Base = "x" },
		"adapter":         func(r *engine.Request) { r.Model.Adapter = "" },
		"template":        func(r *engine.Request) { r.Model.Template = "x" },
		"settings":        func(r *engine.Request) { r.Model.Settings = "x" },
		"kind":            func(r *engine.Request) { r.Kind = engine.Text },
		"messages":        func(r *engine.Request) { r.Messages = json.RawMessage(`[{"role":"user","content":"ho"}]`) },
		"order of keys":   func(r *engine.Request) { r.Messages = json.RawMessage(`[{"content":"hi é","role":"user"}]`) },
		"prompt":          func(r *engine.Request) { r.Prompt = "x" },
		"tokens":          func(r *engine.Request) { r.Tokens = []int32{1} },
		"tools":           func(r *engine.Request) { r.Tools = json.RawMessage(`[{}]`) },
		"tool_choice":     func(r *engine.Request) { r.ToolChoice = json.RawMessage(`"none"`) },
		"response_format": func(r *engine.Request) { r.ResponseFormat = json.RawMessage(`{"type":"json_object"}`) },
		"grammar":         func(r *engine.Request) { r.Grammar = `root ::= "a"` },
		"deterministic":   func(r *engine.Request) { r.Deterministic = true },
		"echo":            func(r *engine.Request) { r.Echo = true },
		"suffix":          func(r *engine.Request) { r.Suffix = "x" },
		"inputs":          func(r *engine.Request) { r.Inputs = []engine.Input{{Text: "x"}} },
		"token inputs":    func(r *engine.Request) { r.Inputs = []engine.Input{{Tokens: []int32{1}}} },
		"dimensions":      func(r *engine.Request) { r.Dimensions = 3 },
		"one call":        func(r *engine.Request) { r.OneToolCall = true },
		"effort":          func(r *engine.Request) { r.ReasoningEffort = "low" },
		"stop":            func(r *engine.Request) { r.Sampling.Stop = []string{"a", "b"} },
		"stop joined":     func(r *engine.Request) { r.Sampling.Stop = []string{"ab"} },
	} {
		r := keyedRequest()
		change(&r)
		k := CacheKey("acme", &r)
		if seen[k] != "" {
			t.Errorf("%s has the key of %s", name, seen[k])
		}
		seen[k] = name
	}
}

// Every field of engine.Sampling counts: one that is added later and forgotten here would mix answers up.
func TestCacheKeyHasEverySamplingField(t *testing.T) {
	r := keyedRequest()
	before := CacheKey("acme", &r)
	typ := reflect.TypeFor[engine.Sampling]()
	for i := range typ.NumField() {
		r := keyedRequest()
		f := reflect.ValueOf(&r.Sampling).Elem().Field(i)
		switch f.Kind() {
		case reflect.Float64:
			f.SetFloat(0.25)
		case reflect.Int:
			f.SetInt(5)
		case reflect.Uint64:
			f.SetUint(5)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[int32]float64{1: 1}))
		}
		if CacheKey("acme", &r) == before {
			t.Errorf("%s does not change the key", typ.Field(i).Name)
		}
	}
}

func TestCacheKeyGreedyHasNoSeed(t *testing.T) {
	a, b := keyedRequest(), keyedRequest()
	a.Sampling.Temperature, b.Sampling.Temperature, b.Sampling.Seed = 0, 0, 8
	if CacheKey("acme", &a) != CacheKey("acme", &b) {
		t.Error("greedy answers differ by seed")
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[true,null,-1.50e3,"\u00e9<>"]}`, `[]`, `"x"`, `{"a":{"b":{}}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkText([]byte(s)) != nil {
			return
		}
		c := canonical(json.RawMessage(s))
		if string(canonical(c)) != string(c) {
			t.Fatalf("%q: canonical twice differs: %s", s, c)
		}
		var a, b any
		if json.Unmarshal([]byte(s), &a) == nil && (json.Unmarshal(c, &b) != nil || !reflect.DeepEqual(a, b)) {
			t.Fatalf("%q became %s", s, c)
		}
	})
}
