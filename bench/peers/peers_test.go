package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Both sides get the same work, new in each round, and of the lengths that the table promises.
func TestWorkloads(t *testing.T) {
	for _, w := range workloads(49152) {
		t.Run(w.name, func(t *testing.T) {
			first, again, next := w.requests(1, w.n), w.requests(1, w.n), w.requests(2, w.n)
			if len(first) != w.n || w.n < 8 {
				t.Fatalf("%d requests of %d", len(first), w.n)
			}
			adapters := map[int]bool{}
			for i, r := range first {
				if r.text != again[i].text || !slices.Equal(r.prompt, again[i].prompt) {
					t.Errorf("request %d differs between two calls", i)
				}
				if r.text == next[i].text && slices.Equal(r.prompt, next[i].prompt) {
					t.Errorf("request %d is the same in the next round", i)
				}
				if r.tokens < 1 || r.text == "" && len(r.prompt) == 0 || slices.ContainsFunc(r.prompt, func(id int32) bool { return id < 1000 || id >= 49152 }) {
					t.Errorf("request %d: %+v", i, r)
				}
				adapters[r.adapter] = true
			}
			if w.adapters > 0 && (len(adapters) != w.adapters || adapters[0]) {
				t.Errorf("adapters %v, want 1 to %d", adapters, w.adapters)
			}
		})
	}
}

func TestGroupsAreShuffled(t *testing.T) {
	for _, w := range workloads(49152) {
		if !strings.HasPrefix(w.name, "8 beginnings") {
			continue
		}
		groups := map[int32]int{}
		var order []int32
		for _, r := range w.requests(1, w.n) {
			groups[r.prompt[0]]++
			order = append(order, r.prompt[0])
		}
		if len(groups) != 8 || groups[order[0]] != w.n/8 || slices.IsSorted(order) {
			t.Errorf("got %v in the order %v", groups, order)
		}
	}
}

// paced is a side that makes a token each tick, and slower ones while a prompt is computed.
type paced struct{ slow chan struct{} }

func (p *paced) command() string { return "paced" }
func (p *paced) close()          {}

func (p *paced) run(ctx context.Context, r request, _ bool) (a answer, err error) {
	if r.tokens == 1 { // the prompt
		close(p.slow)
		<-time.After(150 * time.Millisecond)
		return a, nil
	}
	for range r.tokens {
		tick := time.Millisecond
		select {
		case <-p.slow:
			tick = 20 * time.Millisecond
		default:
		}
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return a, context.Cause(ctx)
		}
		a.at = append(a.at, time.Now())
	}
	a.tokens = r.tokens
	return a, nil
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := pauses(t.Context(), &paced{slow: make(chan struct{})}, 49152, 0)
		if want := (gaps{calm: time.Millisecond, beside: 20 * time.Millisecond, prompt: 150 * time.Millisecond}); err != nil || g != want {
			t.Errorf("got %+v, %v", g, err)
		}
	})
}

func TestStreamIsRead(t *testing.T) {
	a, err := stream(strings.NewReader("data: {\"content\":\"a\",\"tokens_predicted\":1}\n\ndata: {\"content\":\"b\",\"tokens_predicted\":2}\n\ndata: {\"content\":\"\",\"tokens_predicted\":2,\"stop\":true}\n\n"))
	if err != nil || a.text != "ab" || a.tokens != 2 || len(a.at) != 2 {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := stream(strings.NewReader("data: {\"content\":\"a\"}\n\n")); err == nil {
		t.Error("a stream that broke off is an answer")
	}
}

func TestTable(t *testing.T) {
	r := row{Name: "unique", Goal: 1, Theirs: "llama-server -kvu"}
	for _, x := range [][2]float64{{90, 100}, {120, 100}, {110, 100}} {
		r.add(turn{x[0], []string{"a", "b"}}, turn{x[1], []string{"a", "c"}})
	}
	late := extra{Name: "pause", Goal: 2, AtMost: true, Ratios: []float64{2.5, 2.1}, Peer: []float64{8}}
	var b strings.Builder
	f := formatReport{Format: "q4_0", Workloads: []row{r, {Name: "adapters", Goal: 3, Skipped: "none yet"}}, Extras: []extra{late}}
	if err := f.print(&b, &options{slots: 8, threads: 2, context: 8192, rounds: 3}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"110.0", "1.10", "0.90–1.20", "≥ 1", "met", "3 of 6", "llama-server -kvu", "skipped: none yet", "≤ 2", "missed", "(ratio 8.00)"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
