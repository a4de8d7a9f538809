package engine

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestCheck(t *testing.T) {
	chat := func(messages string) Request {
		return Request{Kind: Chat, Messages: json.RawMessage(messages), Sampling: Sampling{N: 1}}
	}
	text := Request{Kind: Text, Prompt: "hello", Sampling: Sampling{N: 1}}
	with := func(change func(*Request)) Request { r := text; change(&r); return r }
	for name, c := range map[string]struct {
		r     Request
		param string // of the error; "" is no error
	}{
		"chat":                   {chat(`[{"role":"user","content":"hello"}]`), ""},
		"text":                   {text, ""},
		"an escaped backslash":   {chat(`[{"role":"user","content":"a\\u0000"}]`), ""},
		"NUL in content":         {chat(`[{"role":"user","content":"a\u0000"}]`), "messages"},
		"NUL in a key":           {chat(`[{"role":"user","con\u0000tent":"a"}]`), "messages"},
		"no messages":            {chat(`[]`), "messages"},
		"messages missing":       {chat(``), "messages"},
		"messages are an object": {chat(`{}`), "messages"},
		"no kind":                {with(func(r *Request) { r.Kind = "" }), "kind"},
		"no answers":             {with(func(r *Request) { r.Sampling.N = 0 }), "n"},
		"NUL in the prompt":      {with(func(r *Request) { r.Prompt = "a\x00" }), "prompt"},
		"NUL in a stop":          {with(func(r *Request) { r.Sampling.Stop = []string{"a", "\x00"} }), "stop"},
		"NUL in tools":           {with(func(r *Request) { r.Tools = json.RawMessage(`[{"a":"\u0000"}]`) }), "tools"},
		"broken tools with NUL":  {with(func(r *Request) { r.Tools = json.RawMessage(`[{"a":"\u0000"`) }), "tools"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.r.Check()
			if c.param == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || AsError(err).Param != c.param {
				t.Fatalf("got %v, want an invalid %s", err, c.param)
			}
		})
	}
}
