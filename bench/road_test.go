package bench

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/child"
)

// roadPrompts are answered in each round, roadTokens tokens each.
const roadPrompts, roadTokens, roadSlots = 64, 48, 8

// BenchmarkRoad: tokens a second through the whole road (HTTP, JetStream, worker, RESULTS, Redis) against the engine
// alone in its process, on the same prompts, slots and threads.
func BenchmarkRoad(b *testing.B) {
	u := startUp(b, "llama", "LORRY_LOG_LEVEL=warn", "LORRY_SLOTS=8", "LORRY_THREADS=1")
	alone := startEngine(b)
	for b.Loop() {
		var ratios, ours, theirs []float64
		for round := range rounds {
			e := alone.round(b, round)
			r := u.tokens(b, round)
			b.Logf("round %d: engine alone %.1f tokens/s, whole road %.1f, ratio %.3f", round, e, r, r/e)
			ratios, ours, theirs = append(ratios, r/e), append(ours, r), append(theirs, e)
		}
		b.ReportMetric(median(ratios), "road/engine")
		b.ReportMetric(median(ours), "road-tok/s")
		b.ReportMetric(median(theirs), "engine-tok/s")
		b.ReportMetric(0, "ns/op")
	}
}

func (u *up) tokens(b *testing.B, round int) float64 {
	b.Helper()
	done := make([]int, roadPrompts)
	start := time.Now()
	err := each(roadPrompts, roadPrompts, func(i int) error {
		out, err := u.post("/v1/completions", map[string]any{"model": "smollm2", "prompt": prompt(round*1000+i, 30), "max_tokens": roadTokens,
			"temperature": 0, "ignore_eos": true}, "x-lorry-cache", "bypass")
		var body struct {
			Usage struct {
				Completion int `json:"completion_tokens"`
			}
		}
		if err == nil {
			err = json.Unmarshal(out, &body)
		}
		done[i] = body.Usage.Completion
		return err
	})
	return rate(b, done, start, err)
}

func rate(b *testing.B, tokens []int, start time.Time, err error) float64 {
	b.Helper()
	took := time.Since(start).Seconds()
	if err != nil {
		b.Fatal(err)
	}
	sum := 0
	for _, n := range tokens {
		sum += n
	}
	return float64(sum) / took
}

type engineAlone struct {
	engine.Engine
	model engine.Model
}

func startEngine(b *testing.B) *engineAlone {
	b.Helper()
	exe, err := filepath.Abs("../lorry-engine")
	if err != nil {
		b.Fatal(err)
	}
	runtime := os.Getenv("LORRY_RUNTIME")
	if runtime == "" {
		runtime = filepath.Join(filepath.Dir(exe), "runtime")
	}
	base := strings.Repeat("0", 64)
	e, err := child.Start(b.Context(), child.Config{Path: exe, Args: []string{"--lib", filepath.Join(runtime, "lib"),
		"--model", filepath.Join(runtime, "models", "smollm2.gguf"), "--name", "smollm2", "--base", base, "--slots", "8", "--threads", "1"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return &engineAlone{e, engine.Model{Name: "smollm2", Base: base}}
}

func (e *engineAlone) round(b *testing.B, round int) float64 {
	b.Helper()
	done := make([]int, roadPrompts)
	start := time.Now()
	err := each(roadPrompts, roadSlots, func(i int) error {
		c, err := e.Run(context.Background(), &engine.Request{ID: "b", Kind: engine.Text, Model: e.model, Prompt: prompt(round*1000+i, 30),
			Sampling: engine.Sampling{TopP: 1, N: 1, MaxTokens: roadTokens, IgnoreEOS: true}}, nil)
		if err == nil {
			done[i] = c.Usage.CompletionTokens
		}
		return err
	})
	return rate(b, done, start, err)
}
