package gbnf

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// FuzzFromSchema: any text has a grammar that llama.cpp takes, or an Unsupported; never a panic. Where there is a
// grammar, what it lets through fits.
func FuzzFromSchema(f *testing.F) {
	for _, h := range holds {
		f.Add(h.schema)
	}
	text, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		f.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		f.Fatal(err)
	}
	for _, v := range all {
		f.Add(v.Schema)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		grammar, err := FromSchema(json.RawMessage(schema))
		if err != nil {
			if _, ok := errors.AsType[*Unsupported](err); !ok {
				t.Fatal(err)
			}
			return
		}
		v, err := NewValidator(json.RawMessage(schema))
		if err != nil {
			return // annotations may be wrong for a metaschema
		}
		g := grammarOf(t, grammar)
		w := newWriter(g, 1)
		_ = v.Validate(g.write(w))
	})
}

// FuzzCheck: any text is accepted, or refused with a place in it. Twice is the same.
func FuzzCheck(f *testing.F) {
	f.Add(JSON)
	f.Add("root ::= (\"a\" | [^a-z\\]] | . )* b{2,3}\nb ::= \"\\x41\" # c\r\n")
	f.Add(`root ::= "a"{3,1}`)
	f.Add("root ::= a{0,100}\na ::= b{0,100}\nb ::= \"x\"?")
	f.Fuzz(func(t *testing.T, grammar string) {
		err := Check(grammar)
		if err == nil {
			return
		}
		e, ok := errors.AsType[*SyntaxError](err)
		if !ok || e.Line < 1 || e.Column < 1 || len(e.Reason) == 0 {
			t.Fatalf("error is %#v", err)
		}
	})
}

// FuzzValidate: no answer, however odd, panics.
func FuzzValidate(f *testing.F) {
	f.Add(`{"a":1e5}`)
	f.Add(`[1E-5,{"b":[]}]`)
	schema := json.RawMessage(`{"properties":{"a":{"type":"number","multipleOf":0.5,"maximum":10},"b":{"type":"array","uniqueItems":true}},"items":{"enum":[1,2.5]}}`)
	v, err := NewValidator(schema)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, answer string) { _ = v.Validate(answer) })
}
