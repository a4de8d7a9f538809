package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// force is a value of a parameter that must change the answer, whatever the model would say.
type force struct {
	beside any // what stands there with and without it: fields, or a func(*probe) of them
	value  any // the value, or a func(*probe, reply) of it, which sees the answer without it
	// changed says that the answer is as it must be. nil: it has other texts.
	changed func(without, with reply) bool
	// why is set instead where no value does.
	why string
}

type fields = map[string]any

// Tokens of SmolLM2: the digits that answers are made of, and the end of an answer.
var (
	ones  = fields{"logit_bias": fields{"33": 100}}
	ended = fields{"logit_bias": fields{"2": 100}}
	hot   = fields{"temperature": 2, "n": 8, "max_tokens": 1}
	tools = []any{fields{"type": "function", "function": fields{"name": "stop", "parameters": fields{
		"type": "object", "properties": fields{}, "additionalProperties": false}}}}
)

// forces are those of chats and completions alike.
var forces = map[string]force{
	"temperature":        {beside: fields{"n": 4}, value: 2},
	"seed":               {beside: fields{"temperature": 2}, value: 2},
	"top_p":              {beside: hot, value: 0, changed: narrowed},
	"top_k":              {beside: hot, value: 1, changed: narrowed},
	"min_p":              {beside: hot, value: 1, changed: narrowed},
	"n":                  {value: 2, changed: func(a, b reply) bool { return len(a.texts) == 1 && len(b.texts) == 2 }},
	"max_tokens":         {beside: ones, value: 3, changed: texts("11111111", "111")},
	"min_tokens":         {beside: ended, value: 5, changed: func(a, b reply) bool { return a.Usage.Completion < 2 && b.Usage.Completion >= 5 }},
	"ignore_eos":         {beside: ended, value: true, changed: func(a, b reply) bool { return a.Usage.Completion < 2 && b.Usage.Completion == 8 }},
	"stop":               {beside: ones, value: "1", changed: texts("11111111", "")},
	"grammar":            {beside: ones, value: `root ::= "2"`, changed: texts("11111111", "2")},
	"logit_bias":         {beside: fields{"grammar": `root ::= [12]`}, value: (*probe).banFirst},
	"frequency_penalty":  {beside: (*probe).duel, value: 2, changed: texts("11", "12")},
	"presence_penalty":   {beside: (*probe).duel, value: 2, changed: texts("11", "12")},
	"repeat_penalty":     {beside: (*probe).duel, value: 10, changed: texts("11", "12")},
	"repetition_penalty": {beside: (*probe).duel, value: 10, changed: texts("11", "12")},
	"stream":             {value: true, changed: func(a, b reply) bool { return !a.streamed() && b.streamed() }},
	"stream_options": {beside: fields{"stream": true}, value: fields{"include_usage": true},
		changed: func(a, b reply) bool { return !a.holds(`"usage":{`) && b.holds(`"usage":{`) }},
	"service_tier": {value: "flex", changed: jobs(`"lane":"interactive"`, `"lane":"flex"`)},
	"lorry":        {value: fields{"lane": "batch"}, changed: jobs(`"lane":"interactive"`, `"lane":"batch"`)},
	"metadata": {value: fields{"colour": "red"}, changed: func(a, b reply) bool {
		return !strings.Contains(a.job, "colour") && strings.Contains(b.job, `"colour":"red"`)
	}},
}

var chatForces = map[string]force{
	"max_completion_tokens": {beside: fields{"logit_bias": fields{"33": 100}, "max_tokens": nil, "stop": "11111111"}, value: 3, changed: texts("", "111")},
	"logprobs":              {value: true, changed: func(a, b reply) bool { return !a.holds(`"logprob":`) && b.holds(`"logprob":`) }},
	"top_logprobs": {beside: fields{"logprobs": true, "max_tokens": 1}, value: 3,
		changed: func(a, b reply) bool {
			return strings.Count(b.body, `"logprob":`) == strings.Count(a.body, `"logprob":`)+3
		}},
	"response_format": {beside: ones, value: fields{"type": "json_object"},
		changed: func(a, b reply) bool { return strings.HasPrefix(strings.TrimSpace(b.texts[0]), "{") }},
	"tools": {beside: ones, value: tools, changed: func(a, b reply) bool { return b.Usage.Prompt > a.Usage.Prompt }},
	"tool_choice": {beside: fields{"logit_bias": fields{"33": 100}, "tools": tools, "max_tokens": 64}, value: "required",
		changed: func(a, b reply) bool { return !a.holds(`"tool_calls":[`) && b.holds(`"tool_calls":[`) }},
	"parallel_tool_calls": {why: "no value makes a model call twice: engine/llama's TestOneCall has it do so token by token"},
	"reasoning_effort":    {value: "low", changed: refused("reasoning_effort")}, // by a model that does not think
}

var textForces = map[string]force{
	"best_of": {beside: fields{"temperature": 2, "ignore_eos": true}, value: 4, changed: func(a, b reply) bool { return a.Usage.Completion == 8 && b.Usage.Completion == 32 }},
	"echo": {value: true, changed: func(a, b reply) bool {
		return !strings.HasPrefix(a.texts[0], saying) && strings.HasPrefix(b.texts[0], saying)
	}},
	"logprobs": {value: 0, changed: func(a, b reply) bool { return !a.holds(`"token_logprobs":[`) && b.holds(`"token_logprobs":[`) }},
	"suffix":   {value: "x", changed: refused("suffix")}, // by a model without tokens for it: engine/llama's TestGap has one
}

// saying is what all requests say.
const saying = "A small red lorry went over the hills and"

func texts(without, with string) func(a, b reply) bool {
	return func(a, b reply) bool { return a.texts[0] == without && b.texts[0] == with }
}

func jobs(without, with string) func(a, b reply) bool {
	return func(a, b reply) bool { return strings.Contains(a.job, without) && strings.Contains(b.job, with) }
}

func refused(param string) func(a, b reply) bool {
	return func(a, b reply) bool { return a.status == 200 && b.status == 400 && b.Error.Param == param }
}

// narrowed says that all answers begin alike, which hot ones do not.
func narrowed(without, with reply) bool { return !alikeAll(without.texts) && alikeAll(with.texts) }

func alikeAll(list []string) bool {
	for _, s := range list {
		if s != list[0] {
			return false
		}
	}
	return true
}

// TestEveryParameterChangesTheAnswer sends each parameter that matters, by the table that producer's tests hold its
// readers to, through the whole program to a real model, and wants another answer than without it.
func TestEveryParameterChangesTheAnswer(t *testing.T) {
	var table map[string]struct {
		Fields map[string]struct{ Fate string }
	}
	b, err := os.ReadFile(filepath.Join(root, "producer", "testdata", "parameters.json"))
	if err == nil {
		err = json.Unmarshal(b, &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	lorry := up(t, map[string]string{"LORRY_THREADS": "1"})
	for api, more := range map[string]map[string]force{"chat": chatForces, "text": textForces} {
		all := maps.Clone(forces)
		maps.Copy(all, more)
		for name, f := range table[api].Fields {
			if f.Fate != "matters" {
				continue
			}
			t.Run(api+" "+name, func(t *testing.T) {
				force, ok := all[name]
				if !ok {
					t.Fatal("no value of it is known that must change the answer")
				}
				(&probe{t, api, lorry.run.HTTP}).try(name, force)
			})
		}
	}
	lorry.stop()
}

// probe asks one of the APIs.
type probe struct {
	t   *testing.T
	api string
	url string
}

func (p *probe) try(name string, f force) {
	if f.why != "" {
		p.t.Log(f.why)
		return
	}
	beside, _ := f.beside.(fields)
	if make, ok := f.beside.(func(*probe) fields); ok {
		beside = make(p)
	}
	without := p.ask(beside)
	value := f.value
	if make, ok := value.(func(*probe, reply) any); ok {
		value = make(p, without)
	}
	with := p.ask(beside, fields{name: value})
	changed := f.changed
	if changed == nil {
		changed = func(a, b reply) bool { return fmt.Sprint(a.texts) != fmt.Sprint(b.texts) }
	}
	if without.status != 200 || !changed(without, with) {
		p.t.Errorf("without: %d %s %s\nwith %v: %d %s %s", without.status, without.body, without.job, value, with.status, with.body, with.job)
	}
}

// banFirst takes out the token that was drawn first.
func (p *probe) banFirst(without reply) any {
	return fields{strconv.Itoa(p.token(without.texts[0])): -100}
}

func (p *probe) token(text string) int {
	var v struct{ Tokens []int }
	_, b := p.post("/lorry/v1/tokenize", fields{"model": "smollm2", "content": text})
	if err := json.Unmarshal(b, &v); err != nil || len(v.Tokens) != 1 {
		p.t.Fatalf("the tokens of %q: %s, %v", text, b, err)
	}
	return v.Tokens[0]
}

// duel has answers of two digits, of which the second is a repeated 1 by a lead of 1 over a 2: so biased that penalties of
// 2 turn it, and so does a factor.
func (p *probe) duel() fields {
	lead := p.second("1") - p.second("2")
	return fields{"grammar": `root ::= "1" [12]`, "logit_bias": fields{
		strconv.Itoa(p.token("1")): 50, strconv.Itoa(p.token("2")): 50 + lead - 1}}
}

// second is how likely the model holds a digit behind a 1.
func (p *probe) second(digit string) float64 {
	ask := fields{"grammar": `root ::= "1" "` + digit + `"`, "logprobs": true}
	if p.api == "text" {
		ask["logprobs"] = 0
	}
	r := p.ask(ask)
	list := r.Choices[0].Logprobs.Tokens
	for _, c := range r.Choices[0].Logprobs.Content {
		list = append(list, c.Logprob)
	}
	if len(list) != 2 {
		p.t.Fatalf("%q is no two tokens: %s", "1"+digit, r.body)
	}
	return list[1]
}

// reply is an answer, and the job that it was.
type reply struct {
	status int
	kind   string
	body   string
	job    string
	texts  []string

	Choices []struct {
		Text     string
		Message  struct{ Content string }
		Logprobs struct {
			Tokens  []float64 `json:"token_logprobs"`
			Content []struct{ Logprob float64 }
		}
	}
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	}
	Error struct{ Param string }
}

func (r reply) streamed() bool         { return strings.HasPrefix(r.kind, "text/event-stream") }
func (r reply) holds(text string) bool { return strings.Contains(r.body, text) }

// ask sends a greedy request of few tokens, changed by fields.
func (p *probe) ask(changes ...fields) (r reply) {
	p.t.Helper()
	body := fields{"model": "smollm2", "max_tokens": 8, "temperature": 0, "seed": 1, "prompt": saying}
	path := "/v1/completions"
	if p.api == "chat" {
		delete(body, "prompt")
		body["messages"], path = []any{fields{"role": "user", "content": saying}}, "/v1/chat/completions"
	}
	for _, c := range changes {
		maps.Copy(body, c)
	}
	head, b := p.post(path, body)
	r.status, r.kind, r.body = head.StatusCode, head.Header.Get("Content-Type"), string(b)
	if !r.streamed() {
		if err := json.Unmarshal(b, &r); err != nil {
			p.t.Fatalf("%s: %v", b, err)
		}
	}
	for _, c := range r.Choices {
		r.texts = append(r.texts, c.Text+c.Message.Content)
	}
	if id := head.Header.Get("X-Lorry-Job"); id != "" && r.status == 200 {
		r.job = p.job(id)
	}
	return r
}

func (p *probe) job(id string) string {
	p.t.Helper()
	r, err := http.Get(p.url + "/v1/jobs/" + id)
	return string(p.read(r, err))
}

// read is the body of an answer.
func (p *probe) read(r *http.Response, err error) []byte {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *probe) post(path string, body fields) (*http.Response, []byte) {
	p.t.Helper()
	payload, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url+path, bytes.NewReader(payload))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Lorry-Cache", "bypass")
	req.Header.Set("Idempotency-Key", rand.Text()) // so that the job can be looked at
	r, err := http.DefaultClient.Do(req)
	return r, p.read(r, err)
}
