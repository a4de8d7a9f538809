package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/child"
)

// roadPrompts are answered by each side in a round, roadTokens tokens each. Sides take turns: each is given roadBurst
// prompts at once, then the other, since a shared machine is a tenth slower or faster from one minute to the next.
const roadPrompts, roadTokens, roadBurst, roadSlots, roadThreads = 64, 48, 16, 8, 1

// BenchmarkRoad: tokens a second through the whole road (HTTP, JetStream, worker, RESULTS, Redis) against the engine
// alone in its process, on the same prompts, slots and threads. Both sides are started anew in each round: where a
// process's memory happens to lie makes it a tenth slower or faster for as long as it lives. Beside it, what no neighbour
// on the machine changes: how many steps the road's engine made for each of the other's, and how much of the road's time
// it made none.
func BenchmarkRoad(b *testing.B) {
	var spent time.Duration
	var ratios, ours, theirs []float64
	var steps, aloneSteps, busy float64
	for b.Loop() {
		for round := range rounds {
			u, alone := startRoad(b), startEngine(b)
			road, engine := takeTurns(b, round, u.burst, alone.burst)
			made, took := u.steps(b)
			steps, aloneSteps, busy, spent = steps+made, aloneSteps+alone.steps(b), busy+took, spent+road
			u.stop()
			_ = alone.Close()
			r, e := rate(road), rate(engine)
			b.Logf("round %d: engine alone %.1f tokens/s, whole road %.1f, ratio %.3f", round+1, e, r, r/e)
			ratios, ours, theirs = append(ratios, r/e), append(ours, r), append(theirs, e)
		}
	}
	b.ReportMetric(median(ratios), "road/engine")
	b.ReportMetric(median(ours), "road-tok/s")
	b.ReportMetric(median(theirs), "engine-tok/s")
	b.ReportMetric(steps/aloneSteps, "steps/steps")
	b.ReportMetric(100*(1-busy/spent.Seconds()), "idle-%")
	b.ReportMetric(0, "ns/op")
}

func startRoad(b *testing.B) *up {
	return startUp(b, "llama", "LORRY_LOG_LEVEL=warn", fmt.Sprint("LORRY_SLOTS=", roadSlots), fmt.Sprint("LORRY_THREADS=", roadThreads))
}

// takeTurns has two sides answer a round's prompts, and says how long each took. Who is first changes each time.
func takeTurns(b *testing.B, round int, ours, theirs func(*testing.B, int) time.Duration) (we, they time.Duration) {
	for burst := range roadPrompts / roadBurst {
		first := round*1000 + burst*roadBurst
		if burst%2 == 0 {
			we += ours(b, first)
		}
		they += theirs(b, first)
		if burst%2 != 0 {
			we += ours(b, first)
		}
	}
	return we, they
}

func rate(took time.Duration) float64 { return roadPrompts * roadTokens / took.Seconds() }

// answers asks for a burst's prompts at once. ask returns the length of one's answer.
func answers(b *testing.B, first int, ask func(prompt string) (tokens int, err error)) time.Duration {
	b.Helper()
	start := time.Now()
	err := each(roadBurst, roadBurst, func(i int) error {
		n, err := ask(prompt(first+i, 30))
		if err == nil && n != roadTokens {
			err = fmt.Errorf("an answer has %d tokens, want %d", n, roadTokens)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func (u *up) burst(b *testing.B, first int) time.Duration {
	b.Helper()
	return answers(b, first, func(prompt string) (int, error) {
		out, err := u.post("/v1/completions", map[string]any{"model": "smollm2", "prompt": prompt, "max_tokens": roadTokens,
			"temperature": 0, "ignore_eos": true}, "x-lorry-cache", "bypass")
		var body struct {
			Usage struct {
				Completion int `json:"completion_tokens"`
			}
		}
		if err == nil {
			err = json.Unmarshal(out, &body)
		}
		return body.Usage.Completion, err
	})
}

// steps is how many steps the engine has made for a round, and their seconds. A prompt's last row gives the first token;
// each other one takes a row of its own.
func (u *up) steps(b *testing.B) (steps, seconds float64) {
	b.Helper()
	const rows = roadPrompts * (roadTokens - 1)
	for end := time.Now().Add(time.Minute); u.metric(b, `lorry_engine_rows_total{kind="answer"`) < rows; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("the worker has not shown its engine's steps for a minute")
		}
	}
	return u.metric(b, "lorry_engine_step_seconds_count{"), u.metric(b, "lorry_engine_step_seconds_sum{")
}

// metric is the value of the line that begins so; 0 where there is none yet.
func (u *up) metric(b *testing.B, line string) (x float64) {
	b.Helper()
	r, err := u.client.Get(u.url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Body.Close()
	all, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		b.Fatalf("GET /metrics: %d %v", r.StatusCode, err)
	}
	for l := range strings.Lines(string(all)) {
		if strings.HasPrefix(l, line) {
			_, _ = fmt.Sscan(l[strings.LastIndexByte(l, ' '):], &x)
		}
	}
	return x
}

type engineAlone struct {
	*child.Engine
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
		"--model", filepath.Join(runtime, "models", "smollm2.gguf"), "--name", "smollm2", "--base", base,
		"--slots", fmt.Sprint(roadSlots), "--threads", fmt.Sprint(roadThreads)}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return &engineAlone{e, engine.Model{Name: "smollm2", Base: base}}
}

func (e *engineAlone) burst(b *testing.B, first int) time.Duration {
	b.Helper()
	return answers(b, first, func(prompt string) (int, error) {
		c, err := e.Run(context.Background(), &engine.Request{ID: "b", Kind: engine.Text, Model: e.model, Prompt: prompt,
			Sampling: engine.Sampling{TopP: 1, N: 1, MaxTokens: roadTokens, IgnoreEOS: true}}, nil)
		if err != nil {
			return 0, err
		}
		return c.Usage.CompletionTokens, nil
	})
}

func (e *engineAlone) steps(b *testing.B) float64 {
	b.Helper()
	s, err := e.Snapshot(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return float64(s.Totals.Steps)
}
