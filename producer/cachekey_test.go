package producer

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
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
	const want = "eae0eb1e23f4ae085ef3ee566da34d5122933951c4680871d9a1a1b92a0b2ce4"
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

// Every field of a request counts, but those that do not change the answer: one that is added later and forgotten here
// would mix answers up.
func TestCacheKeyHasEveryField(t *testing.T) {
	without := map[string]bool{"ID": true, "Model.Name": true, "Scope": true, "Deadline": true, "Resume": true, "Save": true, "Began": true}
	r := keyedRequest()
	before := CacheKey("acme", &r)
	for _, path := range pathsOf(reflect.TypeFor[engine.Request](), nil) {
		r := keyedRequest()
		v := reflect.ValueOf(&r).Elem()
		name := strings.Join(path, ".")
		for _, n := range path {
			v = v.FieldByName(n)
		}
		if without[name] {
			continue
		}
		change(t, name, v)
		if CacheKey("acme", &r) == before {
			t.Errorf("%s does not change the key", name)
		}
	}
}

// pathsOf are the paths to a struct's fields, through the structs in it.
func pathsOf(typ reflect.Type, at []string) (paths [][]string) {
	for f := range typ.Fields() {
		path := append(slices.Clone(at), f.Name)
		if f.Type.Kind() == reflect.Struct {
			paths = append(paths, pathsOf(f.Type, path)...)
		} else {
			paths = append(paths, path)
		}
	}
	return paths
}

func change(t *testing.T, name string, v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *float64:
		*p += 0.25
	case *int:
		*p += 5
	case *uint64:
		*p += 5
	case *bool:
		*p = !*p
	case *json.RawMessage:
		*p = json.RawMessage(`["x"]`)
	case *[]string:
		*p = []string{"x"}
	case *[]int32:
		*p = []int32{1}
	case *[]engine.Input:
		*p = []engine.Input{{Text: "x"}}
	case *map[int32]float64:
		*p = map[int32]float64{1: 1}
	default:
		if v.Kind() != reflect.String {
			t.Fatalf("%s: how is a %s changed?", name, v.Type())
		}
		v.SetString("x")
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
	for _, s := range []string{`{"b":1,"a":[true,null,-1.50e3,"\u00e9<>"]}`, `[]`, `"x"`, `{"a":{"b":{}}}`, "[\"\u2028\", \"\u007f<\"]"} {
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
		slow := canon{d: json.NewDecoder(strings.NewReader(s))}
		if slow.d.UseNumber(); slow.value() == nil && slow.out.String() != string(c) {
			t.Fatalf("%q: in one go %s, token by token %s", s, c, slow.out.String())
		}
		var a, b any
		if json.Unmarshal([]byte(s), &a) == nil && (json.Unmarshal(c, &b) != nil || !reflect.DeepEqual(a, b)) {
			t.Fatalf("%q became %s", s, c)
		}
	})
}
