package llama

import (
	"cmp"
	"math"
	"slices"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// sampler draws the tokens of one answer. It holds no generator: the draw for token i depends on the seed and i alone,
// so an answer is the same in any batch, and after its sequence was preempted and computed again.
type sampler struct {
	engine.Sampling
	seed   uint64
	prompt map[int32]struct{} // nil unless RepeatPenalty is on
	counts map[int32]int      // tokens of the answer; nil unless a penalty is on
	// grammar is what the answer must keep to; nil lets anything through.
	grammar *grammar
	gate    *gate    // nil: grammar holds throughout
	work    *scratch // of who draws
}

// scratch is the room that samplers share which draw one after the other: some rows of the vocabulary.
type scratch struct {
	logits []float32
	cands  []candidate
	tokens []llama.TokenData
}

// candidate is a token and its weight, which is its probability before division by the sum of weights.
type candidate struct {
	id     int32
	weight float64
}

func newSampler(s engine.Sampling, choice int, prompt []int32) *sampler {
	p := &sampler{Sampling: s, seed: s.Seed + uint64(choice), work: &scratch{}}
	if p.repeats() {
		p.prompt = make(map[int32]struct{}, len(prompt))
		for _, id := range prompt {
			p.prompt[id] = struct{}{}
		}
	}
	if p.repeats() || p.FrequencyPenalty != 0 || p.PresencePenalty != 0 {
		p.counts = map[int32]int{}
	}
	return p
}

func (p *sampler) repeats() bool { return p.RepeatPenalty != 0 && p.RepeatPenalty != 1 }

// next draws token number index of the answer from a row of logits, which it leaves as it is. eog are the tokens that
// end a text. ok is false when nothing is left to draw, or the row holds no number.
func (p *sampler) next(row []float32, index int, eog []int32) (id int32, ok bool) {
	banEnd := p.IgnoreEOS || index < p.MinTokens
	if banEnd || p.counts != nil || len(p.LogitBias) > 0 {
		row = p.adjust(row, banEnd, eog)
	}
	if id = p.take(row, p.seed, index); id >= 0 && p.grammar != nil {
		id = p.gated(row, id, index)
	}
	if id < 0 {
		return 0, false
	}
	if p.counts != nil {
		p.counts[id]++
	}
	return id, true
}

func (p *sampler) take(row []float32, seed uint64, index int) int32 {
	if p.Temperature == 0 {
		return argmax(row)
	}
	return p.draw(row, uniform(seed, uint64(index)))
}

// bands are how far below the likeliest token those lie that the grammar is asked about after so many refusals; then it
// is asked about all, which takes as long as a step.
var bands = [...]float32{4, 8, 12, 16}

// fitting is the token drawn if the grammar allows it. Else the likeliest tokens that it forbids are taken out and another
// is drawn, with a number of its own: so each token that is allowed keeps its share of what they have together, whatever
// was refused before it.
func (p *sampler) fitting(row []float32, id int32, index int) int32 {
	g := p.grammar
	g.begun = threadTime()
	ceiling := float32(math.Inf(1))
	top := row[argmax(row)]
	for draw := 0; id >= 0 && !g.allows(id) && !g.slow; draw++ {
		if draw == 0 {
			p.work.logits = append(p.work.logits[:0], row...) // it may be the row already
			row = p.work.logits
		}
		floor := negInf
		if draw < len(bands) {
			floor = top - bands[draw]
		}
		row[id] = negInf
		g.prune(row, floor, ceiling, p.work)
		id, ceiling = p.take(row, p.otherSeed(draw), index), floor
	}
	if g.dead = id < 0; g.dead || g.slow {
		return -1
	}
	g.accept(id)
	return id
}

// otherSeed is the seed of another draw of the same token.
func (p *sampler) otherSeed(draw int) uint64 { return mix(p.seed ^ uint64(draw+1)<<32) }

// banned is a bias that takes a token out altogether, as OpenAI's documentation promises.
const banned = -100

// adjust is a copy of the row with biases and penalties applied.
func (p *sampler) adjust(row []float32, banEnd bool, eog []int32) []float32 {
	p.work.logits = append(p.work.logits[:0], row...)
	row = p.work.logits
	for id, bias := range p.LogitBias {
		if bias <= banned {
			row[id] = negInf
		} else {
			row[id] += float32(bias)
		}
	}
	p.penalize(row)
	if banEnd {
		for _, id := range eog {
			row[id] = negInf
		}
	}
	return row
}

func (p *sampler) penalize(row []float32) {
	if p.repeats() {
		for id := range p.prompt {
			row[id] = damp(row[id], p.RepeatPenalty)
		}
	}
	for id, n := range p.counts {
		if _, done := p.prompt[id]; p.repeats() && !done {
			row[id] = damp(row[id], p.RepeatPenalty)
		}
		row[id] -= float32(float64(n)*p.FrequencyPenalty + p.PresencePenalty)
	}
}

// damp makes a logit less likely by llama.cpp's rule.
func damp(logit float32, by float64) float32 {
	if logit > 0 {
		return float32(float64(logit) / by)
	}
	return float32(float64(logit) * by)
}

// draw takes a token at random: temperature, then top-k, top-p and min-p, each on what the one before left.
func (p *sampler) draw(row []float32, u float64) int32 {
	best := argmax(row)
	if best < 0 {
		return -1
	}
	c := p.candidates(row, row[best])
	if p.TopP > 0 && p.TopP < 1 {
		c = topP(c, p.TopP)
	}
	if p.MinP > 0 {
		c = slices.DeleteFunc(c, func(x candidate) bool { return x.weight < p.MinP }) // the likeliest weighs 1
	}
	return pick(c, u)
}

// candidates is the tokens that top-k leaves, with their weights.
func (p *sampler) candidates(row []float32, best float32) []candidate {
	if p.TopK > 0 && p.TopK <= fewK {
		return p.few(row, best)
	}
	c := p.weigh(row, best)
	if p.TopK > 0 && p.TopK < len(c) {
		c = topK(c, p.TopK)
	}
	return c
}

func (p *sampler) few(row []float32, best float32) []candidate {
	c := topLogits(row, p.TopK)
	for i := range c {
		x := (c[i].weight - float64(best)) / p.Temperature
		if x <= faint {
			return c[:i]
		}
		c[i].weight = exp(x)
	}
	return c
}

// fewK is up to which k the likeliest tokens are found by insertion: then most of the vocabulary costs a comparison.
const fewK = 128

// faint is the logarithm below which a weight is left out: e^-30, so a vocabulary of such tokens has a chance of 1e-8.
const faint = -30

// exp is e^x for x from faint to 0, to nine digits, in a third of the time of math.Exp: it runs over the vocabulary.
func exp(x float64) float64 {
	y := x * math.Log2E
	n := int(y - 0.5) // the nearest whole number, for y ≤ 0
	t := (y - float64(n)) * math.Ln2
	p := 1 + t*(1+t*(1./2+t*(1./6+t*(1./24+t*(1./120+t*(1./720+t*(1./5040+t*(1./40320))))))))
	return p * math.Float64frombits(uint64(n+1023)<<52)
}

// weigh makes candidates in the order of their ids. The likeliest token weighs 1.
func (p *sampler) weigh(row []float32, best float32) []candidate {
	c := p.work.cands[:0]
	for id, logit := range row {
		if x := float64(logit-best) / p.Temperature; x > faint {
			c = append(c, candidate{int32(id), exp(x)})
		}
	}
	p.work.cands = c
	return c
}

// heavier orders candidates by weight, then by id, so that equal weights never depend on the sort.
func heavier(a, b candidate) int {
	return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.id, b.id))
}

func topK(c []candidate, k int) []candidate {
	return head(c, float64(k), func(candidate) float64 { return 1 })
}

// topP is the smallest head of the candidates that holds the share p of all weight.
func topP(c []candidate, p float64) []candidate {
	want := p * sum(c)
	if heavy := c[:partition(c, 1e-4)]; sum(heavy) >= want { // nearly always, and that is some hundreds
		c = heavy
	}
	return head(c, want, func(x candidate) float64 { return x.weight })
}

// partition moves the candidates that weigh at least floor to the front, and counts them.
func partition(c []candidate, floor float64) int {
	n := 0
	for i, x := range c {
		if x.weight >= floor {
			c[i], c[n] = c[n], x
			n++
		}
	}
	return n
}

// head is the fewest of the heaviest candidates that are worth enough together, in no particular order but always in
// the same. It is a quickselect: a few passes over the vocabulary, where a sort would take ten times as long.
func head(c []candidate, enough float64, worth func(candidate) float64) []candidate {
	lo, hi := 0, len(c) // c[:lo] is in, c[hi:] is out
	for lo < hi {
		at := divide(c, lo, hi)
		got := 0.0
		for _, x := range c[lo:at] {
			got += worth(x)
		}
		if got >= enough {
			hi = at
			continue
		}
		if got += worth(c[at]); got >= enough {
			return c[:at+1]
		}
		lo, enough = at+1, enough-got
	}
	return c[:lo]
}

// divide puts the heavier of c[lo:hi] before one of them and the lighter behind it, and says where that one is.
func divide(c []candidate, lo, hi int) int {
	last := hi - 1
	if mid := lo + (hi-lo)/2; heavier(c[mid], c[lo]) != heavier(c[mid], c[last]) { // between the two: a good pivot
		c[mid], c[last] = c[last], c[mid]
	}
	at := lo
	for i := lo; i < last; i++ {
		if x := c[i]; x.weight > c[last].weight || x.weight == c[last].weight && x.id < c[last].id {
			c[i], c[at] = c[at], x
			at++
		}
	}
	c[at], c[last] = c[last], c[at]
	return at
}

func sum(c []candidate) (s float64) {
	for _, x := range c {
		s += x.weight
	}
	return s
}

func pick(c []candidate, u float64) int32 {
	rest := u * sum(c)
	for _, x := range c {
		if rest -= x.weight; rest < 0 {
			return x.id
		}
	}
	return c[len(c)-1].id
}

var negInf = float32(math.Inf(-1))

// argmax is the id of the largest logit, the lowest id among equals; -1 when none is a finite number. It looks at eight
// at a time, since hardly any are larger than all before them: in half the time of one by one.
func argmax(row []float32) int32 {
	best, at, i := negInf, -1, 0
	for ; i+8 <= len(row); i += 8 {
		r := row[i : i+8 : i+8]
		if !(r[0] > best || r[1] > best || r[2] > best || r[3] > best || r[4] > best || r[5] > best || r[6] > best || r[7] > best) {
			continue
		}
		for k, x := range r {
			if x > best {
				best, at = x, i+k
			}
		}
	}
	for ; i < len(row); i++ {
		if row[i] > best {
			best, at = row[i], i
		}
	}
	if math.IsInf(float64(best), 1) {
		return -1
	}
	return int32(at)
}

// uniform is draw number index of a seed, in [0, 1): SplitMix64's finalizer over both, no state.
func uniform(seed, index uint64) float64 {
	const golden = 0x9e3779b97f4a7c15
	return float64(mix(mix(seed+golden)+(index+1)*golden)>>11) / (1 << 53)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// logprobs is how likely the model itself held a token and the top others, before biases and temperature.
// It costs one exponential for each token of the vocabulary, so it is done on request only.
func logprobs(row []float32, id int32, top int) (own float64, best []candidate) {
	first := argmax(row)
	if first < 0 {
		return math.Inf(-1), nil
	}
	total := 0.0
	for _, x := range row {
		if d := float64(x - row[first]); d > faint {
			total += exp(d)
		}
	}
	norm := float64(row[first]) + math.Log(total)
	best = topLogits(row, top)
	for i := range best {
		best[i].weight -= norm
	}
	return float64(row[id]) - norm, best
}

// topLogits is the n likeliest tokens, by insertion behind a threshold: most tokens cost one comparison.
func topLogits(row []float32, n int) []candidate {
	if n == 0 {
		return nil
	}
	best := make([]candidate, 0, n+1)
	for id, x := range row {
		if !(x > negInf) || len(best) == n && float64(x) <= best[n-1].weight {
			continue
		}
		c := candidate{int32(id), float64(x)}
		at, _ := slices.BinarySearchFunc(best, c, heavier)
		best = slices.Insert(best, at, c)
		best = best[:min(n, len(best))]
	}
	return best
}
