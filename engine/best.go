package engine

import (
	"cmp"
	"context"
	"math"
	"slices"
)

// Best makes Sampling.BestOf answers with run and gives the best N. All of them count in the usage.
func Best(ctx context.Context, r *Request, run func(context.Context, *Request, func(Chunk)) (*Completion, error)) (*Completion, error) {
	many := *r
	many.Sampling.N, many.Sampling.BestOf, many.Sampling.Logprobs = r.Sampling.BestOf, 0, true
	many.Save, many.Resume = nil, nil // they are of other answers
	c, err := run(ctx, &many, nil)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(c.Choices, func(a, b Choice) int { return cmp.Compare(b.likelihood(), a.likelihood()) })
	c.Choices = c.Choices[:min(r.Sampling.N, len(c.Choices))]
	for i := range c.Choices {
		if !r.Sampling.Logprobs {
			c.Choices[i].Logprobs = nil
		}
	}
	return c, nil
}

// likelihood is the mean log-probability of a choice's tokens; an empty one is the least likely.
func (c *Choice) likelihood() float64 {
	if len(c.Logprobs) == 0 {
		return math.Inf(-1)
	}
	sum := 0.0
	for _, l := range c.Logprobs {
		sum += l.Logprob
	}
	return sum / float64(len(c.Logprobs))
}
