package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"
)

// batchObject is a batch, as far as these tests look at it.
type batchObject struct {
	ID, Status   string
	OutputFileID string                                 `json:"output_file_id"`
	ErrorFileID  string                                 `json:"error_file_id"`
	Counts       struct{ Total, Completed, Failed int } `json:"request_counts"`
	Usage        struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
	}
	Errors *struct {
		Data []struct {
			Code string
			Line int
		}
	}
	Lorry struct {
		RetryOf string `json:"retry_of"`
	}
}

// batchLine is a line of an output or error file.
type batchLine struct {
	ID       string
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       json.RawMessage
	}
	Error json.RawMessage
	Lorry struct{ Attempts int }
}

// upload sends a batch's input, and returns the answer's status and the file's ID.
func (b *box) upload(text string) (status int, id string) {
	b.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	_ = form.WriteField("purpose", "batch") // to memory
	part, _ := form.CreateFormFile("file", "in.jsonl")
	_, _ = io.WriteString(part, text)
	_ = form.Close()
	a, err := b.client().once(b.t.Context(), "POST", "/v1/files", body.Bytes(), []string{"Content-Type", form.FormDataContentType()})
	if err != nil {
		b.t.Fatal(err)
	}
	var file struct{ ID string }
	_ = json.Unmarshal(a.body, &file) // an error has none
	return a.status, file.ID
}

// batch makes one of lines, which is to be accepted whatever is in them.
func (b *box) batch(endpoint, text string) string {
	b.t.Helper()
	status, file := b.upload(text)
	if status != http.StatusOK {
		b.t.Fatalf("the upload answers %d", status)
	}
	wish := map[string]string{"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"}
	return b.post("/v1/batches", wish).ID
}

// post sends a request that answers with a batch.
func (b *box) post(path string, body any, header ...string) (out batchObject) {
	b.t.Helper()
	a, err := b.client().do(b.t.Context(), "POST", path, body, header...)
	if err != nil || a.status != http.StatusOK || json.Unmarshal(a.body, &out) != nil {
		b.t.Fatalf("%s: %v %d %s", path, err, a.status, a.body)
	}
	return out
}

// over waits for a batch's end.
func (b *box) over(id string) (out batchObject) {
	b.t.Helper()
	eventually(b.t, time.Minute, "batch "+id+" is over", func(ctx context.Context) error {
		a, err := b.client().do(ctx, "GET", "/v1/batches/"+id, nil)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(a.body, &out); err != nil {
			return err
		}
		switch out.Status {
		case "completed", "failed", "expired", "cancelled":
			return nil
		}
		return fmt.Errorf("it is %s", out.Status)
	})
	return out
}

// lines are a result file's, by custom_id; each once.
func (b *box) lines(file string) map[string]batchLine {
	b.t.Helper()
	out := map[string]batchLine{}
	if file == "" {
		return out
	}
	a, err := b.client().do(b.t.Context(), "GET", "/v1/files/"+file+"/content", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for text := range strings.SplitSeq(strings.TrimSuffix(string(a.body), "\n"), "\n") {
		var l batchLine
		if err := json.Unmarshal([]byte(text), &l); err != nil || out[l.CustomID].ID != "" || !strings.HasPrefix(l.ID, "batch_req_") {
			b.t.Fatalf("line %s: %v", text, err)
		}
		out[l.CustomID] = l
	}
	return out
}

// inputs are n lines of one body, in which %d is the line's number.
func inputs(endpoint, body string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"c%d","method":"POST","url":%q,"body":%s}`+"\n", i, endpoint, strings.ReplaceAll(body, "%d", fmt.Sprint(i)))
	}
	return b.String()
}

// TestBatchKinds runs batches of the endpoints that are not chat, and what is wrong with files, through the whole program.
func TestBatchKinds(t *testing.T) {
	b := up(t, map[string]string{"LORRY_ENGINE": "echo"})
	t.Run("responses", func(t *testing.T) { b.responses(t) })
	t.Run("embeddings", func(t *testing.T) { b.embeddings(t) })
	t.Run("bad bodies", func(t *testing.T) { b.badBodies(t) })
	t.Run("bad files", func(t *testing.T) { b.badFiles(t) })
	t.Run("retry", func(t *testing.T) { b.retried(t) })
	if err := ready(t.Context(), b.run.HTTP); err != nil {
		t.Error("it does not live:", err)
	}
	b.stop()
}

func (b *box) responses(t *testing.T) {
	const n = 20
	got := b.over(b.batch("/v1/responses", inputs("/v1/responses", `{"model":"echo","input":"number %d","max_output_tokens":20}`, n)))
	if got.Status != "completed" || got.Counts.Completed != n || got.ErrorFileID != "" || got.Usage.Input == 0 || got.Usage.Output == 0 {
		t.Fatalf("%+v", got)
	}
	out := b.lines(got.OutputFileID)
	for i := range n {
		l := out[fmt.Sprintf("c%d", i)]
		var r struct {
			ID, Object, Status, Model string
			Output                    []struct {
				Type, Role string
				Content    []struct{ Type, Text string }
			}
			Usage struct {
				Total int `json:"total_tokens"`
			}
		}
		if l.Response == nil || l.Response.StatusCode != 200 || json.Unmarshal(l.Response.Body, &r) != nil || string(l.Error) != "null" || l.Lorry.Attempts != 1 {
			t.Fatalf("line %d: %+v", i, l)
		}
		if !strings.HasPrefix(r.ID, "resp_") || r.Object != "response" || r.Status != "completed" || r.Model != "echo" || r.Usage.Total == 0 || len(r.Output) != 1 ||
			r.Output[0].Type != "message" || r.Output[0].Role != "assistant" || len(r.Output[0].Content) != 1 ||
			r.Output[0].Content[0].Type != "output_text" || r.Output[0].Content[0].Text != fmt.Sprintf("number %d", i) {
			t.Fatalf("line %d: %s", i, l.Response.Body)
		}
	}
}

func (b *box) embeddings(t *testing.T) {
	const n = 20
	got := b.over(b.batch("/v1/embeddings", inputs("/v1/embeddings", `{"model":"echo","input":["same","number %d"],"dimensions":8}`, n)))
	if got.Status != "completed" || got.Counts.Completed != n || got.ErrorFileID != "" || got.Usage.Input == 0 || got.Usage.Output != 0 {
		t.Fatalf("%+v", got)
	}
	seen := map[string]bool{}
	for id, l := range b.lines(got.OutputFileID) {
		var r struct {
			Object, Model string
			Data          []struct {
				Object    string
				Index     int
				Embedding []float32
			}
			Usage struct {
				Prompt int `json:"prompt_tokens"`
				Total  int `json:"total_tokens"`
			}
		}
		if l.Response == nil || l.Response.StatusCode != 200 || json.Unmarshal(l.Response.Body, &r) != nil || r.Object != "list" || r.Model != "echo" || len(r.Data) != 2 ||
			r.Usage.Prompt == 0 || r.Usage.Prompt != r.Usage.Total {
			t.Fatalf("%s: %+v", id, l)
		}
		for i, d := range r.Data {
			if d.Object != "embedding" || d.Index != i || len(d.Embedding) != 8 {
				t.Fatalf("%s: %s", id, l.Response.Body)
			}
			seen[fmt.Sprint(d.Embedding)] = true
		}
	}
	if len(seen) != n+1 {
		t.Errorf("%d different vectors of %d texts", len(seen), n+1)
	}
}

// badBodies: what is wrong with a line's body is that line's alone.
func (b *box) badBodies(t *testing.T) {
	const url = "/v1/chat/completions"
	fine := `{"model":"echo","messages":[{"role":"user","content":"hi"}]%s}`
	more := []string{"", `,"temperature":9`, `,"no_such_field":1`, `,"service_tier":"flex"`, `,"lorry":{"lane":"interactive"}`, `,"lorry":{"lane":"batch"}`, `,"user":"a\u0000b"`}
	want := []string{"", "decimal_above_max_value temperature", "unknown_parameter no_such_field", "unsupported_parameter service_tier",
		"unsupported_parameter lorry.lane", "", "invalid_value "}
	var text strings.Builder
	for i, m := range more {
		fmt.Fprintf(&text, `{"custom_id":"c%d","method":"POST","url":%q,"body":%s}`+"\r\n\r\n", i, url, fmt.Sprintf(fine, m))
	}
	got := b.over(b.batch(url, text.String()))
	if got.Status != "completed" || got.Counts.Completed != 2 || got.Counts.Failed != 5 {
		t.Fatalf("%+v", got)
	}
	bad := b.lines(got.ErrorFileID)
	for i, code := range want {
		l, failed := bad[fmt.Sprintf("c%d", i)]
		if failed != (code != "") {
			t.Errorf("%s: failed is %t", more[i], failed)
		}
		if !failed {
			continue
		}
		var r struct{ Error struct{ Code, Param string } }
		if l.Response == nil || l.Response.StatusCode != 400 || json.Unmarshal(l.Response.Body, &r) != nil || r.Error.Code+" "+r.Error.Param != code {
			t.Errorf("%s: %+v", more[i], l)
		}
	}
}

// badFiles: what is wrong with a file fails its batch, and says in which line.
func (b *box) badFiles(t *testing.T) {
	const url = "/v1/embeddings"
	one := inputs(url, `{"model":"echo","input":"x"}`, 1)
	many := inputs(url, `{"model":"echo","input":"x"}`, 50_000)
	for name, c := range map[string]struct {
		text, code string
		line       int
	}{
		"empty":                   {"", "empty_file", 0},
		"blank":                   {"\ufeff\r\n \n", "empty_file", 0},
		"zero":                    {"\x00\n", "invalid_json_line", 1},
		"zero within":             {one + strings.Replace(one, "x", "\x00", 1), "invalid_json_line", 2},
		"a name of 50,000 before": {many[:len(many)-1] + "\n" + one, "too_many_tasks", 0},
		"the last name twice":     {strings.Replace(many, `"c49999"`, `"c0"`, 1), "duplicate_custom_id", 50_000},
		"too much to embed": {one + `{"custom_id":"n","method":"POST","url":"/v1/embeddings","body":{"model":"echo","input":["x"` + strings.Repeat(`,"x"`, 49_999) + `]}}`,
			"too_many_tasks", 0},
		"other models": {one + strings.NewReplacer("c0", "c1", "echo", "other").Replace(one), "model_mismatch", 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := b.over(b.batch(url, c.text))
			if got.Status != "failed" || got.Errors == nil || len(got.Errors.Data) != 1 || got.Errors.Data[0].Code != c.code || got.Errors.Data[0].Line != c.line {
				t.Errorf("%+v %+v", got, got.Errors)
			}
		})
	}
}

// retried: a retry that is sent again, by an SDK or under one key, is one batch.
func (b *box) retried(t *testing.T) {
	const url = "/v1/completions"
	old := b.over(b.batch(url, inputs(url, `{"model":"echo","prompt":"x","temperature":9}`, 2)))
	path := "/lorry/v1/batches/" + old.ID + "/retry"
	first := b.post(path, nil, "X-Stainless-Retry-Count", "0")
	if again := b.post(path, nil, "X-Stainless-Retry-Count", "1"); again.ID != first.ID || first.Lorry.RetryOf != old.ID {
		t.Errorf("sent again: %+v after %+v", again, first)
	}
	keyed := b.post(path, nil, "Idempotency-Key", "k")
	if again := b.post(path, nil, "Idempotency-Key", "k"); keyed.ID == first.ID || again.ID != keyed.ID {
		t.Errorf("under a key: %s and %s", keyed.ID, again.ID)
	}
	if got := b.over(first.ID); got.Status != "completed" || got.Counts.Failed != 2 {
		t.Errorf("%+v", got)
	}
}
