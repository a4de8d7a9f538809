package producer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lorry/batch"
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
		"flex lane":      {queue.Completions, `{"model":"m","prompt":"hi","lorry":{"lane":"flex"}}`, codeUnsupported, "lorry.lane", false},
		"flex tier":      {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}],"service_tier":"flex"}`, codeUnsupported, "service_tier", false},
		"its own lane":   {queue.Completions, `{"model":"m","prompt":"hi","seed":1,"service_tier":"default","lorry":{"lane":"batch"}}`, "", "", true},
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

// TestLineWork: what a batch counts a line for, before it is read, is about what its job is counted for.
func TestLineWork(t *testing.T) {
	l := NewLines(LinesConfig{})
	for name, c := range map[string]struct {
		endpoint queue.Endpoint
		body     string
	}{
		"chat":              {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}]}`},
		"chat with a bound": {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":77}`},
		"three answers":     {queue.Chat, `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":77,"n":3}`},
		"completion":        {queue.Completions, `{"model":"m","prompt":"hi"}`},
		"a long one":        {queue.Completions, `{"model":"m","prompt":"` + strings.Repeat("word ", 400) + `","max_tokens":5}`},
		"embeddings":        {queue.Embeddings, `{"model":"m","input":["` + strings.Repeat("word ", 400) + `"]}`},
		"response":          {queue.Responses, `{"model":"m","input":"hi"}`},
		"bounded response":  {queue.Responses, `{"model":"m","input":"hi","max_output_tokens":99}`},
	} {
		t.Run(name, func(t *testing.T) {
			j := &queue.Job{ID: "job_batch_1-1", Tenant: "acme", Endpoint: c.endpoint}
			if e := l.Read(j, []byte(c.body)); e != nil {
				t.Fatal(e)
			}
			line, e := batch.ParseLine(fmt.Appendf(nil, `{"custom_id":"1","method":"POST","url":%q,"body":%s}`, c.endpoint, c.body), c.endpoint)
			if e != nil {
				t.Fatal(e)
			}
			if off := line.Work(c.endpoint) - j.Cost(); off < -5 || off > 30 { // JSON around it
				t.Errorf("%d for a job of %d", line.Work(c.endpoint), j.Cost())
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
