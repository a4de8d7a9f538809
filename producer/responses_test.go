package producer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
)

const responsesPath = "/v1/responses"

// ask is a request for a response.
func ask(text, fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return fmt.Sprintf(`{"model":"echo","input":%q%s}`, text, fields)
}

// answering is a road with a bucket for responses.
func answering(t *testing.T) *road {
	t.Helper()
	r := setup(t, Config{})
	ok(t, r.server.Setup(t.Context()))
	return r
}

func TestResponse(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	v := r.post(responsesPath, ask("one two three", `"max_output_tokens":2,"instructions":"be brief","metadata":{"k":"v"},"temperature":0.5`)).want(t, 200)
	id := v["id"].(string)
	if !strings.HasPrefix(id, "resp_") || v["object"] != "response" || v["status"] != "incomplete" || dig(v, "incomplete_details", "reason") != "max_output_tokens" ||
		dig(v, "output", 0, "content", 0, "text") != "one two" || v["instructions"] != "be brief" || dig(v, "metadata", "k") != "v" || v["temperature"] != 0.5 ||
		v["max_output_tokens"] != 2.0 || dig(v, "usage", "output_tokens") != 2.0 || v["store"] != true || v["background"] != false || v["error"] != nil {
		t.Errorf("%v", v)
	}
	again := r.do("GET", responsesPath+"/"+id, "").want(t, 200)
	if fmt.Sprint(again) != fmt.Sprint(v) {
		t.Errorf("read later: %v\nfirst: %v", again, v)
	}
	items := r.do("GET", responsesPath+"/"+id+"/input_items", "").want(t, 200)
	if dig(items, "data", 0, "content", 0, "text") != "one two three" || dig(items, "data", 0, "role") != "user" || dig(items, "data", 0, "id") == nil || items["has_more"] != false {
		t.Errorf("%v", items)
	}
	r.post(responsesPath+"/"+id+"/cancel", "").refused(t, 400, codeValue)
	if v := r.do("DELETE", responsesPath+"/"+id, "").want(t, 200); v["deleted"] != true {
		t.Errorf("%v", v)
	}
	r.do("GET", responsesPath+"/"+id, "").refused(t, 404, codeNotFound)
	v = r.post(responsesPath, ask("x", `"store":false`)).want(t, 200)
	r.do("GET", responsesPath+"/"+v["id"].(string), "").refused(t, 404, codeNotFound)
}

// What a model is asked: the items of a conversation as a chat's messages, in the order of what was said.
func TestConversation(t *testing.T) {
	r := answering(t)
	asked := make(chan string, 1)
	r.work(func(_ context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		asked <- string(q.Messages)
		return &engine.Completion{Choices: []engine.Choice{{Text: "I look.", Finish: engine.FinishToolCalls,
			ToolCalls: json.RawMessage(`[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"at\":1}"}}]`)}}}, nil
	})
	v := r.post(responsesPath, ask("hello", `"instructions":"be kind","tools":[{"type":"function","name":"look","parameters":{"type":"object"},"strict":true}]`)).want(t, 200)
	if got, want := <-asked, `[{"role":"system","content":"be kind"},{"role":"user","content":"hello"}]`; got != want {
		t.Errorf("asked %s", got)
	}
	if dig(v, "output", 0, "content", 0, "text") != "I look." || dig(v, "output", 1, "type") != "function_call" || dig(v, "output", 1, "call_id") != "call_1" || dig(v, "output", 1, "arguments") != `{"at":1}` || dig(v, "tools", 0, "name") != "look" {
		t.Errorf("%v", v)
	}
	body := fmt.Sprintf(`{"model":"echo","previous_response_id":%q,"input":[{"type":"function_call_output","call_id":"call_1","output":"seen"},{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]}]}`, v["id"])
	v = r.post(responsesPath, body).want(t, 200)
	const want = `[{"role":"user","content":"hello"},{"role":"assistant","content":"I look.","tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"at\":1}"}}]},` +
		`{"role":"tool","content":"seen","tool_call_id":"call_1"},{"role":"user","content":[{"text":"a","type":"text"},{"text":"b","type":"text"}]}]`
	if got := <-asked; got != want {
		t.Errorf("asked %s\nwant %s", got, want)
	}
	items := r.do("GET", responsesPath+"/"+v["id"].(string)+"/input_items?order=asc&limit=2", "").want(t, 200)
	if dig(items, "data", 1, "content", 0, "type") != "output_text" || items["has_more"] != true {
		t.Errorf("%v", items)
	}
	rest := r.do("GET", responsesPath+"/"+v["id"].(string)+"/input_items?order=asc&after="+items["last_id"].(string), "").want(t, 200)
	if dig(rest, "data", 0, "type") != "function_call" || dig(rest, "data", 1, "output") != "seen" || dig(rest, "data", 3) != nil {
		t.Errorf("%v", rest)
	}
	// The same again, as the SDKs hand outputs back: with what the model thought.
	body = `{"model":"echo","input":[{"role":"user","content":"hello"},{"type":"reasoning","id":"rs_1","summary":[]},{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"I look.","annotations":[],"logprobs":[]}]},` +
		`{"type":"function_call","id":"fc_1","call_id":"call_1","name":"look","arguments":"{\"at\":1}","status":"completed"},{"type":"function_call_output","call_id":"call_1","output":[{"type":"input_text","text":"seen"}]},` +
		`{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]}]}`
	r.post(responsesPath, body).want(t, 200)
	if got := <-asked; got != want {
		t.Errorf("asked %s\nwant %s", got, want)
	}
}

func TestFormatsOfResponses(t *testing.T) {
	for name, c := range map[string]struct{ body, format, tools, choice string }{
		"text":    {`"text":{"format":{"type":"text"}}`, "", "", ""},
		"object":  {`"text":{"format":{"type":"json_object"}}`, `{"type":"json_object"}`, "", ""},
		"schema":  {`"text":{"format":{"type":"json_schema","name":"n","strict":true,"schema":{"type":"object"}}}`, `{"json_schema":{"name":"n","schema":{"type":"object"},"strict":true},"type":"json_schema"}`, "", ""},
		"tools":   {`"tools":[{"type":"function","name":"f","description":"d","parameters":{}}],"tool_choice":{"type":"function","name":"f"}`, "", `[{"function":{"description":"d","name":"f","parameters":{}},"type":"function"}]`, `{"function":{"name":"f"},"type":"function"}`},
		"require": {`"tools":[{"type":"function","name":"f","parameters":{}}],"tool_choice":"required"`, "", `[{"function":{"name":"f","parameters":{}},"type":"function"}]`, `"required"`},
		"none":    {`"tools":[]`, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := readResponses([]byte(ask("x", c.body)), limits{maxN: 1})
			if err != nil {
				t.Fatal(err)
			}
			if string(d.request.ResponseFormat) != c.format || string(d.request.Tools) != c.tools || string(d.request.ToolChoice) != c.choice {
				t.Errorf("format %s, tools %s, choice %s", d.request.ResponseFormat, d.request.Tools, d.request.ToolChoice)
			}
		})
	}
}

func TestResponseRefusals(t *testing.T) {
	r := answering(t)
	for name, c := range map[string]struct{ body, param, code string }{
		"no model":            {`{"input":"x"}`, "model", codeMissing},
		"no input":            {`{"model":"echo"}`, "input", codeMissing},
		"empty input":         {`{"model":"echo","input":[]}`, "input", "empty_array"},
		"a number":            {`{"model":"echo","input":7}`, "input", codeType},
		"items of numbers":    {`{"model":"echo","input":[7]}`, "input[0]", codeType},
		"no role":             {`{"model":"echo","input":[{"type":"message","content":"x"}]}`, "input[0].role", codeMissing},
		"no type, no role":    {`{"model":"echo","input":[{"content":"x"}]}`, "input[0].type", codeMissing},
		"odd role":            {`{"model":"echo","input":[{"role":"tool","content":"x"}]}`, "input[0].role", codeValue},
		"no content":          {`{"model":"echo","input":[{"role":"user"}]}`, "input[0].content", codeMissing},
		"a picture":           {`{"model":"echo","input":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]}`, "input[0].content[0].type", codeUnsupported},
		"part without text":   {`{"model":"echo","input":[{"role":"user","content":[{"type":"input_text"}]}]}`, "input[0].content[0].text", codeMissing},
		"odd field":           {`{"model":"echo","input":[{"role":"user","content":"x","name":"y"}]}`, "input[0].name", codeUnknown},
		"a reference":         {`{"model":"echo","input":[{"type":"item_reference","id":"x"}]}`, "input[0].type", codeUnsupported},
		"call without name":   {`{"model":"echo","input":[{"type":"function_call","call_id":"c","arguments":"{}"}]}`, "input[0].name", codeMissing},
		"outcome of nothing":  {`{"model":"echo","input":[{"type":"function_call_output","output":"x"}]}`, "input[0].call_id", codeMissing},
		"outcome of numbers":  {`{"model":"echo","input":[{"type":"function_call_output","call_id":"c","output":7}]}`, "input[0].output", codeType},
		"n":                   {ask("x", `"n":2`), "n", codeUnknown},
		"messages":            {ask("x", `"messages":[]`), "messages", codeUnknown},
		"web search":          {ask("x", `"tools":[{"type":"web_search"}]`), "tools[0].type", codeUnsupported},
		"tool without name":   {ask("x", `"tools":[{"type":"function","parameters":{}}]`), "tools[0].name", codeMissing},
		"tool's odd field":    {ask("x", `"tools":[{"type":"function","name":"f","parameters":{},"x":1}]`), "tools[0].x", codeUnknown},
		"allowed tools":       {ask("x", `"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"allowed_tools"}`), "tool_choice.type", codeUnsupported},
		"odd format":          {ask("x", `"text":{"format":{"type":"xml"}}`), "text.format.type", codeValue},
		"no schema":           {ask("x", `"text":{"format":{"type":"json_schema","name":"n"}}`), "text.format.schema", codeMissing},
		"verbosity":           {ask("x", `"text":{"verbosity":"high"}`), "text.verbosity", codeUnsupported},
		"reasoning":           {ask("x", `"reasoning":{"effort":"high"}`), "reasoning", codeUnsupported},
		"truncation":          {ask("x", `"truncation":"auto"`), "truncation", codeUnsupported},
		"include":             {ask("x", `"include":["file_search_call.results"]`), "include", codeUnsupported},
		"conversation":        {ask("x", `"conversation":"conv_1"`), "conversation", codeUnsupported},
		"unstored background": {ask("x", `"background":true,"store":false`), "background", codeCombination},
		"unknown previous":    {ask("x", `"previous_response_id":"resp_x"`), "previous_response_id", "previous_response_not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.post(responsesPath, c.body)
			a.refused(t, 400, c.code)
			if v := a.want(t, 400); dig(v, "error", "param") != c.param {
				t.Errorf("%s: want param %s", a.body, c.param)
			}
		})
	}
	for _, path := range []string{"/resp_00000000000000000000000000", "/x", "/resp_00000000000000000000000000/input_items"} {
		r.do("GET", responsesPath+path, "").refused(t, 404, codeNotFound)
	}
	r.do("GET", responsesPath+"/x?stream=7", "").refused(t, 400, codeType)
	r.do("GET", responsesPath+"/x?color=red", "").refused(t, 400, codeUnknown)
}

func TestBackgroundResponse(t *testing.T) {
	r := answering(t)
	release := make(chan struct{})
	r.work(func(_ context.Context, q *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
		<-release
		return &engine.Completion{Choices: []engine.Choice{{Text: "done", Finish: engine.FinishStop}}}, nil
	})
	v := r.post(responsesPath, ask("x", `"background":true`)).want(t, 200)
	path := responsesPath + "/" + v["id"].(string)
	if v["status"] != "queued" || v["background"] != true || v["usage"] != nil || len(v["output"].([]any)) != 0 {
		t.Errorf("%v", v)
	}
	r.post(responsesPath, ask("y", fmt.Sprintf(`"previous_response_id":%q`, v["id"]))).refused(t, 400, codeValue)
	wait(t, "it runs", func() bool { return r.do("GET", path, "").want(t, 200)["status"] == "in_progress" })
	close(release)
	wait(t, "it ends", func() bool { return r.do("GET", path, "").want(t, 200)["status"] == "completed" })
	v = r.post(path+"/cancel", "").want(t, 200)
	if v["status"] != "completed" || dig(v, "output", 0, "content", 0, "text") != "done" {
		t.Errorf("%v", v)
	}
}

func TestCancelledResponse(t *testing.T) {
	r := answering(t)
	v := r.post(responsesPath, ask("x", `"background":true`)).want(t, 200)
	path := responsesPath + "/" + v["id"].(string)
	for range 2 {
		if v := r.post(path+"/cancel", "").want(t, 200); v["status"] != "cancelled" || v["error"] != nil {
			t.Errorf("%v", v)
		}
	}
	w := r.post(responsesPath, ask("y", `"background":true`)).want(t, 200)
	r.do("DELETE", responsesPath+"/"+w["id"].(string), "").want(t, 200)
	if got := r.state(jobOf(w["id"].(string))); got != queue.Cancelled {
		t.Errorf("the job behind a deleted response is %s", got)
	}
}

func TestFailedResponse(t *testing.T) {
	r := answering(t)
	r.work(func(context.Context, *engine.Request, func(engine.Chunk)) (*engine.Completion, error) {
		return nil, engine.Errorf(engine.Invalid, engine.CodeContextLength, "messages", "too long")
	})
	r.post(responsesPath, ask("x", "")).refused(t, 400, "context_length_exceeded")
	r.post(responsesPath, ask("x", `"stream":true`)).refused(t, 400, "context_length_exceeded")
	v := r.post(responsesPath, ask("x", `"background":true`)).want(t, 200)
	path := responsesPath + "/" + v["id"].(string)
	wait(t, "it fails", func() bool { return r.do("GET", path, "").want(t, 200)["status"] == "failed" })
	if v = r.do("GET", path, "").want(t, 200); dig(v, "error", "code") != "invalid_prompt" || dig(v, "error", "message") != "too long" {
		t.Errorf("%v", v)
	}
	events := r.events(path+"?stream=true", "")
	if last := events[len(events)-1]; last["type"] != "response.failed" || dig(last, "response", "status") != "failed" {
		t.Errorf("%v", last)
	}
}

// events is a stream of the Responses API: of a POST with a body, of a GET without.
func (r *road) events(path, body string) (out []map[string]any) {
	r.t.Helper()
	method := "POST"
	if body == "" {
		method = "GET"
	}
	q, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	ok(r.t, err)
	res, err := http.DefaultClient.Do(q)
	ok(r.t, err)
	defer res.Body.Close()
	if res.StatusCode != 200 {
		r.t.Fatal(res.Status)
	}
	out = readEvents(r.t, res)
	http.DefaultClient.CloseIdleConnections()
	return out
}

// texts are an event stream's deltas.
func texts(events []map[string]any) (out string) {
	for _, e := range events {
		if e["type"] == "response.output_text.delta" {
			out += e["delta"].(string)
		}
	}
	return out
}

func types(events []map[string]any) (out []string) {
	for _, e := range events {
		out = append(out, strings.TrimPrefix(e["type"].(string), "response."))
	}
	return out
}

func TestResponseStreams(t *testing.T) {
	r := answering(t)
	heard := make(chan struct{}, 8)
	r.work(func(ctx context.Context, q *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
		for _, w := range []string{"Grü", "ße, ", "wörld"} {
			emit(engine.Chunk{Text: w})
		}
		<-heard
		return &engine.Completion{Choices: []engine.Choice{{Text: "Grüße, wörld!", Finish: engine.FinishStop, ToolCalls: json.RawMessage(`[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{}"}}]`)}}}, nil
	})
	heard <- struct{}{}
	all := r.events(responsesPath, ask("x", `"stream":true`))
	got := regexp.MustCompile(`(output_text.delta )+`).ReplaceAllString(strings.Join(types(all), " "), "deltas ")
	if want := "created in_progress output_item.added content_part.added deltas output_text.done content_part.done output_item.done " +
		"output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if texts(all) != "Grüße, wörld!" || dig(all[len(all)-1], "response", "output", 1, "name") != "f" {
		t.Errorf("%v", all)
	}
	id, _ := dig(all[0], "response", "id").(string)
	last := -1.0
	for _, e := range all {
		n := e["sequence_number"].(float64)
		if n <= last {
			t.Errorf("%v behind %v", n, last)
		}
		last = n
	}
	// Whatever was heard, the rest of the same stream follows, byte for byte.
	for i := range all {
		after := all[i]["sequence_number"].(float64)
		rest := r.events(fmt.Sprintf("%s/%s?stream=true&starting_after=%.0f", responsesPath, id, after), "")
		if got := texts(all[:i+1]) + texts(rest); got != "Grüße, wörld!" || i+1 < len(all) && len(rest) == 0 {
			t.Errorf("after %v: %q, %v", after, got, types(rest))
		}
		for _, e := range rest {
			if e["sequence_number"].(float64) <= after {
				t.Errorf("after %v: %v again", after, e["type"])
			}
		}
	}
}

// A background response is told from its start while it runs, and goes on without its listener.
func TestBackgroundStream(t *testing.T) {
	r := answering(t)
	release, left := make(chan struct{}), make(chan struct{})
	r.work(func(ctx context.Context, q *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
		emit(engine.Chunk{Text: "first"})
		<-release
		return &engine.Completion{Choices: []engine.Choice{{Text: "first second", Finish: engine.FinishStop}}}, nil
	})
	ctx, hangUp := context.WithCancel(t.Context())
	q, err := http.NewRequestWithContext(ctx, "POST", r.url+responsesPath, strings.NewReader(ask("x", `"stream":true,"background":true`)))
	ok(t, err)
	res, err := http.DefaultClient.Do(q)
	ok(t, err)
	first := firstEvent(t, res)
	id, _ := dig(first, "response", "id").(string)
	if first["type"] != "response.created" || dig(first, "response", "background") != true {
		t.Fatalf("%v", first)
	}
	hangUp()
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	go func() {
		defer close(left)
		events := r.events(responsesPath+"/"+id+"?stream=true&starting_after=1", "")
		if got := texts(events); got != "first second" || slices.Contains(types(events), "created") || events[len(events)-1]["type"] != "response.completed" {
			t.Errorf("%q, %v", got, types(events))
		}
	}()
	wait(t, "somebody listens again", func() bool {
		r.server.waiting.mu.Lock()
		defer r.server.waiting.mu.Unlock()
		return r.server.waiting.n["default"] == 1
	})
	close(release)
	<-left
}

func FuzzReadResponses(f *testing.F) {
	f.Add(ask("x", `"tools":[{"type":"function","name":"f","parameters":{}}],"tool_choice":{"type":"function","name":"f"},"text":{"format":{"type":"json_schema","schema":{}}}`))
	f.Add(`{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":"c","name":"n","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":[{"type":"input_text","text":"x"}]}]}`)
	f.Add(`{"model":"m","input":[{"type":"function_call"}],"include":["message.output_text.logprobs"]}`)
	f.Fuzz(func(t *testing.T, body string) {
		if checkText([]byte(body)) != nil {
			return
		}
		d, err := readResponses([]byte(body), limits{maxN: 1})
		if err != nil {
			return
		}
		d.converse(nil)
		var messages []map[string]any
		if err := json.Unmarshal(d.request.Messages, &messages); err != nil {
			t.Error(err)
		}
		if len(named(d.response.items, "resp_x")) != len(d.response.items) {
			t.Error("items were lost")
		}
	})
}

// readEvents reads a stream to its end. Each event's name is its type.
func readEvents(t testing.TB, res *http.Response) (out []map[string]any) {
	t.Helper()
	name := ""
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if n, found := strings.CutPrefix(s.Text(), "event: "); found {
			name = n
		}
		data, found := strings.CutPrefix(s.Text(), "data: ")
		if !found {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(data), &e); err != nil || e["type"] != name {
			t.Errorf("event %s: %s", name, data)
		}
		out = append(out, e)
	}
	ok(t, s.Err())
	return out
}

// firstEvent reads one event of a stream that goes on.
func firstEvent(t testing.TB, res *http.Response) (e map[string]any) {
	t.Helper()
	s := bufio.NewScanner(res.Body)
	for s.Scan() {
		if data, found := strings.CutPrefix(s.Text(), "data: "); found {
			ok(t, json.Unmarshal([]byte(data), &e))
			return e
		}
	}
	t.Fatal("no event")
	return nil
}

// A batch's line is read as the API reads it, and stands alone.
func TestResponseLines(t *testing.T) {
	for name, c := range map[string]struct {
		body, param string
	}{
		"plain": {ask("x", `"instructions":"be brief"`), ""}, "in the background": {ask("x", `"background":true`), "background"},
		"goes on": {ask("x", `"previous_response_id":"resp_1"`), "previous_response_id"},
	} {
		d, err := readResponseLine([]byte(c.body), limits{maxN: 1})
		if c.param == "" {
			if err != nil || string(d.request.Messages) != `[{"role":"system","content":"be brief"},{"role":"user","content":"x"}]` {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || asAPI(err).Param != c.param {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInputTokens: what a response is charged for can be known before, tools, instructions and earlier turns too.
func TestInputTokens(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	const path = responsesPath + "/input_tokens"
	for name, fields := range map[string]string{"text": "", "instructions": `"instructions":"be brief"`, "in a batch lane": `"lorry":{"lane":"flex"}`} {
		want := dig(r.post(responsesPath, ask("one two three", fields)).want(t, 200), "usage", "input_tokens")
		v := r.post(path, ask("one two three", fields)).want(t, 200)
		if v["object"] != "response.input_tokens" || v["input_tokens"] != want || want == nil {
			t.Errorf("%s: %v, and a run counts %v", name, v, want)
		}
	}
	first := r.post(responsesPath, ask("one two three", "")).want(t, 200)["id"].(string)
	on := fmt.Sprintf(`"previous_response_id":%q`, first)
	want := dig(r.post(responsesPath, ask("four", on)).want(t, 200), "usage", "input_tokens")
	if v := r.post(path, ask("four", on)).want(t, 200); v["input_tokens"] != want || want != 7.0 {
		t.Errorf("going on: %v, and a run counts %v", v, want)
	}
	for body, code := range map[string]string{
		`{"model":"echo"}`: codeMissing, ask("x", `"conversation":"c"`): codeUnsupported, ask("x", `"personality":"friendly"`): codeUnsupported,
		ask("x", `"stream":true`): codeUnknown, ask("x", `"previous_response_id":"resp_none"`): "previous_response_not_found",
	} {
		r.post(path, body).refused(t, 400, code)
	}
	r.post(path, `{"model":"none","input":"x"}`).refused(t, 404, "model_not_found")
}
