package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lorry/engine/gguf"
)

// TestPushedModel: a whole model that is pushed is fetched, and served beside the one from a file, also after a restart.
// Its file is the demo's with some bytes behind it: another model by its digest, with the same answers.
func TestPushedModel(t *testing.T) {
	b := up(t, map[string]string{"LORRY_THREADS": "1"})
	file, digest := twin(t, 32)
	refused := start(t, "lorry model push", built(t, "lorry"), []string{"model", "push", "smollm2", "--file", file, "--data", b.data}, nil)
	<-refused.done
	if refused.err == nil || !strings.Contains(refused.said.String(), "the name is taken") {
		t.Errorf("under a name that is taken: %v, %s", refused.err, refused.said.String())
	}
	if said := b.lorry("model", "push", "twin", "--file", file); !strings.Contains(said, "twin is registered") {
		t.Errorf("said %s", said)
	}
	if said := b.lorry("model", "list"); !strings.Contains(said, "twin     pushed") {
		t.Errorf("listed\n%s", said)
	}
	sameAnswers(t, b)
	quantizedOnPush(t, b, file)
	if _, err := os.Stat(filepath.Join(b.data, "models", digest)); err != nil || len(b.children("lorry-engine")) != 3 {
		t.Errorf("%v, and there are %d engines, want 3", err, len(b.children("lorry-engine")))
	}
	b.stop()
	b.process = start(t, "lorry up", built(t, "lorry"), []string{"up", "--data", b.data, "--listen", "127.0.0.1:0", "--log-format", "json"}, map[string]string{"LORRY_THREADS": "1"})
	eventually(t, time.Minute, "lorry up is ready", b.ready)
	sameAnswers(t, b)
	b.stop()
}

// quantizedOnPush pushes a file that is to be served in another format: only what was made of it is kept.
func quantizedOnPush(t *testing.T, b *box, file string) {
	t.Helper()
	for format, want := range map[string]string{"q4_0": "quantized already", "q9": "is not known"} {
		refused := start(t, "lorry model push", built(t, "lorry"), []string{"model", "push", "small", "--file", file, "--quantize", format, "--data", b.data}, nil)
		<-refused.done
		if refused.err == nil || !strings.Contains(refused.said.String(), want) {
			t.Errorf("to %s: %v, %s", format, refused.err, refused.said.String())
		}
	}
	if said := b.lorry("model", "push", "small", "--file", file, "--quantize", "q4_0", "--requantize"); !strings.Contains(said, "small is registered (q4_0, ") {
		t.Errorf("said %s", said)
	}
	c := &client{urls: func() string { return b.run.HTTP }}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := c.do(ctx, "POST", "/v1/chat/completions", map[string]any{"model": "small", "max_tokens": 4, "messages": []any{map[string]any{"role": "user", "content": "Hi"}}}); err != nil {
		t.Error(err)
	}
	kept, _ := filepath.Glob(filepath.Join(b.data, "weights", "??", "*"))
	left, _ := filepath.Glob(filepath.Join(b.data, "quantized", "*push-*"))
	if len(kept) != 2 || len(left) > 0 {
		t.Errorf("kept are %v, want two files, and left %v", kept, left)
	}
}

// TestDeletedModel: a box and a worker without a model of their own serve what is pushed, within the memory that was
// foreseen. A deleted model runs the jobs that were accepted; then its engine, its copy and its bytes go. Its name may
// stand for another one meanwhile.
func TestDeletedModel(t *testing.T) {
	env := map[string]string{"LORRY_THREADS": "1", "LORRY_WORKERS": "0", "LORRY_MODEL_FILE": "none"}
	b := up(t, env)
	worker := start(t, "lorry worker", built(t, "lorry"), []string{"worker", "--data", b.data, "--log-format", "json", "--metrics-listen", "127.0.0.1:0"}, env)
	eventually(t, time.Minute, "the worker says that it has nothing to serve", func(ctx context.Context) error { return worker.tells(ctx, 200, "nothing to serve") })
	file, first := twin(t, 32)
	b.lorry("model", "push", "twin", "--file", file)
	eventually(t, time.Minute, "the worker is ready", func(ctx context.Context) error { return worker.tells(ctx, 200, `"ok"`) })
	withinMemory(t, file, worker.children("lorry-engine"))

	waiting := []string{b.begin(t, "twin"), b.begin(t, "twin"), b.begin(t, "twin")}
	if said := b.lorry("model", "delete", "twin"); strings.TrimSpace(said) != "twin" {
		t.Errorf("said %s", said)
	}
	refused := start(t, "lorry submit", built(t, "lorry"), []string{"submit", "--model", "twin", "Hi", "--data", b.data}, nil)
	if <-refused.done; refused.err == nil || !strings.Contains(refused.said.String(), "does not exist") {
		t.Errorf("what is deleted answers: %v, %s", refused.err, refused.said.String())
	}
	file, second := twin(t, 64)
	b.lorry("model", "push", "twin", "--file", file)
	waiting = append(waiting, b.begin(t, "twin"))
	for _, id := range waiting {
		if j, err := b.client().finish(t.Context(), id); err != nil || j.Status != "succeeded" {
			t.Errorf("%s is %s, %v: %s", id, j.Status, err, j.Error)
		}
	}
	eventually(t, time.Minute, "the first goes, the second stays", func(context.Context) error { return b.onlyModel(worker, first, second) })
	worker.stop()
	b.stop()
}

// at is where a process listens, as its log says; "" while it does not.
func (p *process) at() string {
	at := regexp.MustCompile(`"url":"(http://[^"]+)"`).FindStringSubmatch(p.said.String())
	if at == nil {
		return ""
	}
	return at[1]
}

// tells asks the worker's own listener whether it is ready.
func (p *process) tells(ctx context.Context, status int, want string) error {
	if p.at() == "" {
		return errors.New("it does not listen")
	}
	a, err := (&client{urls: p.at}).once(ctx, "GET", "/readyz", nil, nil)
	if err == nil && (a.status != status || !strings.Contains(string(a.body), want)) {
		err = fmt.Errorf("it answers %d %s", a.status, a.body)
	}
	return err
}

// withinMemory: an engine takes its KV cache, and no more than its share of model_memory.
func withinMemory(t *testing.T, file string, engines []int) {
	t.Helper()
	head, err := gguf.Open(file)
	if err != nil || len(engines) != 1 {
		t.Fatalf("%v, and there are %d engines, want one", err, len(engines))
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", engines[0]))
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	kv := head.TokenBytes("f16") * gguf.FewCells
	if held := kib << 10; held < kv || held > head.Size+kv+512<<20 {
		t.Errorf("it holds %d bytes, where its weights are %d and its KV cache is %d", held, head.Size, kv)
	}
}

// begin submits a job that nobody waits for.
func (b *box) begin(t *testing.T, model string) (id string) {
	t.Helper()
	a, err := b.client().do(t.Context(), "POST", "/v1/chat/completions", map[string]any{"model": model, "max_tokens": 48, "ignore_eos": true,
		"messages": []any{map[string]any{"role": "user", "content": "Count."}}}, "Prefer", "respond-async")
	var j job
	if err == nil {
		err = json.Unmarshal(a.body, &j)
	}
	if err != nil || j.ID == "" {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
	return j.ID
}

// onlyModel looks at engines, copies and stored bytes.
func (b *box) onlyModel(worker *process, gone, stays string) error {
	for _, dir := range []string{"models", "weights/" + gone[:2], "weights/" + stays[:2]} {
		files, _ := os.ReadDir(filepath.Join(b.data, dir))
		for _, f := range files {
			if f.Name() == gone {
				return fmt.Errorf("%s/%s is there", dir, gone)
			}
		}
	}
	if n := len(worker.children("lorry-engine")); n != 1 {
		return fmt.Errorf("there are %d engines", n)
	}
	_, err := os.Stat(filepath.Join(b.data, "models", stays))
	return err
}

// twin is another file of the demo's model, with so many bytes behind it, and its digest.
func twin(t *testing.T, more int) (path, digest string) {
	t.Helper()
	of := strings.TrimSpace(finished(t, start(t, "lorry model path", built(t, "lorry"), []string{"model", "path", "smollm2"}, nil)))
	weights, err := os.ReadFile(of)
	if err != nil {
		t.Fatal(err)
	}
	weights = append(weights, bytes.Repeat([]byte{0}, more)...)
	path = filepath.Join(t.TempDir(), "twin.gguf")
	if err := os.WriteFile(path, weights, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(weights)
	return path, hex.EncodeToString(sum[:])
}

// sameAnswers asks both at the same moment. The twin's first answer waits until it is loaded.
func sameAnswers(t *testing.T, b *box) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := &client{urls: func() string { return b.run.HTTP }}
	answers := make(chan []token, 2)
	for _, model := range []string{"smollm2", "twin"} {
		go func() {
			got, err := c.tokens(ctx, map[string]any{"model": model, "max_tokens": 4, "temperature": 0, "logprobs": true, "top_logprobs": 20,
				"messages": []any{map[string]any{"role": "user", "content": "The capital of France is"}}})
			if err != nil {
				t.Error(err)
			}
			answers <- got
		}()
	}
	if err := alike(<-answers, <-answers); err != nil {
		t.Error(err)
	}
}
