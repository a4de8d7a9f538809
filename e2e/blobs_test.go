package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"lorry/engine/enginetest"
)

// TestBlobs keeps files, a batch's outputs and an adapter elsewhere than in the data folder, with a worker of its own
// process that is told nothing: all is there again after everybody was killed.
func TestBlobs(t *testing.T) {
	s3, objects := fakeS3(t)
	for where, at := range map[string]string{"s3": s3, "jetstream": "jetstream"} {
		t.Run(where, func(t *testing.T) {
			e := &elsewhere{t: t, at: at, b: &box{data: filepath.Join(shortDir(t), "data")}}
			e.start()
			dir := t.TempDir()
			e.b.lorry("model", "push", "clerk", "--adapter", filepath.Join(dir, enginetest.LoRA{Seed: 2}.Write(t, dir)), "--base", "smollm2")
			said := e.b.lorry("batch", "create", adapterLines(t, 4), "--watch")
			if !strings.Contains(said, "completed: 4 of 4 done, 0 failed") {
				t.Fatalf("watching said:\n%s", said)
			}
			answers := e.output()
			if n := strings.Count(answers, `"status_code":200`); n != 4 {
				t.Errorf("%d answers:\n%s", n, answers)
			}
			e.killed()
			for _, name := range []string{"blobs", "weights", "adapters"} { // the last is the worker's cache
				if _, err := os.Stat(filepath.Join(e.b.data, name)); name != "adapters" && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the data folder has %s: %v", name, err)
				}
				_ = os.RemoveAll(filepath.Join(e.b.data, name))
			}
			if n := objects("fleet/blobs/"); where == "s3" && (n < 2 || objects("fleet/weights/") != 1) {
				t.Errorf("the bucket has %d files and %d adapters", n, objects("fleet/weights/"))
			}
			e.start()
			if again := e.output(); again != answers {
				t.Errorf("after the restart the output is\n%s\nnot\n%s", again, answers)
			}
			e.ask("clerk")
			e.worker.stop()
			e.b.stop()
		})
	}
}

// fakeS3 is a store that speaks S3, with a bucket: its address for --blobs, and how many objects begin so.
func fakeS3(t *testing.T) (at string, objects func(prefix string) int) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("lorry"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(srv.Close)
	return "s3://lorry/fleet?region=us-east-1&endpoint=" + srv.URL, func(prefix string) int {
		list, err := backend.ListBucket("lorry", &gofakes3.Prefix{HasPrefix: true, Prefix: prefix}, gofakes3.ListBucketPage{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Contents)
	}
}

// elsewhere is a box whose bytes are not in its data folder, and its worker.
type elsewhere struct {
	t      *testing.T
	at     string
	b      *box
	worker *process
}

func (e *elsewhere) start() {
	e.t.Helper()
	env := map[string]string{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "LORRY_THREADS": "1"}
	e.b.process = start(e.t, "lorry up", built(e.t, "lorry"), []string{"up", "--data", e.b.data, "--listen", "127.0.0.1:0", "--workers", "0", "--blobs", e.at}, env)
	eventually(e.t, time.Minute, "lorry up listens", e.b.listening)
	e.worker = start(e.t, "lorry worker", built(e.t, "lorry"), []string{"worker", "--data", e.b.data}, env)
	eventually(e.t, time.Minute, "a worker is there", e.b.ready)
}

func (e *elsewhere) killed() { e.worker.kill(); e.b.kill() }

// output is the file of answers.
func (e *elsewhere) output() string {
	e.t.Helper()
	files := e.b.lorry("file", "list", "--purpose", "batch_output")
	id, _, _ := strings.Cut(files[strings.Index(files, "file-"):], " ")
	return e.b.lorry("file", "download", id)
}

// ask wants an answer of a model.
func (e *elsewhere) ask(model string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	c := &client{urls: func() string { return e.b.run.HTTP }}
	a, err := c.do(ctx, "POST", "/v1/completions", map[string]any{"model": model, "prompt": "Once", "max_tokens": 2})
	if err != nil || a.status != 200 {
		e.t.Errorf("%s: %d %s %v", model, a.status, a.body, err)
	}
}

// adapterLines writes a batch's input for the adapter.
func adapterLines(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		body, _ := json.Marshal(map[string]any{"model": "clerk", "prompt": fmt.Sprintf("Number %d", i), "max_tokens": 4, "temperature": 0})
		fmt.Fprintf(&b, `{"custom_id":"line-%d","method":"POST","url":"/v1/completions","body":%s}`+"\n", i, body)
	}
	path := filepath.Join(t.TempDir(), "night.jsonl")
	write(t, path, b.String())
	return path
}
