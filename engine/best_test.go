package engine

import (
	"context"
	"errors"
	"testing"
)

func TestBest(t *testing.T) {
	r := &Request{Kind: Text, Sampling: Sampling{N: 2, BestOf: 4, Temperature: 1}}
	var asked *Request
	run := func(_ context.Context, q *Request, _ func(Chunk)) (*Completion, error) {
		asked = q
		c := &Completion{Usage: Usage{CompletionTokens: 7}}
		for _, l := range [][]float64{{-2, -2}, {-1, -1, -1}, {}, {-0.5}} {
			x := Choice{}
			for _, p := range l {
				x.Text += "x"
				x.Logprobs = append(x.Logprobs, Logprob{Token: "x", Logprob: p})
			}
			c.Choices = append(c.Choices, x)
		}
		return c, nil
	}
	c, err := Best(t.Context(), r, run)
	if err != nil || len(c.Choices) != 2 || c.Choices[0].Text != "x" || c.Choices[1].Text != "xxx" || c.Choices[0].Logprobs != nil || c.Usage.CompletionTokens != 7 {
		t.Errorf("got %+v, %v", c, err)
	}
	if asked.Sampling.N != 4 || asked.Sampling.BestOf != 0 || !asked.Sampling.Logprobs || r.Sampling.N != 2 {
		t.Errorf("asked for %+v", asked.Sampling)
	}
	r.Sampling.Logprobs = true
	if c, _ := Best(t.Context(), r, run); len(c.Choices[1].Logprobs) != 3 {
		t.Errorf("got %+v", c)
	}
	why := errors.New("no")
	if _, err := Best(t.Context(), r, func(context.Context, *Request, func(Chunk)) (*Completion, error) { return nil, why }); err != why {
		t.Errorf("got %v", err)
	}
}
