package producer

import (
	"errors"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/queue"
)

// TestLines: bodies of lines are read as requests are, with what is not a line's refused.
func TestLines(t *testing.T) {
	l := NewLines(LinesConfig{MaxBody: 10_000})
	for name, c := range map[string]struct {
		endpoint    queue.Endpoint
		body        string
		code, param string // of the refusal; "" is none
		cached      bool
	}{
		"chat":           {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, "", "", false},
		"temperature 0":  {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}`, "", "", true},
		"completion":     {queue.Completions, `{"model":"m","prompt":"hi","seed":1}`, "", "", true},
		"embeddings":     {queue.Embeddings, `{"model":"m","input":["a","b"],"encoding_format":"base64"}`, "", "", true},
		"temperature":    {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":9}`, "decimal_above_max_value", "temperature", false},
		"unknown field":  {queue.Completions, `{"model":"m","prompt":"hi","promt":1}`, codeUnknown, "promt", false},
		"stream":         {queue.Completions, `{"model":"m","prompt":"hi","stream":true}`, codeUnsupported, "stream", false},
		"deadline":       {queue.Completions, `{"model":"m","prompt":"hi","lorry":{"deadline":"1h"}}`, codeUnsupported, "lorry.deadline", false},
		"zero byte":      {queue.Completions, `{"model":"m","prompt":"a\u0000"}`, codeValue, "", false},
		"too large":      {queue.Completions, `{"model":"m","prompt":"` + strings.Repeat("x", 10_000) + `"}`, codeTooLarge, "", false},
		"other endpoint": {queue.Generate, `{"text":"hi"}`, codeUnsupported, "url", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := engine.Model{Name: "m", Base: "b"}
			j := &queue.Job{ID: "job_batch_1-1", Tenant: "acme", Endpoint: c.endpoint, Request: engine.Request{Model: m}}
			e := l.Read(j, []byte(c.body))
			if c.code != "" {
				if e == nil || e.Class != engine.Invalid || e.Code != c.code || e.Param != c.param {
					t.Errorf("got %+v", e)
				}
				return
			}
			if e != nil || j.Request.Model != m || j.Request.ID != j.ID || j.Request.Scope != "acme" || (j.CacheKey != "") != c.cached {
				t.Errorf("got %+v, %v", j, e)
			}
			again := &queue.Job{ID: j.ID, Tenant: "acme", Endpoint: c.endpoint, Request: engine.Request{Model: m}}
			if e := l.Read(again, []byte(c.body)); e != nil || string(again.Encode()) != string(j.Encode()) {
				t.Error("the same line fed again is another job")
			}
		})
	}
}

func TestLinesResolve(t *testing.T) {
	l := NewLines(LinesConfig{Registry: setup(t, Config{}).models})
	_, err := l.Resolve(t.Context(), "no such model")
	if e, is := errors.AsType[*engine.Error](err); !is || e.Class != engine.NotFound || e.Code != engine.CodeModelNotFound {
		t.Errorf("got %v", err)
	}
}
