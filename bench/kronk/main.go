// Command kronk answers requests with Kronk's SDK: the third side of bench/peers, which builds and starts it.
//
// It is a module of its own, since the SDK brings two hundred others. It was made for a later llama.cpp; the versions
// that go.mod replaces are the ones that the libraries of this repository fit.
//
// Requests are JSON lines on standard input, all of them at work at once; answers are JSON lines on standard output, in
// the order in which they end. The first line out is "{}": the models are loaded.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/ardanlabs/kronk/sdk/kronk"
	"github.com/ardanlabs/kronk/sdk/kronk/model"
)

// request is a prompt in two parts, of which the first is the one that others may begin with as well.
type request struct {
	ID      int    `json:"id"`
	Adapter int    `json:"adapter"` // 1 is the first one; 0: the base alone
	System  string `json:"system"`
	User    string `json:"user"`
	Tokens  int    `json:"tokens"`  // to make
	Grammar string `json:"grammar"` // of the answer, as GBNF; empty: free text
}

type answer struct {
	ID     int    `json:"id"`
	Text   string `json:"text"`
	Prompt int    `json:"prompt"` // tokens
	Tokens int    `json:"tokens"` // made
	Error  string `json:"error,omitempty"`
}

type settings struct {
	lib, model, template            string
	adapters                        []string
	slots, threads, window, prefill int
	cache                           bool
}

func main() {
	var s settings
	flag.StringVar(&s.lib, "lib", "", "`folder` of llama.cpp's libraries, libmtmd among them")
	flag.StringVar(&s.model, "model", "", "GGUF `file`")
	flag.StringVar(&s.template, "template", "", "Jinja `file` that makes one prompt of a request's two parts")
	adapters := flag.String("adapters", "", "GGUF `files` of adapters, by commas: a model is loaded for each")
	flag.IntVar(&s.slots, "slots", 8, "sequences at the same moment, of each model")
	flag.IntVar(&s.threads, "threads", 2, "that compute, of each model")
	flag.IntVar(&s.window, "window", 1024, "cells of each slot")
	flag.IntVar(&s.prefill, "prefill", 0, "most tokens of a prompt in a call (default: the SDK's)")
	flag.BoolVar(&s.cache, "cache", false, "keep what was computed of conversations")
	flag.Parse()
	if *adapters != "" {
		s.adapters = strings.Split(*adapters, ",")
	}
	if err := serve(s, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kronk:", err)
		os.Exit(1)
	}
}

func serve(s settings, in io.Reader, out io.Writer) error {
	models, err := load(s)
	if err != nil {
		return err
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(struct{}{}); err != nil {
		return err
	}
	var writing sync.Mutex
	var all sync.WaitGroup
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		all.Go(func() {
			a := run(models[r.Adapter], r)
			writing.Lock()
			defer writing.Unlock()
			_ = answers.Encode(a) // nobody reads any more: the input ends as well
		})
	}
	all.Wait()
	return lines.Err()
}

// load loads the base, or a model for each adapter: an adapter belongs to a model for as long as it is loaded.
func load(s settings) (models map[int]*kronk.Kronk, err error) {
	if err := kronk.Init(kronk.WithLibPath(s.lib)); err != nil {
		return nil, err
	}
	models = map[int]*kronk.Kronk{}
	if len(s.adapters) == 0 {
		models[0], err = kronk.New(s.options()...)
	}
	for i, file := range s.adapters {
		if err == nil {
			models[i+1], err = kronk.New(append(s.options(), model.WithAdapters([]model.AdapterConfig{{Path: file, Scale: 1}}))...)
		}
	}
	return models, err
}

func (s settings) options() []model.Option {
	o := []model.Option{
		model.WithModelFiles([]string{s.model}), model.WithJinjaFile(s.template), model.WithNSeqMax(s.slots), model.WithContextWindow(s.window),
		model.WithNThreads(s.threads), model.WithNThreadsBatch(s.threads), model.WithIncrementalCache(s.cache),
		model.WithFlashAttention(model.FlashAttentionEnabled), model.WithNGpuLayers(-1), // none
	}
	if s.prefill > 0 {
		o = append(o, model.WithPrefillBatchSize(s.prefill))
	}
	return o
}

func run(k *kronk.Kronk, r request) answer {
	var messages []model.D
	for _, m := range [][2]string{{"system", r.System}, {"user", r.User}} {
		if m[1] != "" {
			messages = append(messages, model.D{"role": m[0], "content": m[1]})
		}
	}
	d := model.D{"messages": messages, "temperature": 0, "top_k": 1, "top_p": 1, "min_p": 0, "max_tokens": r.Tokens, "enable_thinking": false}
	if r.Grammar != "" {
		d["grammar"] = r.Grammar
	}
	c, err := k.Chat(context.Background(), d)
	a := answer{ID: r.ID}
	if err == nil && (c.Usage == nil || len(c.Choices) == 0 || c.Choices[0].Message == nil) {
		err = fmt.Errorf("an answer without a message or a usage")
	}
	if err != nil {
		a.Error = err.Error()
		return a
	}
	a.Text, a.Prompt, a.Tokens = c.Choices[0].Message.Content, c.Usage.PromptTokens, c.Usage.CompletionTokens
	return a
}
