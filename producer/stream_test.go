package producer

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/result"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what is frozen, but for IDs and times.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	for pattern, with := range map[string]string{`(job_|cmpl-)[0-9a-z]{26}`: "${1}ID", `"created":\d+`: `"created":0`} {
		got = regexp.MustCompile(pattern).ReplaceAll(got, []byte(with))
	}
	path := filepath.Join("testdata", name)
	if *update {
		ok(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s(%v; -update writes it anew)", name, got, want, err)
	}
}

// scripted is an engine that says one thing, with logprobs, in pieces.
func scripted(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	c := &engine.Completion{Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 3, CachedTokens: 1}}
	for i := range r.Sampling.N {
		var all []engine.Logprob
		for _, w := range []string{"Hé", "llo", " <b>"} {
			lp := []engine.Logprob{{Token: w, Logprob: -0.5, Top: []engine.Logprob{{Token: w, Logprob: -0.5}}}}
			if !r.Sampling.Logprobs {
				lp = nil
			}
			emit(engine.Chunk{Index: i, Text: w, Logprobs: lp})
			all = append(all, lp...)
		}
		emit(engine.Chunk{Index: i, Finish: engine.FinishLength})
		c.Choices = append(c.Choices, engine.Choice{Text: "Héllo <b>", Finish: engine.FinishLength, Logprobs: all})
	}
	return c, nil
}

// The wire is frozen: SDKs read it.
func TestStreamGoldens(t *testing.T) {
	r := setup(t, Config{})
	heard := make(chan struct{}, 1)
	r.work(func(ctx context.Context, q *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
		c, err := scripted(ctx, q, emit)
		<-heard // the verdict must not overtake the hints: they are not ordered among each other
		return c, err
	})
	for name, c := range map[string]struct {
		path, body string
		pieces     int
	}{
		"chat.sse":          {chats, chat("x", `"stream":true`), 3},
		"chat_usage.sse":    {chats, chat("x", `"stream":true,"stream_options":{"include_usage":true},"n":2`), 6},
		"chat_logprobs.sse": {chats, chat("x", `"stream":true,"logprobs":true,"top_logprobs":1`), 3},
		"text.sse":          {completions, `{"model":"echo","prompt":"x","stream":true,"stream_options":{"include_usage":true},"logprobs":1}`, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var all strings.Builder
			r.lines(c.path, c.body, func(line string) {
				all.WriteString(line + "\n")
				if strings.Contains(line, "\\u003cb\\u003e") || strings.Contains(line, "<b>") {
					if c.pieces -= 3; c.pieces == 0 {
						heard <- struct{}{}
					}
				}
			})
			golden(t, name, []byte(all.String()))
		})
	}
}

// lines streams an answer line by line.
func (r *road) lines(path, body string, f func(string)) http.Header {
	r.t.Helper()
	res, err := http.Post(r.url+path, "application/json", strings.NewReader(body))
	ok(r.t, err)
	defer res.Body.Close()
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || !strings.HasPrefix(ct, "text/event-stream") {
		r.t.Fatalf("%d %s", res.StatusCode, ct)
	}
	s := bufio.NewScanner(res.Body)
	for s.Scan() {
		f(s.Text())
	}
	ok(r.t, s.Err())
	http.DefaultClient.CloseIdleConnections()
	return res.Header
}

// text puts a chat's pieces together; it returns how the stream ended too.
func text(lines []string) (text, end string) {
	for _, l := range lines {
		data, ok := strings.CutPrefix(l, "data: ")
		if !ok {
			continue
		}
		var c struct {
			Choices []struct{ Delta struct{ Content string } }
			Error   *result.APIError
		}
		end = data
		if json.Unmarshal([]byte(data), &c) == nil && len(c.Choices) > 0 {
			text += c.Choices[0].Delta.Content
		}
	}
	return text, end
}

// The first chunk leaves before the second token is there.
func TestStreamFirstChunkAtOnce(t *testing.T) {
	r := setup(t, Config{})
	first := make(chan struct{})
	r.work(func(ctx context.Context, _ *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
		emit(engine.Chunk{Text: "one"})
		<-first
		emit(engine.Chunk{Text: " two"})
		return &engine.Completion{Choices: []engine.Choice{{Text: "one two", Finish: engine.FinishStop}}}, nil
	})
	var got []string
	r.lines(chats, chat("x", `"stream":true`), func(l string) {
		if got = append(got, l); strings.Contains(l, `"one"`) {
			close(first)
		}
	})
	if s, end := text(got); s != "one two" || end != "[DONE]" {
		t.Errorf("%q, then %q", s, end)
	}
}

// by plays a worker by hand: it takes the one job there is.
func (r *road) by(f func(j *queue.Job, end func(*result.Verdict))) {
	run(r.t, func(ctx context.Context) error {
		p := r.queue.Puller(queue.Interactive, engine.Model{Base: echo.Base}.B())
		var ls []*queue.Lease
		for len(ls) == 0 {
			var err error
			if ls, err = p.Pull(ctx, 1, time.Second); err != nil || ctx.Err() != nil {
				return err
			}
		}
		_, err := r.store.Claim(ctx, "w", time.Minute, ls)
		f(&ls[0].Jobs[0], func(v *result.Verdict) { _, _ = r.store.Settle(ctx, v); _ = ls[0].Ack() })
		return err
	})
}

func says(j *queue.Job, s string) *result.Verdict {
	v := result.For(j, queue.Succeeded, time.Now().UnixMilli())
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: s, Finish: engine.FinishStop}}}
	return v
}

func TestStreamSurvives(t *testing.T) {
	for name, c := range map[string]struct {
		do        func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict))
		text, end string
	}{
		"lost hints": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			r.token(j.ID, "1-0", 0, engine.Chunk{Text: "a"})
			r.token(j.ID, "1-0", 2, engine.Chunk{Text: "c"})
			end(says(j, "abc"))
		}, "abc", "[DONE]"},
		"no hints": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) { end(says(j, "abc")) }, "abc", "[DONE]"},
		"an attempt that repeats": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			r.token(j.ID, "1-0", 0, engine.Chunk{Text: "ab"})
			seen("ab")
			r.token(j.ID, "2-0", 0, engine.Chunk{Text: "a"})
			r.token(j.ID, "2-0", 1, engine.Chunk{Text: "bc"})
			seen(`"c"`)
			end(says(j, "abc"))
		}, "abc", "[DONE]"},
		"an attempt that differs": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			r.token(j.ID, "1-0", 0, engine.Chunk{Text: "ab"})
			seen("ab")
			r.token(j.ID, "2-0", 0, engine.Chunk{Text: "x"})
			seen("error")
			end(says(j, "x"))
		}, "ab", codeDiverged},
		"a verdict that differs": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			r.token(j.ID, "1-0", 0, engine.Chunk{Text: "ab"})
			seen("ab")
			end(says(j, "x"))
		}, "ab", codeDiverged},
		"a failure in the middle": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			r.token(j.ID, "1-0", 0, engine.Chunk{Text: "ab"})
			seen("ab")
			v := result.For(j, queue.Failed, time.Now().UnixMilli())
			v.Error = engine.Errorf(engine.Crashed, "", "", "The engine crashed.")
			end(v)
		}, "ab", "engine_crashed"},
		"garbage": {func(r *road, j *queue.Job, seen func(string), end func(*result.Verdict)) {
			_ = r.queue.Conn().Publish(queue.TokensSubject(j.ID, "x"), []byte("{"))
			r.token(j.ID, "1-0", 0, engine.Chunk{Index: 7, Text: "b"})
			end(says(j, "abc"))
		}, "abc", "[DONE]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := setup(t, Config{KeepAlive: 20 * time.Millisecond})
			lines := make(chan string, 1000)
			r.by(func(j *queue.Job, end func(*result.Verdict)) {
				c.do(r, j, func(s string) {
					for l := range lines {
						if strings.Contains(l, s) {
							return
						}
					}
				}, end)
			})
			var got []string
			r.lines(chats, chat("x", `"stream":true`), func(l string) { got = append(got, l); lines <- l })
			if s, end := text(got); s != c.text || !strings.Contains(end, c.end) {
				t.Errorf("%q, then %q", s, end)
			}
		})
	}
}

func TestStreamKeepsAlive(t *testing.T) {
	r := setup(t, Config{KeepAlive: 10 * time.Millisecond})
	quiet := make(chan struct{})
	r.by(func(j *queue.Job, end func(*result.Verdict)) { <-quiet; end(says(j, "a")) })
	beats := 0
	r.lines(chats, chat("x", `"stream":true`), func(l string) {
		if l == ": keep-alive" {
			if beats++; beats == 3 {
				close(quiet)
			}
		}
	})
}

// A tool call comes as a delta with an index.
func TestStreamToolCalls(t *testing.T) {
	r := setup(t, Config{})
	r.by(func(j *queue.Job, end func(*result.Verdict)) {
		v := says(j, "")
		v.Completion.Choices[0].Finish = engine.FinishToolCalls
		v.Completion.Choices[0].ToolCalls = json.RawMessage(`[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{}"}}]`)
		end(v)
	})
	var all strings.Builder
	r.lines(chats, chat("x", `"stream":true,"tools":[{"type":"function","function":{"name":"f"}}]`), func(l string) { all.WriteString(l + "\n") })
	golden(t, "tools.sse", []byte(all.String()))
}

// TestStreamThoughts: a thought has a field of its own, before the answer; the whole answer has it too.
func TestStreamThoughts(t *testing.T) {
	r := setup(t, Config{})
	thinks := func(j *queue.Job, end func(*result.Verdict)) {
		v := says(j, "4")
		v.Completion.Choices[0].Reasoning = "2 and 2"
		v.Completion.Usage = engine.Usage{PromptTokens: 3, CompletionTokens: 5, ReasoningTokens: 4}
		end(v)
	}
	r.by(thinks)
	var all strings.Builder
	r.lines(chats, chat("x", `"stream":true,"stream_options":{"include_usage":true}`), func(l string) { all.WriteString(l + "\n") })
	golden(t, "thoughts.sse", []byte(all.String()))
	r.by(thinks)
	v := r.post(chats, chat("y", "")).want(t, 200)
	if dig(v, "choices", 0, "message", "reasoning_content") != "2 and 2" || dig(v, "choices", 0, "message", "content") != "4" ||
		dig(v, "usage", "completion_tokens_details", "reasoning_tokens") != 4.0 {
		t.Errorf("%v", v)
	}
}
