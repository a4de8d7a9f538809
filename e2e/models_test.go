package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPushedModel: a whole model that is pushed is fetched, and served beside the one from a file, also after a restart.
// Its file is the demo's with some bytes behind it: another model by its digest, with the same answers.
func TestPushedModel(t *testing.T) {
	b := up(t, map[string]string{"LORRY_THREADS": "1"})
	file, digest := twin(t)
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

// twin is another file of the demo's model, and its digest.
func twin(t *testing.T) (path, digest string) {
	t.Helper()
	of := strings.TrimSpace(finished(t, start(t, "lorry model path", built(t, "lorry"), []string{"model", "path", "smollm2"}, nil)))
	weights, err := os.ReadFile(of)
	if err != nil {
		t.Fatal(err)
	}
	weights = append(weights, bytes.Repeat([]byte{0}, 32)...)
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
