package child

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
)

var update = flag.Bool("update", false, "write the golden files anew")

// everyMessage has each kind once, with its parts.
func everyMessage() []*message {
	r := &engine.Request{
		ID: "job_01", Kind: engine.Chat, Model: engine.Model{Name: "smollm2", Base: "ab", Adapter: "cd"}, Scope: "default",
		Messages: json.RawMessage(`[{"role":"user","content":"1 < 2 & é"}]`),
		Sampling: engine.Sampling{Temperature: 0.5, TopP: 1, Seed: math.MaxUint64, Stop: []string{"\n"}, N: 1, LogitBias: map[int32]float64{7: -100}},
	}
	logprobs := []engine.Logprob{{Token: "hi", Logprob: -0.25, Bytes: []byte("hi")}}
	resume := &engine.Resume{
		Choices: []engine.Partial{{Tokens: []int32{1, 20}, Logprobs: logprobs}, {}},
		Usage:   engine.Usage{PromptTokens: 3, CompletionTokens: 2, ResumedTokens: 1, EngineSeconds: 0.5},
	}
	return []*message{
		{Kind: kindReady, Beats: true},
		{Kind: kindFatal, Error: &engine.Error{Class: engine.Internal, Message: "model.gguf is corrupt"}},
		{Kind: kindInfo, N: 1},
		{Kind: kindInfo, N: 1, Info: &engine.Info{Models: []engine.ModelInfo{{Model: engine.Model{Name: "smollm2"}, Context: 8192}}, Slots: 8, Device: "cpu", Version: "llama.cpp"}},
		{Kind: kindLook, N: 1},
		{Kind: kindLook, N: 1, Look: &engine.Snapshot{Slots: 8, Running: []engine.Sequence{{ID: "job_01", Scope: "default", Prompt: 3, Drawn: 1}},
			Last: engine.Step{PromptRows: 5, AnswerRows: 2, Parts: engine.Parts{Plan: 0.25}}, Totals: engine.Totals{Steps: 1, Times: []int{1, 0}}}},
		{Kind: kindRun, N: 2, Request: r, Stream: true},
		{Kind: kindDecoding, IDs: []string{"job_01", "job_02"}},
		{Kind: kindDecoding},
		{Kind: kindBeat},
		{Kind: kindChunk, N: 2, Chunk: &engine.Chunk{Index: 1, Text: "hi", Logprobs: logprobs, Finish: engine.FinishLength}},
		{Kind: kindDone, N: 2, Completion: &engine.Completion{Choices: []engine.Choice{{Text: "hi", Finish: engine.FinishStop, Logprobs: logprobs}}, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 1}}},
		{Kind: kindError, N: 2, Error: &engine.Error{Class: engine.Invalid, Code: engine.CodeContextLength, Message: "too long", Param: "messages"}},
		{Kind: kindCancel, N: 2},
		{Kind: kindRun, N: 3, Request: &engine.Request{Kind: engine.Text, Prompt: "on", Sampling: engine.Sampling{N: 1}, Resume: resume}, Save: true},
		{Kind: kindSaved, N: 3, Resume: resume},
		{Kind: kindCancel, N: 3, HandOver: true},
		{Kind: kindInfo, N: 4, Info: &engine.Info{Slots: 8, Ahead: 8}},
		{Kind: kindRun, N: 5, Request: &engine.Request{Kind: engine.Text, Prompt: "on", Sampling: engine.Sampling{N: 1}}, Began: true},
		{Kind: kindBegan, N: 5},
	}
}

// TestGolden freezes the bytes: a change of them needs a new version, and readers of both.
func TestGolden(t *testing.T) {
	const path = "testdata/frames.v1.golden"
	var got bytes.Buffer
	for _, m := range everyMessage() {
		frame, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(frame)
	}
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %q\nwant %q", got.Bytes(), want)
	}
	in := newFrameReader(bytes.NewReader(want))
	for _, m := range everyMessage() {
		m.V = version
		if back, err := in.next(); err != nil || cmp.Diff(m, back) != "" {
			t.Errorf("%v %s", err, cmp.Diff(m, back))
		}
	}
	if _, err := in.next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func frame(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestBrokenFrames(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"empty frame":    {"\x00\x00\x00\x00", "a frame of 0 bytes"},
		"too large":      {"\xff\xff\xff\xff{}", "a frame of 4294967295 bytes"},
		"half a head":    {"\x00\x00", "unexpected EOF"},
		"half a frame":   {"\x00\x00\x00\x09{}", "broke off"},
		"no JSON":        {frame("hello"), "decode frame"},
		"no version":     {frame(`{"kind":"done","v":9}`), "speaks version 9"},
		"no completion":  {frame(`{"v":1,"kind":"done"}`), "lacks its part"},
		"no request":     {frame(`{"v":1,"kind":"run","n":1}`), "lacks its part"},
		"no chunk":       {frame(`{"v":1,"kind":"chunk","n":1}`), "lacks its part"},
		"no error":       {frame(`{"v":1,"kind":"fatal"}`), "lacks its part"},
		"previous is ok": {frame(`{"v":0,"kind":"ready"}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newFrameReader(strings.NewReader(c.in)).next()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	infinite := &message{Kind: kindChunk, Chunk: &engine.Chunk{Logprobs: []engine.Logprob{{Logprob: math.Inf(-1)}}}}
	if _, err := encode(infinite); err == nil {
		t.Error("an infinite number was encoded")
	}
	large := &message{Kind: kindRun, Request: &engine.Request{Prompt: strings.Repeat("a", maxFrame)}}
	if _, err := encode(large); !errors.Is(err, errTooLarge) {
		t.Errorf("got %v, want too large", err)
	}
}

func FuzzFrames(f *testing.F) {
	for _, m := range everyMessage() {
		b, _ := encode(m)
		f.Add(b)
	}
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newFrameReader(bytes.NewReader(b))
		for {
			m, err := in.next()
			if err != nil {
				return
			}
			if _, err := encode(m); err != nil {
				t.Fatalf("read but can't be written: %v", err)
			}
		}
	})
}
