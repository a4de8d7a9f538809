package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/webhook"
)

const compactPath = responsesPath + "/compact"

func sealer(t testing.TB) *webhook.Sealer {
	t.Helper()
	s, err := webhook.NewSealer(bytes.Repeat([]byte{7}, 32))
	ok(t, err)
	return s
}

// compacting is a road with a master key and a bucket for responses.
func compacting(t *testing.T) *road {
	t.Helper()
	r := setup(t, Config{Sealer: sealer(t)})
	ok(t, r.server.Setup(t.Context()))
	return r
}

// summarizing answers each request with the same words, and tells what it was asked.
func (r *road) summarizing(says string) chan *engine.Request {
	asked := make(chan *engine.Request, 16)
	r.work(func(_ context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		asked <- q
		return &engine.Completion{Choices: []engine.Choice{{Text: says, Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: 11, CompletionTokens: 3}}, nil
	})
	return asked
}

func messages(t *testing.T, q *engine.Request) (out []struct{ Role, Content string }) {
	t.Helper()
	ok(t, json.Unmarshal(q.Messages, &out))
	return out
}

// TestCompaction: what the user said stays word for word, the rest becomes a sealed summary, which the model is told
// wherever the item comes back.
func TestCompaction(t *testing.T) {
	r := compacting(t)
	asked := r.summarizing("They met.")
	first := r.post(responsesPath, ask("hello", "")).want(t, 200)["id"]
	<-asked
	v := r.post(compactPath, fmt.Sprintf(`{"model":"echo","previous_response_id":%q,"instructions":"be brief","input":[
		{"type":"function_call","call_id":"c","name":"look","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"seen"},
		{"id":"msg_mine","role":"user","content":[{"type":"input_text","text":"two "},{"type":"input_text","text":"parts"}]},{"role":"developer","content":"hush"}]}`, first)).want(t, 200)
	q := <-asked
	m := messages(t, q)
	const script = "user: hello\nassistant: They met.\nassistant calls look: {}\ntool: seen\nuser: two parts\ndeveloper: hush\n"
	if len(m) != 2 || m[0].Role != "system" || m[0].Content != "be brief" || m[1].Role != "user" || !strings.HasSuffix(m[1].Content, script) || q.Sampling.MaxTokens != leastSummary {
		t.Errorf("asked %v", m)
	}
	id, _ := v["id"].(string)
	out, _ := v["output"].([]any)
	if !strings.HasPrefix(id, "resp_") || v["object"] != "response.compaction" || v["created_at"] == nil || len(out) != 3 || dig(v, "usage", "total_tokens") != 14.0 {
		t.Fatalf("%v", v)
	}
	if dig(out, 0, "content", 0, "text") != "hello" || dig(out, 1, "content", 1, "text") != "parts" || dig(out, 1, "id") != "msg_mine" || dig(out, 0, "role") != "user" || dig(out, 0, "type") != "message" {
		t.Errorf("%v", out)
	}
	sealed, _ := dig(out, 2, "encrypted_content").(string)
	if dig(out, 2, "type") != "compaction" || dig(out, 2, "id") == nil || sealed == "" || strings.Contains(sealed, "met") {
		t.Errorf("%v", out[2])
	}
	const told = `[{"role":"user","content":"hello"},{"role":"user","content":[{"text":"two ","type":"text"},{"text":"parts","type":"text"}]},{"role":"assistant","content":"Summary of the conversation so far:\nThey met."},{"role":"user","content":"go on"}]`
	input := string(must(json.Marshal(append(out, map[string]string{"role": "user", "content": "go on"}))))
	r.handedBack(t, asked, input, told, sealed)
	r.post(compactPath, `{"model":"echo","input":`+input+`}`).want(t, 200)
	if m := messages(t, <-asked); !strings.Contains(m[0].Content, summaryLead+"They met.\nuser: go on\n") {
		t.Errorf("a compaction of one: asked %v", m)
	}
}

// handedBack wants the item to be told to the model in every path by which a response is made.
func (r *road) handedBack(t *testing.T, asked chan *engine.Request, input, told, sealed string) {
	t.Helper()
	id := ""
	for name, more := range map[string]string{"waited": "", "background": `,"background":true`, "streamed": `,"stream":true`} {
		a := r.post(responsesPath, `{"model":"echo","input":`+input+more+`}`)
		if a.status != 200 {
			t.Fatalf("%s: %s", name, a.body)
		}
		if name == "waited" {
			id = a.want(t, 200)["id"].(string)
		}
		if got := string((<-asked).Messages); got != told {
			t.Errorf("%s: asked %s\nwant %s", name, got, told)
		}
	}
	r.post(responsesPath+"/input_tokens", `{"model":"echo","input":`+input+`}`)
	if q := <-asked; q.Kind != engine.Count || string(q.Messages) != told {
		t.Errorf("counted %s\nwant %s", q.Messages, told)
	}
	items := r.do("GET", responsesPath+"/"+id+"/input_items?order=asc", "").want(t, 200)
	if dig(items, "data", 2, "encrypted_content") != sealed || dig(items, "data", 2, "type") != "compaction" || dig(items, "data", 2, "summary") != nil {
		t.Errorf("listed %v", items)
	}
	r.post(responsesPath, ask("more", fmt.Sprintf(`"previous_response_id":%q`, id))).want(t, 200)
	if got, want := string((<-asked).Messages), strings.TrimSuffix(told, "]")+`,{"role":"assistant","content":"They met."},{"role":"user","content":"more"}]`; got != want {
		t.Errorf("going on: asked %s\nwant %s", got, want)
	}
	l := NewLines(LinesConfig{Registry: r.models, Sealer: r.server.cfg.Sealer})
	j := &queue.Job{ID: "job_b-1", Tenant: "default", Endpoint: queue.Responses}
	if e := l.Read(j, []byte(`{"model":"echo","input":`+input+`}`)); e != nil || string(j.Request.Messages) != told {
		t.Errorf("a line: %v, %s", e, j.Request.Messages)
	}
	j = &queue.Job{ID: "job_b-1", Tenant: "other", Endpoint: queue.Responses}
	if e := l.Read(j, []byte(`{"model":"echo","input":`+input+`}`)); e == nil || e.Code != "invalid_encrypted_content" || e.Param != "input[2].encrypted_content" {
		t.Errorf("another tenant's line: %v", e)
	}
}

// A summary is no longer than what it sums up, about.
func TestSummaryLength(t *testing.T) {
	for name, c := range map[string]struct{ bytes, want int }{"short": {10, leastSummary}, "middling": {2000, 501}, "long": {1 << 20, maxSummary}} {
		var q engine.Request
		wishSummary(&q, nil, []inputItem{said("user", strings.Repeat("x", c.bytes))})
		if got := q.Sampling.MaxTokens; got != c.want {
			t.Errorf("%s: %d tokens, want %d", name, got, c.want)
		}
	}
}

func TestCompactionRefusals(t *testing.T) {
	r := compacting(t).echo(echo.Config{Context: 60})
	other := vault{r.server.cfg.Sealer, "other"}.seal("theirs")
	mine := r.server.vault("default").seal("mine")
	item := func(sealed string) string {
		return fmt.Sprintf(`[{"type":"compaction","encrypted_content":%q}]`, sealed)
	}
	for name, c := range map[string]struct {
		path, body, code, param string
		status                  int
	}{
		"no model":            {compactPath, `{"input":"x"}`, codeMissing, "model", 400},
		"no input":            {compactPath, `{"model":"echo"}`, codeMissing, "input", 400},
		"empty input":         {compactPath, `{"model":"echo","input":[]}`, "empty_array", "input", 400},
		"unknown model":       {compactPath, `{"model":"none","input":"x"}`, "model_not_found", "model", 404},
		"unknown response":    {compactPath, `{"model":"echo","previous_response_id":"resp_none"}`, "previous_response_not_found", "previous_response_id", 400},
		"streamed":            {compactPath, ask("x", `"stream":true`), codeUnknown, "stream", 400},
		"with a webhook":      {compactPath, ask("x", `"lorry":{"webhook":{"url":"https://example.com/x"}}`), codeUnsupported, "lorry.webhook", 400},
		"over the context":    {compactPath, ask(strings.Repeat("word ", 60), ""), engine.CodeContextLength, "messages", 400},
		"pictures":            {compactPath, ask("x", `"image":{"context_compression":"enabled"}`), codeUnsupported, "image", 400},
		"another tenant's":    {responsesPath, `{"model":"echo","input":` + item(other) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
		"changed":             {responsesPath, `{"model":"echo","input":` + item(changed(mine)) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
		"not sealed":          {responsesPath, `{"model":"echo","input":` + item(`plain:{"v":1,"summary":"forged"}`) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
		"a webhook's secret":  {responsesPath, `{"model":"echo","input":` + item(r.server.cfg.Sealer.Seal(webhook.TenantContext("default"), "whsec")) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
		"nothing in it":       {responsesPath, `{"model":"echo","input":[{"type":"compaction"}]}`, codeMissing, "input[0].encrypted_content", 400},
		"compacted once more": {compactPath, `{"model":"echo","input":` + item(other) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
		"counted":             {responsesPath + "/input_tokens", `{"model":"echo","input":` + item(other) + `}`, "invalid_encrypted_content", "input[0].encrypted_content", 400},
	} {
		a := r.post(c.path, c.body)
		a.refused(t, c.status, c.code)
		if got := dig(a.want(t, c.status), "error", "param"); got != c.param {
			t.Errorf("%s: param %v, want %s", name, got, c.param)
		}
	}
	r.post(compactPath, ask("x", ""), "Prefer: respond-async").refused(t, 400, codeUnsupported)
	if r.post(compactPath, `{"model":null,"input":"x"}`).want(t, 200)["object"] != "response.compaction" {
		t.Error("no model is the only one")
	}
}

// changed has another letter in the middle: at the end, one may stand for no more than some bits, which may be the same.
func changed(sealed string) string {
	b := []byte(sealed)
	at := len(b) - 8
	b[at] = map[bool]byte{true: 'B', false: 'A'}[b[at] == 'A']
	return string(b)
}

// A server without a master key refuses, and takes no item: nothing would say whose it is.
func TestCompactionWithoutKey(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	r.post(compactPath, ask("x", "")).refused(t, 501, "no_master_key")
	r.post(responsesPath, `{"model":"echo","input":[{"type":"compaction","encrypted_content":"plain:{}"}]}`).refused(t, 400, "invalid_encrypted_content")
}

// A conversation whose summary was sealed with another master key can't be gone on with, and says so.
func TestCompactionKeyLost(t *testing.T) {
	r := compacting(t).echo(echo.Config{})
	id := r.post(responsesPath, fmt.Sprintf(`{"model":"echo","input":[{"type":"compaction","encrypted_content":%q},{"role":"user","content":"x"}]}`, r.server.vault("default").seal("s"))).want(t, 200)["id"]
	lost, err := webhook.NewSealer(bytes.Repeat([]byte{8}, 32))
	ok(t, err)
	r.serve(Config{Sealer: lost})
	r.post(responsesPath, ask("x", fmt.Sprintf(`"previous_response_id":%q`, id))).refused(t, 400, "invalid_encrypted_content")
}

// A compaction is a job like others: one under a key, counted, cancelled with its client.
func TestCompactionIsAJob(t *testing.T) {
	r := compacting(t)
	started, ended := make(chan struct{}), make(chan error, 1)
	r.work(func(ctx context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		if strings.Contains(string(q.Messages), "hang") {
			close(started)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		return &engine.Completion{Choices: []engine.Choice{{Text: strings.Repeat(" ", 3), Finish: engine.FinishStop}}}, nil
	})
	r.post(compactPath, ask("blank", "")).refused(t, 500, "no_summary")
	for range 2 {
		r.post(compactPath, ask("blank once", ""), "Idempotency-Key: k").refused(t, 500, "no_summary")
	}
	if n := r.runs.count(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-started; hangUp() }()
	if _, err := r.send(ctx, "POST", compactPath, ask("hang", "")); err == nil {
		t.Error("an answer, though the client hung up")
	}
	<-ended
}

// FuzzOpenCompaction: whatever a client hands back, only what was sealed for it is opened.
func FuzzOpenCompaction(f *testing.F) {
	v := vault{sealer(f), "default"}
	mine := v.seal("They met.")
	for _, seed := range []string{mine, mine + "A", mine[:len(mine)-1], vault{v.sealer, "other"}.seal("They met."), "plain:{}", "sealed:v1:", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sealed string) {
		got, err := v.open(sealed)
		if (err == nil) != (got == "They met.") || err == nil && strings.TrimRight(sealed, "\r\n") == "" {
			t.Errorf("%q: %q, %v", sealed, got, err)
		}
	})
}
