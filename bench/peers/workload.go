package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// request is one piece of work, the same for both sides.
type request struct {
	prompt  []int32
	text    string          // in place of prompt
	tokens  int             // to make; fewer where a schema ends the answer
	schema  json.RawMessage // of the answer; nil: free text, and its end is ignored
	adapter int             // 1 is the first one; 0: the base alone
}

// workload is requests that are all there at once, as a queue has them. They are new ones in each round, so that nothing
// of the round before helps.
type workload struct {
	name     string
	goal     float64 // ours ÷ theirs
	adapters int
	n        int // requests of a round, as many as it takes to tell the sides apart
	requests func(round, n int) []request
	// settings of llama-server that may suit it, beside the plain ones.
	settings []string
}

// Lengths in tokens: the issue's.
const (
	promptLength, answerLength = 200, 32
	shortLength, longLength    = 16, 128
	tailLength, adaptedLength  = 8, 64
)

const unified = "-kvu"

// workloads is the table. vocab is the model's number of tokens.
func workloads(vocab int) []workload {
	words := func(seed, n int) []int32 { return words(vocab, seed, n) }
	beginAlike := func(groups int) func(round, n int) []request {
		return func(round, n int) (out []request) {
			order := rand.New(rand.NewPCG(uint64(round), 0)).Perm(n)
			for i := range n {
				begin := words(round*1000+order[i]%groups, promptLength)
				out = append(out, request{prompt: append(begin, words(round*1000+500+i, tailLength)...), tokens: answerLength})
			}
			return out
		}
	}
	adapted := func(adapters int) func(round, n int) []request {
		return func(round, n int) (out []request) {
			for i := range n {
				out = append(out, request{prompt: words(round*1000+i, adaptedLength), tokens: answerLength, adapter: 1 + i%adapters})
			}
			return out
		}
	}
	return []workload{
		{name: "unique prompts", goal: 1, n: 16, settings: []string{unified}, requests: func(round, n int) (out []request) {
			for i := range n {
				out = append(out, request{prompt: words(round*1000+i, promptLength), tokens: answerLength})
			}
			return out
		}},
		{name: "one shared beginning", goal: 1.5, n: 32, settings: []string{unified}, requests: beginAlike(1)},
		{name: "8 beginnings, shuffled", goal: 2, n: 32, settings: []string{unified}, requests: beginAlike(8)},
		{name: "2 adapters, interleaved", goal: 3, n: 16, adapters: 2, settings: []string{unified}, requests: adapted(2)},
		{name: "8 adapters, interleaved", goal: 3, n: 16, adapters: 8, settings: []string{unified}, requests: adapted(8)},
		{name: "short in, long out", goal: 1, n: 8, settings: []string{unified}, requests: func(round, n int) (out []request) {
			for i := range n {
				out = append(out, request{prompt: words(round*1000+i, shortLength), tokens: longLength})
			}
			return out
		}},
		{name: "JSON by a schema", goal: 1, n: 16, settings: []string{unified}, requests: forms},
	}
}

// words is n ordinary tokens that differ by seed from the first on.
func words(vocab, seed, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(1000 + (seed*7919+i*104729)%(vocab-2000))
	}
	return ids
}

// form bounds all that a model without much sense might go on with for ever.
var form = json.RawMessage(`{"type":"object","properties":{"name":{"type":"string","maxLength":24},"city":{"type":"string","maxLength":24},` +
	`"age":{"type":"integer","minimum":1,"maximum":120},"kind":{"enum":["customer","supplier","carrier"]},` +
	`"tags":{"type":"array","items":{"type":"string","maxLength":12},"minItems":1,"maxItems":3}},` +
	`"required":["name","city","age","kind","tags"],"additionalProperties":false}`)

func forms(round, n int) (out []request) {
	cities := []string{"Lisbon", "Oslo", "Nairobi", "Lima", "Hanoi", "Quebec", "Turin", "Perth"}
	for i := range n {
		text := fmt.Sprintf("Person %d of list %d lives in %s and is %d years old. Write this person's record as JSON with name, city, age, kind and tags.\n",
			i, round, cities[i%len(cities)], 20+i)
		out = append(out, request{text: text, tokens: 96, schema: form})
	}
	return out
}
