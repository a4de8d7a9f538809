package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// request is one piece of work, the same for all sides.
type request struct {
	prompt  []int32         // nil: the text is given instead
	head    string          // the prompt's words that others may begin with as well
	text    string          // its other words
	tokens  int             // to make; fewer where a schema ends the answer
	schema  json.RawMessage // of the answer; nil: free text, and its end is ignored
	adapter int             // 1 is the first one; 0: the base alone
}

// workload is requests that are all there at once, as a queue has them. They are new ones in each round, so that nothing
// of the round before helps.
type workload struct {
	key      string // what -row takes
	name     string
	goal     float64 // ours ÷ llama-server
	adapters int
	n        int // requests of a round for usualSlots, as many as it takes to tell the sides apart
	requests func(round, n int) []request
	// What is tried before the rounds that count, and the fastest kept: llama-server's settings and those of Kronk.
	server, kronk []string
}

// usualSlots are those that the table's goals are for.
const usualSlots = 8

// Lengths in tokens: the issue's.
const (
	promptLength, answerLength = 200, 32
	shortLength, longLength    = 16, 128
	tailLength, adaptedLength  = 8, 64
)

// Settings of llama-server that are tried, beside its defaults ("") . Slots, threads, cells and flash attention are not
// among them: they are the same on all sides. With each request goes what suits it best: tokens in place of text, one
// sampler, the adapters' scales (0 for all but its own).
const (
	unified = "-kvu"                            // slots share all cells; else each has its part
	noKeep  = "--no-cache-prompt --cache-ram 0" // nothing begins alike: nothing is kept or looked for
	noHost  = "--cache-ram 0"                   // what a slot held is not copied to host memory
	noIdle  = "-kvu --no-cache-idle-slots"      // idle slots keep their cells
	smaller = "-ub 128"                         // rows of a native call: less to reserve anew at each change of adapter
	larger  = "-ub 1024"
	strict  = "-sps 0.6" // a slot is chosen for what it holds only if that is most of the prompt
	chunks  = "--cache-reuse 32"
)

// Settings of Kronk's. Calls of 2,048 tokens of a prompt are its default.
const (
	conversations = "-cache"
	shorter       = "-prefill 512"
)

// workloads is the table.
func workloads(v *vocabulary) []workload {
	plain := func(prompt, answer int) func(round, n int) []request {
		return func(round, n int) (out []request) {
			for i := range n {
				out = append(out, v.request(seed(round, i), prompt, answer))
			}
			return out
		}
	}
	return []workload{
		{key: "unique", name: "unique prompts, 200 tokens in, 32 out", goal: 1, n: 16, requests: plain(promptLength, answerLength),
			server: []string{"", unified, noKeep, larger}, kronk: []string{"", shorter}},
		{key: "shared", name: "one system prompt of 200 tokens", goal: 1.5, n: 32, requests: v.alike(1),
			server: []string{"", unified, noIdle, chunks}, kronk: []string{"", conversations}},
		{key: "groups", name: "8 system prompts, shuffled", goal: 2, n: 32, requests: v.alike(8),
			server: []string{"", unified, noIdle, strict, noHost}, kronk: []string{"", conversations}},
		{key: "adapters2", name: "2 adapters, interleaved, one system prompt of 200 tokens", goal: 3, n: 32, adapters: 2,
			requests: adapted(2, v.alike(1)), server: []string{"", unified, noKeep, smaller}, kronk: []string{""}},
		{key: "adapters8", name: "8 adapters, interleaved, one system prompt of 200 tokens", goal: 3, n: 32, adapters: 8,
			requests: adapted(8, v.alike(1)), server: []string{"", unified, noKeep, smaller}, kronk: []string{""}},
		{key: "deep8", name: "the same, 64 requests", goal: 3, n: 64, adapters: 8,
			requests: adapted(8, v.alike(1)), server: []string{"", unified, noKeep, smaller}, kronk: []string{""}},
		{key: "own2", name: "2 adapters, interleaved, unique prompts of 64 tokens", goal: 1, n: 16, adapters: 2,
			requests: adapted(2, plain(adaptedLength, answerLength)), server: []string{"", unified, noKeep, smaller}, kronk: []string{""}},
		{key: "own8", name: "8 adapters, interleaved, unique prompts of 64 tokens", goal: 1, n: 16, adapters: 8,
			requests: adapted(8, plain(adaptedLength, answerLength)), server: []string{"", unified, noKeep, smaller}, kronk: []string{""}},
		{key: "long", name: "short prompts, 128 tokens out", goal: 1, n: 8, requests: plain(shortLength, longLength),
			server: []string{"", unified, noKeep}, kronk: []string{""}},
		{key: "json", name: "answers to a JSON schema", goal: 1, n: 16, requests: forms,
			server: []string{"", unified, noKeep}, kronk: []string{"", conversations}},
	}
}

// seed tells prompts apart: by round, and within one.
func seed(round, i int) uint64 { return uint64(round)<<32 | uint64(i) }

// groupSeeds are those of beginnings; a round's own prompts have smaller ones.
const groupSeeds = 1 << 16

// alike are requests of which every so many begin alike, in no order.
func (v *vocabulary) alike(groups int) func(round, n int) []request {
	return func(round, n int) (out []request) {
		order := rand.New(rand.NewPCG(uint64(round), 0)).Perm(n)
		for i := range n {
			ids, words := v.words(seed(round, groupSeeds+order[i]%groups), promptLength)
			r := v.request(seed(round, i), tailLength, answerLength)
			r.prompt, r.head = append(ids, r.prompt...), words
			out = append(out, r)
		}
		return out
	}
}

// adapted gives each request another adapter than the one before has.
func adapted(adapters int, requests func(round, n int) []request) func(round, n int) []request {
	return func(round, n int) []request {
		out := requests(round, n)
		for i := range out {
			out[i].adapter = 1 + i%adapters
		}
		return out
	}
}

// request is one of n words.
func (v *vocabulary) request(seed uint64, n, tokens int) request {
	ids, words := v.words(seed, n)
	return request{prompt: ids, text: words, tokens: tokens}
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
