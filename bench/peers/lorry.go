package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lorry/engine"
	"lorry/engine/child"
	"lorry/engine/llama"
)

// answer is what came of a request.
type answer struct {
	text   string
	tokens int
	at     []time.Time // of each piece, where they were asked for
}

// side is one of those that are compared.
type side interface {
	// run answers one request, in pieces where they are wanted.
	run(ctx context.Context, r request, pieces bool) (answer, error)
	name() string
	// command is what was started, as a shell would take it.
	command() string
	close()
}

// ours is an engine of Lorry's: in a process of its own, or in this one.
type ours struct {
	engine.Engine
	shown    string
	model    engine.Model
	adapters []string // digests
}

// base stands for the model's digest: which it is does not matter here.
var base = strings.Repeat("0", 64)

// startOurs starts lorry-engine, with the folder of all adapters where a workload has any.
func startOurs(ctx context.Context, o *options, file string, adapters int) (*ours, error) {
	exe, err := filepath.Abs(filepath.Join(o.root, "lorry-engine"))
	if err != nil {
		return nil, err
	}
	args := []string{"--lib", o.lib, "--model", file, "--name", "m", "--slots", strconv.Itoa(o.slots), "--threads", strconv.Itoa(o.threads),
		"--context", strconv.Itoa(o.context)}
	if adapters > 0 {
		args = append(args, "--adapters", o.dir)
	}
	args = append(args, strings.Fields(o.engine)...)
	e, err := child.Start(ctx, child.Config{Path: exe, Args: append(args, "--base", base)})
	if err != nil {
		return nil, fmt.Errorf("%w (make build brings lorry-engine)", err)
	}
	return &ours{e, shell("lorry-engine", args), engine.Model{Name: "m", Base: base}, o.adapters}, nil
}

// startInside loads llama.cpp into this process: what the pipe costs is the difference.
func startInside(o *options, file string) (*ours, error) {
	e, err := llama.Open(llama.Config{Lib: o.lib, File: file, Model: engine.Model{Name: "m", Base: base}, Slots: o.slots, Threads: o.threads, Context: o.context})
	if err != nil {
		return nil, err
	}
	return &ours{e, "engine/llama in this process", engine.Model{Name: "m", Base: base}, nil}, nil
}

func (s *ours) name() string    { return "Lorry" }
func (s *ours) command() string { return s.shown }
func (s *ours) close()          { _ = s.Close() }

func (s *ours) run(ctx context.Context, r request, pieces bool) (a answer, err error) {
	q := &engine.Request{Kind: engine.Text, Model: s.model, Tokens: r.prompt,
		Sampling: engine.Sampling{TopP: 1, N: 1, MaxTokens: r.tokens, IgnoreEOS: r.schema == nil}}
	if len(r.prompt) == 0 {
		q.Prompt = r.text
	}
	if r.adapter > 0 {
		q.Model.Adapter = s.adapters[r.adapter-1]
	}
	if r.schema != nil {
		q.ResponseFormat, err = json.Marshal(map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "f", "strict": true, "schema": r.schema}})
		if err != nil {
			return a, err
		}
	}
	var emit func(engine.Chunk)
	if pieces {
		emit = func(engine.Chunk) { a.at = append(a.at, time.Now()) }
	}
	c, err := s.Run(ctx, q, emit)
	if err != nil {
		return a, err
	}
	a.text, a.tokens = c.Choices[0].Text, c.Usage.CompletionTokens
	if n := c.Usage.PromptTokens; len(r.prompt) > 0 && n != len(r.prompt) {
		err = fmt.Errorf("lorry-engine took a prompt of %d tokens, not of %d", n, len(r.prompt))
	}
	return a, err
}

// shell is a command as one would type it, where its files are: those of a comparison are gone when it ends.
func shell(name string, args []string) string {
	words := []string{name}
	for _, a := range args {
		files := strings.Split(a, ",")
		for i, f := range files {
			if filepath.IsAbs(f) {
				files[i] = filepath.Base(f)
			}
		}
		words = append(words, strings.Join(files, ","))
	}
	return strings.Join(words, " ")
}
