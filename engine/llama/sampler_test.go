package llama

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"lorry/engine"
)

var nan = float32(math.NaN())

func TestArgmax(t *testing.T) {
	for name, c := range map[string]struct {
		row  []float32
		want int32
	}{
		"largest":       {[]float32{1, 3, 2}, 1},
		"first of ties": {[]float32{0, 5, 5}, 1},
		"skips NaN":     {[]float32{nan, -7, nan}, 1},
		"none":          {[]float32{nan, negInf}, -1},
		"infinite":      {[]float32{1, -negInf}, -1},
		"empty":         {nil, -1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := argmax(c.row); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func draws(s engine.Sampling, row []float32, eog []int32, n int) map[int32]int {
	p := newSampler(s, 0, []int32{3})
	got := map[int32]int{}
	for i := range n {
		id, ok := p.next(row, i, eog)
		if !ok {
			id = -1
		}
		got[id]++
	}
	return got
}

// TestSupport checks which tokens can be drawn at all.
func TestSupport(t *testing.T) {
	row := []float32{4, 3.9, 3.8, 3.7, -40, 4.1} // the last one ends the text
	eog := []int32{5}
	for name, c := range map[string]struct {
		s    engine.Sampling
		want []int32
	}{
		"greedy":           {engine.Sampling{}, []int32{5}},
		"temperature":      {engine.Sampling{Temperature: 1, TopP: 1}, []int32{0, 1, 2, 3, 5}},
		"cold":             {engine.Sampling{Temperature: 1e-6, TopP: 1}, []int32{5}},
		"top-k":            {engine.Sampling{Temperature: 2, TopP: 1, TopK: 2}, []int32{0, 5}},
		"top-k over all":   {engine.Sampling{Temperature: 1, TopP: 1, TopK: 100}, []int32{0, 1, 2, 3, 5}},
		"top-p":            {engine.Sampling{Temperature: 1, TopP: 0.4}, []int32{0, 5}},
		"top-p, tiny":      {engine.Sampling{Temperature: 1, TopP: 1e-9}, []int32{5}},
		"top-k over bans":  {engine.Sampling{Temperature: 2, TopP: 1, TopK: 6, LogitBias: map[int32]float64{0: -100, 1: -100}}, []int32{2, 3, 5}},
		"min-p":            {engine.Sampling{Temperature: 1, TopP: 1, MinP: 0.8}, []int32{0, 1, 5}},
		"ignore the end":   {engine.Sampling{IgnoreEOS: true}, []int32{0}},
		"least tokens":     {engine.Sampling{MinTokens: 1000}, []int32{0}},
		"ban":              {engine.Sampling{LogitBias: map[int32]float64{5: -100}}, []int32{0}},
		"favour":           {engine.Sampling{LogitBias: map[int32]float64{4: 100}}, []int32{4}},
		"all banned":       {engine.Sampling{LogitBias: map[int32]float64{0: -100, 1: -100, 2: -100, 3: -100, 4: -100, 5: -100}}, []int32{-1}},
		"presence":         {engine.Sampling{PresencePenalty: 0.15}, []int32{0, 5}},
		"repeat, answer":   {engine.Sampling{RepeatPenalty: 1.04}, []int32{0, 5}},
		"repeat, prompt":   {engine.Sampling{RepeatPenalty: 2, IgnoreEOS: true}, []int32{0, 1, 2}},
		"negative penalty": {engine.Sampling{FrequencyPenalty: -2}, []int32{5}},
	} {
		t.Run(name, func(t *testing.T) {
			got := draws(c.s, row, eog, 400)
			for id := range int32(6) {
				if _, ok := got[id]; ok != slices.Contains(c.want, id) {
					t.Errorf("drawn %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestFrequencyPenaltyTakesTurns(t *testing.T) {
	got := draws(engine.Sampling{FrequencyPenalty: 1}, []float32{1, 1, 1, 1}, nil, 40)
	for id, n := range got {
		if n != 10 {
			t.Errorf("token %d came %d times of 40, want 10", id, n)
		}
	}
}

// TestShares compares what is drawn with the distribution: by chi-squared, with fixed seeds.
func TestShares(t *testing.T) {
	row := []float32{0, 1, 2, -1, 0.5}
	total := 0.0
	for _, x := range row {
		total += math.Exp(float64(x) / 0.8)
	}
	const n = 20000
	got := draws(engine.Sampling{Temperature: 0.8, TopP: 1, Seed: 11}, row, nil, n)
	chi := 0.0
	for id, x := range row {
		want := n * math.Exp(float64(x)/0.8) / total
		chi += math.Pow(float64(got[int32(id)])-want, 2) / want
	}
	if chi > 18.5 { // 4 degrees of freedom, one in a thousand
		t.Errorf("chi squared is %.1f over %v", chi, got)
	}
}

// TestHeads compares the selected heads with a whole sort, on rows with many equal weights too.
func TestHeads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sorted := func(c []candidate) []candidate { return slices.SortedFunc(slices.Values(c), heavier) }
	for range 200 {
		c := make([]candidate, 1+r.IntN(500))
		for i := range c {
			c[i] = candidate{int32(i), math.Exp(-float64(r.IntN(20)))}
		}
		whole := sorted(c)
		k, p := 1+r.IntN(len(c)), r.Float64()
		if got := topK(slices.Clone(c), k); !slices.Equal(sorted(got), whole[:k]) {
			t.Fatalf("top %d of %d differ", k, len(c))
		}
		got := sorted(topP(slices.Clone(c), p))
		if !slices.Equal(got, whole[:len(got)]) || sum(got) < p*sum(whole)-1e-9 || sum(got[:len(got)-1]) > p*sum(whole)+1e-9 {
			t.Fatalf("top share %v is %d of %d", p, len(got), len(c))
		}
	}
}

func TestExp(t *testing.T) {
	for x := 0.0; x > faint; x -= 0.0137 {
		if got, want := exp(x), math.Exp(x); math.Abs(got/want-1) > 1e-9 {
			t.Fatalf("exp(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestSameDrawEverywhere(t *testing.T) {
	row := make([]float32, 1000)
	for i := range row {
		row[i] = float32(i % 17)
	}
	s := engine.Sampling{Temperature: 1, TopP: 0.9, Seed: 5}
	var want []int32
	p := newSampler(s, 2, nil)
	for i := range 20 {
		id, _ := p.next(row, i, nil)
		want = append(want, id)
	}
	s.Seed = 7 // answer 2 of seed 5
	q := newSampler(s, 0, nil)
	for i := range want {
		if id, _ := q.next(row, i, nil); id != want[i] {
			t.Fatalf("draw %d is %d, want %d", i, id, want[i])
		}
	}
}

// TestUniformGolden freezes the generator: another one would change every seeded answer.
func TestUniformGolden(t *testing.T) {
	for _, c := range []struct {
		seed, index uint64
		want        float64
	}{
		{0, 0, 0.65244848637403219}, {1, 0, 0.36818951565166946}, {1, 1, 0.94356423086485441},
		{math.MaxUint64, 9, 0.88006667746120315},
	} {
		if got := uniform(c.seed, c.index); got != c.want {
			t.Errorf("uniform(%d, %d) = %.17g, want %.17g", c.seed, c.index, got, c.want)
		}
	}
}

func TestLogprobs(t *testing.T) {
	row := []float32{1, 2, 3, 3}
	own, best := logprobs(row, 0, 3)
	total := math.Log(math.Exp(1) + math.Exp(2) + 2*math.Exp(3))
	if math.Abs(own-(1-total)) > 1e-9 {
		t.Errorf("got %v, want %v", own, 1-total)
	}
	var ids []int32
	for _, c := range best {
		ids = append(ids, c.id)
		if math.Abs(c.weight-(float64(row[c.id])-total)) > 1e-9 {
			t.Errorf("token %d has %v", c.id, c.weight)
		}
	}
	if !slices.Equal(ids, []int32{2, 3, 1}) {
		t.Errorf("the likeliest are %v", ids)
	}
	if _, best := logprobs(row, 0, 20); len(best) != len(row) {
		t.Errorf("got %d of 4 tokens", len(best))
	}
}

func BenchmarkSampler(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 4))
	row := make([]float32, 49152)
	for i := range row {
		row[i] = float32(r.NormFloat64() * 3)
	}
	for name, s := range map[string]engine.Sampling{
		"greedy": {}, "temperature": {Temperature: 1, TopP: 1}, "top-p": {Temperature: 1, TopP: 0.9},
		"top-k":   {Temperature: 1, TopP: 1, TopK: 40},
		"penalty": {FrequencyPenalty: 0.5},
	} {
		b.Run(name, func(b *testing.B) {
			p := newSampler(s, 0, nil)
			for i := 0; b.Loop(); i++ {
				p.next(row, i, nil)
			}
		})
	}
	b.Run("logprobs", func(b *testing.B) {
		for b.Loop() {
			logprobs(row, 7, 20)
		}
	})
}
