package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// vocabulary is what the sides' prompts and settings are made of, as llama-server tells it of the model.
type vocabulary struct {
	// Words with the space before them that are a token each: text of them is taken apart into the same tokens again.
	ids    []int32
	pieces []string
	// ends are the tokens that end an answer.
	ends []int32
	// grammar is what llama-server makes of the schema.
	grammar string
}

// leastWords is how many a vocabulary has at least: prompts shall not begin alike by chance.
const leastWords = 200

// words are n of them in an order that the seed decides.
func (v *vocabulary) words(seed uint64, n int) (ids []int32, text string) {
	draw := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for range n {
		i := draw.IntN(len(v.ids))
		ids = append(ids, v.ids[i])
		b.WriteString(v.pieces[i])
	}
	return ids, b.String()
}

// learn asks a running llama-server.
func learn(ctx context.Context, s *theirs, root string) (*vocabulary, error) {
	text, err := os.ReadFile(filepath.Join(root, "engine", "llama", "perplexity.txt"))
	if err != nil {
		return nil, err
	}
	var said struct {
		Tokens []struct {
			ID    int32 `json:"id"`
			Piece any   `json:"piece"` // bytes where it is no whole text
		} `json:"tokens"`
	}
	if err := s.post(ctx, "/tokenize", map[string]any{"content": string(text), "with_pieces": true}, &said); err != nil {
		return nil, err
	}
	v, seen := &vocabulary{}, map[int32]bool{}
	for _, t := range said.Tokens {
		if piece, ok := t.Piece.(string); ok && !seen[t.ID] && word.MatchString(piece) {
			seen[t.ID] = true
			v.ids, v.pieces = append(v.ids, t.ID), append(v.pieces, piece)
		}
	}
	if len(v.ids) < leastWords {
		return nil, fmt.Errorf("the model has %d of the sample's words as one token, where %d are needed", len(v.ids), leastWords)
	}
	return v, v.settings(ctx, s)
}

var word = regexp.MustCompile(`^ [a-z]{2,}$`)

// settings finds out how llama-server forces an answer's length and form, so that Kronk is made to do the same.
func (v *vocabulary) settings(ctx context.Context, s *theirs) error {
	var free, formed part
	err := errors.Join(s.post(ctx, "/completion", completion{Prompt: "a", Tokens: 1, IgnoreEOS: true}, &free),
		s.post(ctx, "/completion", completion{Prompt: "a", Tokens: 1, Schema: form}, &formed))
	for _, b := range free.Settings.Biases {
		v.ends = append(v.ends, b.Token)
	}
	if v.grammar = formed.Settings.Grammar; err == nil && (len(v.ends) == 0 || v.grammar == "") {
		err = errors.New("llama-server does not tell which tokens end an answer, or the schema's grammar")
	}
	return err
}
