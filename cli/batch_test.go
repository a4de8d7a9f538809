package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// command runs one of Commands against a client.
func command(ctx context.Context, cl *Client, in string, args ...string) (out, errs string, err error) {
	var o, e bytes.Buffer
	root := &cobra.Command{Use: "lorry", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands(func(*cobra.Command) func() (Target, error) {
		return func() (Target, error) { return cl.target, nil }
	})...)
	root.SetArgs(args)
	root.SetIn(strings.NewReader(in))
	root.SetOut(&o)
	root.SetErr(&e)
	err = root.ExecuteContext(ctx)
	return o.String(), e.String(), err
}

// upload is what a form held.
type upload struct {
	fields        map[string]string
	name, content string
}

func readUpload(t *testing.T, r *http.Request) (u upload) {
	u.fields = map[string]string{}
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		t.Error(err)
	}
	for form := multipart.NewReader(r.Body, params["boundary"]); ; {
		part, err := form.NextPart()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return u
		}
		b, _ := io.ReadAll(part)
		if part.FormName() == "file" {
			u.name, u.content = part.FileName(), string(b)
		} else {
			u.fields[part.FormName()] = string(b)
		}
	}
}

// create uploads a file of this machine, reads its endpoint off its first line, and sends one key.
func TestBatchCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "night.jsonl")
	text := "\n" + `{"custom_id":"1","url":"/v1/completions"}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var got upload
	var body map[string]any
	var tries atomic.Int64
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/files":
			got = readUpload(t, r)
			if tries.Add(1) == 1 { // once more, from its beginning
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			fmt.Fprint(w, `{"id":"file-1"}`)
		case "POST /v1/batches":
			if r.Header.Get("Idempotency-Key") == "" {
				t.Error("no key: sent twice it would be two batches")
			}
			_ = json.NewDecoder(r.Body).Decode(&body)
			fmt.Fprint(w, `{"id":"batch_1","status":"validating"}`)
		}
	})
	out, _, err := command(t.Context(), cl, "", "batch", "create", path, "--window", "2h", "--metadata", "a=b", "--priority", "-3")
	if err != nil || out != "batch_1\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if got.content != text || got.name != "night.jsonl" || got.fields["purpose"] != "batch" {
		t.Errorf("uploaded %+v", got)
	}
	want := `{"completion_window":"2h","endpoint":"/v1/completions","input_file_id":"file-1","lorry":{"priority":-3},"metadata":{"a":"b"}}`
	if b, _ := json.Marshal(body); string(b) != want {
		t.Errorf("sent %s, want %s", b, want)
	}
}

// steps answers GET of a batch with one state after the other.
func steps(t *testing.T, states ...string) (*Client, *atomic.Int64) {
	var n atomic.Int64
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		i := int(n.Add(1)) - 1
		fmt.Fprint(w, states[min(i, len(states)-1)])
	}), &n
}

const (
	running = `{"id":"batch_1","status":"in_progress","created_at":1,"request_counts":{"total":10,"completed":4,"failed":1},"lorry":{"tokens_per_second":12.5,"held_back_by":"no_worker"}}`
	ended   = `{"id":"batch_1","status":"completed","created_at":1,"completed_at":61,"output_file_id":"file-o","request_counts":{"total":10,"completed":9,"failed":1}}`
	refused = `{"id":"batch_1","status":"failed","created_at":1,"failed_at":2,"errors":{"data":[{"code":"invalid_json_line","message":"This line is not parseable as valid JSON.","line":7}]}}`
)

func TestBatchWatch(t *testing.T) {
	cl, _ := steps(t, running, running, ended)
	out, errs, err := command(t.Context(), cl, "", "batch", "watch", "batch_1")
	if err != nil || out != "" || strings.Count(errs, "held back by no_worker") != 1 || !strings.Contains(errs, "completed: 9 of 10 done, 1 failed, in 1m0s") ||
		!strings.Contains(errs, "lorry batch results batch_1") {
		t.Errorf("%q, %q, %v", out, errs, err)
	}
	cl, _ = steps(t, running, ended)
	out, errs, err = command(t.Context(), cl, "", "batch", "watch", "-q", "-o", "json", "batch_1")
	if err != nil || !strings.Contains(out, `"status": "completed"`) || errs != "" {
		t.Errorf("%q, %q, %v", out, errs, err)
	}
	cl, _ = steps(t, refused)
	_, errs, err = command(t.Context(), cl, "", "batch", "watch", "batch_1")
	if err == nil || !strings.Contains(errs, "line 7: This line is not parseable as valid JSON. (invalid_json_line)") {
		t.Errorf("%q, %v", errs, err)
	}
}

// Ctrl-C ends the watching alone, and says how to go on.
func TestBatchWatchInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		fmt.Fprint(w, running)
		stop()
	})
	_, _, err := command(ctx, cl, "", "batch", "watch", "batch_1")
	if err == nil || !strings.Contains(err.Error(), "the batch goes on (lorry batch watch batch_1") {
		t.Errorf("got %v", err)
	}
}

// results of a batch that runs come page by page, each line once, until it is over.
func TestBatchResultsFollow(t *testing.T) {
	pages := map[string]string{"0": `{"data":[{"n":1},{"n":2}],"last":2}`, "2": `{"data":[{"n":3}],"last":3}`, "3": `{"data":[],"last":3}`}
	var looks atomic.Int64
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/results"):
			fmt.Fprint(w, pages[r.URL.Query().Get("after")])
		case looks.Add(1) < 3:
			fmt.Fprint(w, running)
		default:
			fmt.Fprint(w, ended)
		}
	})
	out, _, err := command(t.Context(), cl, "", "batch", "results", "batch_1", "--follow")
	if err != nil || out != "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// results of one that is over are its files; -O's appears whole or not at all.
func TestBatchResultsFiles(t *testing.T) {
	content, cut := "{\"n\":1}\n", false
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/files/file-o/content":
			if cut {
				w.Header().Set("Content-Length", "100")
			}
			fmt.Fprint(w, content)
		default:
			fmt.Fprint(w, ended)
		}
	})
	path := filepath.Join(t.TempDir(), "out.jsonl")
	_, _, err := command(t.Context(), cl, "", "batch", "results", "batch_1", "-O", path)
	if b, e := os.ReadFile(path); err != nil || e != nil || string(b) != content {
		t.Errorf("%q, %v, %v", b, err, e)
	}
	cut = true
	other := filepath.Join(t.TempDir(), "other.jsonl")
	if _, _, err := command(t.Context(), cl, "", "batch", "results", "batch_1", "-O", other); err == nil {
		t.Error("half a file was taken for a whole one")
	}
	if left, _ := os.ReadDir(filepath.Dir(other)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestFileUploadRefused(t *testing.T) {
	cl := server(t, func(w http.ResponseWriter, r *http.Request) { // answers without reading
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"Invalid file format"}}`)
	})
	big := strings.Repeat("x", 8<<20)
	if _, _, err := command(t.Context(), cl, big, "file", "upload", "-", "--name", "a.txt"); err == nil {
		t.Error("no error")
	}
	for name, args := range map[string][]string{"no such file": {"file", "upload", "/nonexistent"}, "a folder": {"file", "upload", t.TempDir()},
		"no name": {"file", "upload", "-"}, "one name for two": {"file", "upload", "a", "b", "--name", "c"}, "neither file nor ID": {"batch", "create", "nonsense"},
		"nothing to change": {"batch", "change", "batch_1"}} {
		_, _, err := command(t.Context(), cl, "", args...)
		if _, usage := errors.AsType[Usage](err); !usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFileUploadExpiry(t *testing.T) {
	var got upload
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		got = readUpload(t, r)
		fmt.Fprint(w, `{"id":"file-1"}`)
	})
	out, _, err := command(t.Context(), cl, "text", "file", "upload", "-", "--name", "a.txt", "--purpose", "user_data", "--expires-after", "2h")
	if err != nil || out != "file-1\n" || got.fields["expires_after[seconds]"] != "7200" || got.fields["expires_after[anchor]"] != "created_at" || got.content != "text" {
		t.Errorf("%q, %+v, %v", out, got, err)
	}
}

func TestBatchNote(t *testing.T) {
	var b Batch
	b.Status, b.Lorry.Paused, b.Lorry.ETA = "in_progress", true, 160
	b.Counts.Failed = 2
	if got := b.note(time.Unix(100, 0)); got != "in_progress (paused), 2 failed, ends in about 1m0s" {
		t.Errorf("got %q", got)
	}
}
