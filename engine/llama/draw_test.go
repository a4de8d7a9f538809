package llama

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"lorry/engine"
)

// rowsOf is sequences that draw, each by other rules, and a row of logits for each.
func rowsOf(n, size int, rules ...engine.Sampling) (draws []drawn) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range n {
		row := make([]float32, size)
		for id := range row {
			row[id] = float32(r.NormFloat64() * 3)
		}
		s := rules[i%len(rules)]
		s.Seed = uint64(i)
		draws = append(draws, drawn{seq: &sequence{sampler: newSampler(s, 0, []int32{3})}, row: row})
	}
	return draws
}

func drawLoop(goroutines, size int) *loop {
	return &loop{vocab: &vocab{size: size, pieces: slices.Repeat([][]byte{{'x'}}, size)}, scratch: scratches(goroutines)}
}

// TestDrawsAreTheSame has many goroutines draw what one does.
func TestDrawsAreTheSame(t *testing.T) {
	rules := []engine.Sampling{
		{}, {Temperature: 1, TopP: 1}, {Temperature: 0.7, TopP: 0.9}, {Temperature: 1, TopP: 1, TopK: 40}, {FrequencyPenalty: 0.5},
		{Temperature: 1, TopP: 1, RepeatPenalty: 1.3, MinP: 0.01}, {LogitBias: map[int32]float64{1: 5}, Logprobs: true, TopLogprobs: 3},
	}
	var want [][]drawn
	for _, goroutines := range []int{1, 2, 5, 16} {
		l := drawLoop(goroutines, 500)
		draws := rowsOf(14, 500, rules...)
		draws[4].row = nil
		for token := range 20 {
			l.draw(draws)
			for i := range draws {
				draws[i].seq.drawn++
			}
			if goroutines == 1 {
				want = append(want, slices.Clone(draws))
			}
			for i, d := range draws {
				w := want[token][i]
				if d.id != w.id || d.ok != w.ok || d.ok != (i != 4) || fmt.Sprint(d.logprob) != fmt.Sprint(w.logprob) {
					t.Fatalf("%d goroutines draw %d for token %d of answer %d, where one draws %d", goroutines, d.id, token, i, w.id)
				}
			}
		}
	}
}

// BenchmarkDraw is a step's draws for 64 answers, by one goroutine and by as many as there are processors.
func BenchmarkDraw(b *testing.B) {
	for _, size := range []int{49152, 128256} {
		for name, s := range map[string]engine.Sampling{"greedy": {}, "top-p": {Temperature: 1, TopP: 0.9}} {
			draws := rowsOf(64, size, s)
			for _, goroutines := range slices.Compact([]int{1, min(drawers, runtime.GOMAXPROCS(0))}) {
				b.Run(fmt.Sprintf("%d/%s/%d", size, name, goroutines), func(b *testing.B) {
					l := drawLoop(goroutines, size)
					for b.Loop() {
						l.draw(draws)
					}
				})
			}
		}
	}
}
