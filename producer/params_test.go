package producer

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"

	"lorry/engine"
)

// parameter is one that a client may send: a value that is not the default, what has to stand beside it, and what becomes
// of it.
type parameter struct {
	Value json.RawMessage
	With  map[string]json.RawMessage
	Fate  string
}

// Fates of parameters.
const (
	matters       = "matters" // the request that engines get, or how the answer travels, is another one
	stays         = "kept"    // what can be read of the answer later is another one
	refusedByName = "refused" // 400, and the parameter's name
	without       = "without" // documented as without effect on the answer
)

// parameters are all of openai-python 3.54.0 (types/chat/completion_create_params.py, types/completion_create_params.py,
// types/embedding_create_params.py), and our own, by API. e2e sends those that matter to a real model.
func parameters(t *testing.T) (all map[string]struct {
	Base   map[string]json.RawMessage
	Fields map[string]parameter
}) {
	t.Helper()
	b, err := os.ReadFile("testdata/parameters.json")
	ok(t, err)
	ok(t, json.Unmarshal(b, &all))
	return all
}

func fieldsOf(fields ...map[string]json.RawMessage) string {
	all := map[string]json.RawMessage{}
	for _, f := range fields {
		maps.Copy(all, f)
	}
	return string(must(json.Marshal(all)))
}

// TestEveryParameter: none is ignored.
func TestEveryParameter(t *testing.T) {
	readers := map[string]reader{"chat": readChat, "text": readCompletions, "embeddings": readEmbeddings}
	for api, a := range parameters(t) {
		plain, err := parse(readers[api], fieldsOf(a.Base))
		if err != nil {
			t.Fatal(api, err)
		}
		for name, f := range a.Fields {
			got, err := parse(readers[api], fieldsOf(a.Base, f.With, map[string]json.RawMessage{name: f.Value}))
			e, _ := err.(*apiError)
			switch {
			case f.Fate == refusedByName:
				if e == nil || e.Status != 400 || e.Param != name {
					t.Errorf("%s: %s is not refusedByName by its name: %v", api, name, err)
				}
			case err != nil:
				t.Errorf("%s: %s is refusedByName: %v", api, name, err)
			case f.Fate != matters && f.Fate != stays && f.Fate != without, reflect.DeepEqual(plain, got) != (f.Fate == without):
				t.Errorf("%s: %s makes %+v of %+v", api, name, got, plain)
			}
		}
	}
}

// TestParametersAreListed: what an API reads has a row in the table, so that it is tested.
func TestParametersAreListed(t *testing.T) {
	readers := map[string]reader{"chat": readChat, "text": readCompletions, "embeddings": readEmbeddings}
	for api, a := range parameters(t) {
		_, err := parse(readers[api], fieldsOf(a.Base, map[string]json.RawMessage{"anything_else": []byte("1")}))
		_, known, _ := strings.Cut(fmt.Sprint(err), "Known are: ")
		names := strings.Split(known, ", ")
		if len(names) < 5 {
			t.Fatalf("%s: an unknown parameter is refusedByName with: %v", api, err)
		}
		for _, name := range names {
			_, base := a.Base[name]
			if _, row := a.Fields[name]; !row && !base {
				t.Errorf("%s: %s is read, and has no row in testdata/parameters.json", api, name)
			}
		}
	}
}

// TestHarmlessValues: what asks for what is the case anyway is no reason to refuse.
func TestHarmlessValues(t *testing.T) {
	plain, _ := parse(readChat, chatBody(""))
	for _, fields := range []string{`"modalities":["text"]`, `"verbosity":"medium"`, `"n":1`, `"parallel_tool_calls":true`, `"parallel_tool_calls":false`,
		`"response_format":{"type":"text"}`, `"service_tier":"auto"`, `"functions":null`, `"temperature":1,"top_p":1`} {
		if got, err := parse(readChat, chatBody(fields)); err != nil || !reflect.DeepEqual(got, plain) {
			t.Errorf("%s: %+v, %v", fields, got, err)
		}
	}
	best, err := parse(readCompletions, `{"model":"m","prompt":"a","n":3,"best_of":3}`)
	if err != nil || best.request.Sampling.BestOf != 0 {
		t.Errorf("the best three of three: %+v, %v", best, err)
	}
}

func TestRelayKeepsThoughtsApart(t *testing.T) {
	r := newRelay(1)
	sent := engine.Chunk{}
	for i, c := range []engine.Chunk{{Reasoning: "hm"}, {Reasoning: " hm", Text: "a"}, {Text: "b"}} {
		got, _, err := r.hint(attempt{1, 0}, tokenMessage(i, c))
		if err != nil {
			t.Fatal(err)
		}
		sent.Reasoning, sent.Text = sent.Reasoning+got.Reasoning, sent.Text+got.Text
	}
	again, any, err := r.hint(attempt{2, 0}, tokenMessage(0, engine.Chunk{Reasoning: "hm hm", Text: "abc"}))
	if err != nil || !any || again.Reasoning != "" || again.Text != "c" || sent.Reasoning != "hm hm" || sent.Text != "ab" {
		t.Errorf("sent %+v, then %+v, %v", sent, again, err)
	}
	rest, err := r.rest(&engine.Completion{Choices: []engine.Choice{{Reasoning: "hm hm!", Text: "abcd"}}})
	if err != nil || rest[0].Reasoning != "!" || rest[0].Text != "d" {
		t.Errorf("the rest is %+v, %v", rest, err)
	}
	for _, c := range []engine.Choice{{Reasoning: "ha", Text: "abc"}, {Reasoning: "hm hm", Text: "x"}} {
		if _, err := r.rest(&engine.Completion{Choices: []engine.Choice{c}}); err != errDiverged {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
