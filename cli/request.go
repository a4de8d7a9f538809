package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// request is a line as it is sent.
type request struct {
	line     int
	customID string
	path     string
	body     json.RawMessage
}

const (
	chatPath = "/v1/chat/completions"
	textPath = "/v1/completions"
)

// request reads a line: a prompt, a request, or a line of a batch file. An error names the line.
func (s *submission) request(l line) (*request, error) {
	if l.err != nil {
		return nil, l.err
	}
	r := &request{line: l.n, path: chatPath}
	text := strings.TrimSpace(l.text)
	fields := map[string]json.RawMessage{}
	switch {
	case !utf8.ValidString(l.text):
		return nil, fmt.Errorf("line %d: it is no UTF-8", l.n)
	case !l.plain && strings.HasPrefix(text, "{"):
		if err := strict(text, &fields); err != nil {
			return nil, fmt.Errorf("line %d: it begins like a JSON object, but %w", l.n, err)
		}
		if err := r.unwrap(&fields); err != nil {
			return nil, fmt.Errorf("line %d: %w", l.n, err)
		}
	default:
		prompt := l.text
		if !l.plain && strings.HasPrefix(text, `"`) {
			var js string
			if json.Unmarshal([]byte(text), &js) == nil {
				prompt = js
			}
		}
		fields["messages"] = s.messages(prompt)
	}
	delete(fields, "stream") // answers are collected here
	s.fill(fields)
	body, err := marshal(fields)
	r.body = body
	return r, err
}

// strict is json.Unmarshal with an error that says where.
func strict(text string, to any) error {
	d := json.NewDecoder(strings.NewReader(text))
	err := d.Decode(to)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("column %d: %w", e.Offset, e)
	}
	if err == nil {
		if _, err := d.Token(); err != io.EOF {
			return fmt.Errorf("column %d: there is more after it", d.InputOffset()+1)
		}
		return nil
	}
	return fmt.Errorf("it can't be read: %w", err)
}

// unwrap takes a batch file's line apart, and finds the endpoint.
func (r *request) unwrap(fields *map[string]json.RawMessage) error {
	f := *fields
	if body, ok := f["body"]; ok {
		_ = json.Unmarshal(f["custom_id"], &r.customID)
		_ = json.Unmarshal(f["url"], &r.path)
		inner := map[string]json.RawMessage{}
		if err := json.Unmarshal(body, &inner); err != nil {
			return errors.New(`"body" is no object`)
		}
		if r.path != chatPath && r.path != textPath {
			return fmt.Errorf(`"url" is %q: submit sends %s and %s`, r.path, chatPath, textPath)
		}
		*fields = inner
		return nil
	}
	switch {
	case f["messages"] != nil:
	case f["prompt"] != nil:
		r.path = textPath
	default:
		return errors.New(`the object has neither "messages" nor "prompt"`)
	}
	return nil
}

func (s *submission) messages(prompt string) json.RawMessage {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var ms []message
	if s.system != "" {
		ms = append(ms, message{"system", s.system})
	}
	b, _ := marshal(append(ms, message{"user", prompt}))
	return b
}

// fill adds what the flags say where the line says nothing.
func (s *submission) fill(f map[string]json.RawMessage) {
	set := func(k string, v any) {
		if _, ok := f[k]; !ok {
			f[k], _ = marshal(v)
		}
	}
	if s.model != "" {
		set("model", s.model)
	}
	if _, other := f["max_completion_tokens"]; s.maxTokens > 0 && !other {
		set("max_tokens", s.maxTokens)
	}
	if s.tempSet {
		set("temperature", s.temperature)
	}
	if s.lane != "" {
		set("lorry", map[string]string{"lane": s.lane})
	}
}

// send sends a line: for its answer, or as a job.
func (s *submission) send(ctx context.Context, cl *Client, r *request) *outcome {
	o := &outcome{Line: r.line, CustomID: r.customID}
	var err error
	if s.async {
		err = s.submit(ctx, cl, r, o)
	} else if err = cl.do(ctx, http.MethodPost, r.path, nil, r.body, &o.raw); err == nil {
		o.answer(http.StatusOK, o.raw)
	}
	if err != nil {
		o.fail(err)
	}
	return o
}

// submit sends a line as an asynchronous job.
func (s *submission) submit(ctx context.Context, cl *Client, r *request, o *outcome) error {
	header := http.Header{"Prefer": {"respond-async"}, "Idempotency-Key": {newKey()}}
	if err := cl.do(ctx, http.MethodPost, r.path, header, r.body, &o.raw); err != nil {
		return err
	}
	var j Job
	if err := json.Unmarshal(o.raw, &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	o.Job, o.Status, o.Response = j.ID, http.StatusAccepted, o.raw
	return nil
}

// follow looks at a job until it is over. When ctx ends first, the job is cancelled: it is what Ctrl-C means.
func (c *Client) follow(ctx context.Context, o *outcome) error {
	o.Response = nil
	var j Job
	for wait := pollFirst; ; wait = min(wait*2, pollLast) {
		err := c.do(ctx, http.MethodGet, "/v1/jobs/"+o.Job, nil, nil, &o.raw)
		if err == nil {
			j = Job{}
			if err = json.Unmarshal(o.raw, &j); err == nil && j.over() {
				break
			}
		}
		if err == nil {
			err = c.pause(ctx, wait)
		}
		if ctx.Err() != nil {
			c.cancel(ctx, o.Job)
			return context.Canceled
		}
		if err != nil {
			return fmt.Errorf("follow job %s: %w", o.Job, err)
		}
	}
	o.end(&j)
	return nil
}

// end takes over how a job ended.
func (o *outcome) end(j *Job) {
	switch {
	case j.Response != nil:
		o.answer(j.Response.StatusCode, j.Response.Body)
	case j.Error != nil:
		o.Error = &lineError{Message: j.Error.Message, Code: j.Error.Code}
	default:
		o.Error = &lineError{Message: "the job was " + j.Status, Code: j.Status}
	}
	if o.Error != nil {
		o.err = fmt.Errorf("job %s %s: %s", j.ID, j.Status, o.Error.Message)
	}
}

// cancel ends a job although ctx has ended.
func (c *Client) cancel(ctx context.Context, id string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	_ = c.do(ctx, http.MethodPost, "/v1/jobs/"+id+"/cancel", nil, nil, nil)
}

// answer is a body with an answer, or with an error.
func (o *outcome) answer(status int, body json.RawMessage) {
	a := readAnswer(body)
	o.Status, o.Response, o.Text, o.tokens = status, body, a.text(), a.Usage.CompletionTokens
	if a.Error != nil {
		o.Response, o.Error = nil, &lineError{Message: a.Error.Message, Code: a.Error.Code, Status: status}
		o.err = errors.New(a.Error.Message)
	}
}

func (o *outcome) fail(err error) {
	o.err = err
	o.Error = &lineError{Message: err.Error()}
	if e, ok := errors.AsType[*APIError](err); ok {
		o.Error = &lineError{Message: cmp.Or(e.Message, err.Error()), Code: e.Code, Status: e.Status}
		o.Status = e.Status
	}
}

// answer is a completion of either endpoint, or an error.
type answer struct {
	Choices []struct {
		Text    string `json:"text"`
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Usage struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Error *APIError `json:"error"`
}

func readAnswer(b json.RawMessage) (a answer) {
	_ = json.Unmarshal(b, &a) // what is no answer has no text
	return a
}

// text is the first choice's.
func (a answer) text() string {
	if len(a.Choices) == 0 {
		return ""
	}
	c := a.Choices[0]
	return cmp.Or(c.Message.Content, c.Text, c.Delta.Content)
}

// stream prints a chat's answer as it comes.
func (c *Client) stream(ctx context.Context, r *request, out io.Writer, t *tally) error {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(r.body, &fields); err != nil {
		return err
	}
	fields["stream"], fields["stream_options"] = json.RawMessage("true"), json.RawMessage(`{"include_usage":true}`)
	body, err := marshal(fields)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, r.path, http.Header{"Accept": {"text/event-stream"}}, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	done := false
	o := &outcome{}
	for l := range lines(resp.Body) {
		data, ok := strings.CutPrefix(l.text, "data:")
		if data = strings.TrimSpace(data); !ok || data == "" {
			continue
		}
		if done = data == "[DONE]"; done {
			break
		}
		a := readAnswer(json.RawMessage(data))
		if a.Error != nil {
			return fmt.Errorf("the answer broke off: %s", a.Error.Message)
		}
		o.tokens = max(o.tokens, a.Usage.CompletionTokens)
		if _, err := io.WriteString(out, a.text()); err != nil {
			return err
		}
	}
	if !done {
		return cmp.Or(context.Cause(ctx), errors.New("the answer broke off: the connection ended before it was whole"))
	}
	t.count(o)
	_, err = io.Copy(out, bytes.NewReader([]byte("\n")))
	return err
}
