package gbnf

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// vector is a case of llama.cpp's own table (tests/test-json-schema-to-grammar.cpp, v0.5.0, MIT).
type vector struct {
	Name    string `json:"name"`
	Schema  string `json:"schema"` // as text: the order of keys counts
	Grammar string `json:"grammar"`
	Refused bool   `json:"refused"`
	// Why says what is wrong with llama.cpp's grammar, where ours is another: Ours, or a refusal where that is empty.
	Why  string `json:"why"`
	Ours string `json:"ours"`
}

func vectors(t *testing.T) (all []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestLlamaCases(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			want, refused := v.Grammar, v.Refused
			if v.Why != "" {
				want, refused = v.Ours, v.Ours == ""
			}
			got, err := FromSchema(json.RawMessage(v.Schema))
			if refused {
				if _, ok := errors.AsType[*Unsupported](err); !ok {
					t.Fatalf("error is %v, want an Unsupported", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want = strings.TrimSpace(want); strings.TrimSpace(got) != want {
				t.Errorf("grammar is\n%s\nwant\n%s", got, want)
			}
			if err := Check(got); err != nil {
				t.Errorf("Check: %v", err)
			}
		})
	}
}
