package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine/enginetest"
)

// TestAdapters: a base, an adapter of the command line and one that was pushed answer 60 requests, mixed, each as it
// does alone.
func TestAdapters(t *testing.T) {
	dir := t.TempDir()
	poet := filepath.Join(dir, enginetest.LoRA{Seed: 1}.Write(t, dir))
	clerk := filepath.Join(dir, enginetest.LoRA{Seed: 2}.Write(t, dir))
	b := up(t, map[string]string{"LORRY_THREADS": "1"}, "--adapter", "poet="+poet+",base=smollm2")
	push := start(t, "lorry model push", built(t, "lorry"), []string{"model", "push", "clerk", "--adapter", clerk, "--base", "smollm2", "--data", b.data}, nil)
	finished(t, push)
	refusedByCheck(t, b)
	c := &client{urls: func() string { return b.run.HTTP }}
	models := []string{"smollm2", "poet", "clerk"}
	prompts := []string{"The capital of France is", "Once upon a time", "The three primary colours are", "In the year 1969,"}
	ask := func(ctx context.Context, i int) ([]token, error) {
		return c.tokens(ctx, map[string]any{"model": models[i%3], "max_tokens": 4, "temperature": 0, "logprobs": true, "top_logprobs": 20,
			"messages": []any{map[string]any{"role": "user", "content": prompts[i/3%4]}}})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	alone := make([][]token, 12)
	for i := range alone {
		var err error
		if alone[i], err = ask(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			got, err := ask(ctx, i)
			if err == nil {
				err = alike(alone[i%12], got)
			}
			if err != nil {
				t.Errorf("request %d to %s: %v", i, models[i%3], err)
			}
		})
	}
	wg.Wait()
	told := 0
	for i := range alone {
		if alike(alone[i], alone[i/3*3+(i+1)%3]) != nil {
			told++
		}
	}
	if told < 6 {
		t.Errorf("only %d of 12 answers can be told from another adapter's: this test shows nothing", told)
	}
	b.stop()
}

// refusedByCheck pushes an adapter whose head is good, and whose numbers are none: the process that tries it says so, and
// the engine at work does not hear of it.
func refusedByCheck(t *testing.T, b *box) {
	t.Helper()
	file := enginetest.LoRA{}.File(t)
	binary.LittleEndian.PutUint32(file[len(file)-64:], math.Float32bits(float32(math.NaN())))
	path := filepath.Join(t.TempDir(), "broken.gguf")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	before := b.children("lorry-engine")
	push := start(t, "lorry model push", built(t, "lorry"), []string{"model", "push", "broken", "--adapter", path, "--base", "smollm2", "--data", b.data}, nil)
	<-push.done
	if push.err == nil || !strings.Contains(push.said.String(), "infinite or none") {
		t.Errorf("%v: %s", push.err, push.said.String())
	}
	if after := b.children("lorry-engine"); !slices.Equal(before, after) {
		t.Errorf("engines were %v, and are %v", before, after)
	}
}

// token is one of an answer, with the likeliest others.
type token struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Top     []token `json:"top_logprobs"`
}

// tokens asks for a chat's answer, past the cache.
func (c *client) tokens(ctx context.Context, body map[string]any) ([]token, error) {
	a, err := c.do(ctx, "POST", "/v1/chat/completions", body, "x-lorry-cache", "bypass")
	if err != nil {
		return nil, err
	}
	var v struct {
		Choices []struct {
			Logprobs struct {
				Content []token `json:"content"`
			} `json:"logprobs"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(a.body, &v); err != nil || a.status != 200 || len(v.Choices) != 1 {
		return nil, fmt.Errorf("%d %s", a.status, a.body)
	}
	return v.Choices[0].Logprobs.Content, nil
}

// rounding is how much less or more likely a token may be for all the roundings of a call that others share. It is some
// tenths in nearly all cases.
const rounding = 2.0

// alike says how two answers differ by more than rounding: they are the same up to where another token was drawn, which
// must have been about as likely.
func alike(want, got []token) error {
	for i, w := range want {
		if i >= len(got) {
			return nil // its end was drawn, which has no logprob
		}
		g := got[i]
		likely := math.Inf(-1)
		for _, x := range w.Top {
			if x.Token == g.Token {
				likely = x.Logprob
			}
		}
		if math.Abs(likely-g.Logprob) > rounding {
			return fmt.Errorf("token %d is %q with %.3f, want %q with %.3f", i, g.Token, g.Logprob, w.Token, w.Logprob)
		}
		if w.Token != g.Token {
			return nil
		}
	}
	return nil
}
