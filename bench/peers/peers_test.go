package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lorry/engine/gguf"
)

// some is a vocabulary of so many words.
func some(n int) *vocabulary {
	v := &vocabulary{}
	for i := range n {
		v.ids, v.pieces = append(v.ids, int32(1000+i)), append(v.pieces, fmt.Sprintf(" w%d", i))
	}
	return v
}

// All sides get the same work, new in each round, and of the lengths that the table promises.
func TestWorkloads(t *testing.T) {
	for _, w := range workloads(some(500)) {
		t.Run(w.key, func(t *testing.T) {
			first, again, next := w.requests(1, w.n), w.requests(1, w.n), w.requests(2, w.n)
			if len(first) != w.n || w.n < 8 {
				t.Fatalf("%d requests of %d", len(first), w.n)
			}
			adapters := map[int]bool{}
			for i, r := range first {
				if r.head+r.text != again[i].head+again[i].text || !slices.Equal(r.prompt, again[i].prompt) {
					t.Errorf("request %d differs between two calls", i)
				}
				if r.text == next[i].text {
					t.Errorf("request %d is the same in the next round", i)
				}
				if words := strings.Fields(r.head + r.text); r.tokens < 1 || r.schema == nil && len(words) != len(r.prompt) {
					t.Errorf("request %d: %d words, %+v", i, len(words), r)
				}
				adapters[r.adapter] = true
			}
			if w.adapters > mostAdapters || w.adapters > 0 && (len(adapters) != w.adapters || adapters[0]) {
				t.Errorf("adapters %v, want 1 to %d", adapters, w.adapters)
			}
			if len(w.server) < 2 || !slices.Contains(w.server, "") || !slices.Contains(w.kronk, "") {
				t.Errorf("settings %q and %q are tried, not the defaults and others", w.server, w.kronk)
			}
		})
	}
}

func TestGroupsAreShuffled(t *testing.T) {
	groups := map[string]int{}
	var order []string
	for _, r := range some(500).alike(8)(1, 32) {
		groups[r.head]++
		order = append(order, r.head)
	}
	if len(groups) != 8 || groups[order[0]] != 4 || slices.IsSorted(order) || len(slices.Compact(order)) < 16 {
		t.Errorf("got %d groups in the order %.20q", len(groups), order)
	}
}

// paced is a side that makes a token each tick, and slower ones while a prompt is computed.
type paced struct{ slow chan struct{} }

func (p *paced) name() string    { return "paced" }
func (p *paced) command() string { return "paced" }
func (p *paced) close()          {}

func (p *paced) run(ctx context.Context, r request, _ bool) (a answer, err error) {
	if r.tokens == 1 { // the prompt
		close(p.slow)
		<-time.After(150 * time.Millisecond)
		return a, nil
	}
	for range r.tokens {
		tick := time.Millisecond
		select {
		case <-p.slow:
			tick = 20 * time.Millisecond
		default:
		}
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return a, context.Cause(ctx)
		}
		a.at = append(a.at, time.Now())
	}
	a.tokens = r.tokens
	return a, nil
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := pauses(t.Context(), &paced{slow: make(chan struct{})}, some(500), 0)
		if want := (gaps{calm: time.Millisecond, beside: 20 * time.Millisecond, prompt: 150 * time.Millisecond}); err != nil || g != want {
			t.Errorf("got %+v, %v", g, err)
		}
	})
}

// fixed is a side of so many tokens a second, if it makes as many as it was asked for.
type fixed struct {
	rate   float64
	less   int
	closed *int
}

func (f fixed) name() string    { return "fixed" }
func (f fixed) command() string { return fmt.Sprint("fixed ", f.rate) }
func (f fixed) close()          { *f.closed++ }

func (f fixed) run(_ context.Context, r request, _ bool) (answer, error) {
	<-time.After(time.Duration(float64(r.tokens) / f.rate * float64(time.Second)))
	return answer{text: "x", tokens: r.tokens - f.less}, nil
}

func TestBestSettings(t *testing.T) {
	w := workloads(some(500))[0]
	c := &contest{o: &options{slots: 2}}
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		rates   []float64
		less    int
		err     error
		want    string
		message string
		closed  int
	}{
		"the first":  {rates: []float64{9, 8, 7}, want: "fixed 9", closed: 3},
		"the last":   {rates: []float64{7, 8, 9}, want: "fixed 9", closed: 3},
		"one breaks": {rates: []float64{7, 8}, err: broken, message: "broken", closed: 2},
		"too short":  {rates: []float64{7}, less: 1, message: "made 31 tokens, not 32", closed: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed, n := 0, 0
				var settings []string
				for _, rate := range test.rates {
					settings = append(settings, fmt.Sprint("fixed ", rate))
				}
				if test.err != nil {
					settings = append(settings, "")
				}
				var out outcome
				best, err := c.best(t.Context(), w, &out, settings, func(string) (side, error) {
					if n++; n > len(test.rates) {
						return nil, test.err
					}
					return fixed{test.rates[n-1], test.less, &closed}, nil
				})
				if test.message != "" {
					if err == nil || !strings.Contains(err.Error(), test.message) || closed != test.closed {
						t.Errorf("got %v, %d closed", err, closed)
					}
					return
				}
				if err != nil || best != test.want || out.Command != test.want || len(out.Tried) != len(test.rates) || closed != test.closed {
					t.Errorf("got %v, %v, %+v, %d closed", best, err, out, closed)
				}
			})
		})
	}
}

func TestStreamIsRead(t *testing.T) {
	a, err := stream(strings.NewReader("data: {\"content\":\"a\",\"tokens_predicted\":1}\n\ndata: {\"content\":\"b\",\"tokens_predicted\":2}\n\ndata: {\"content\":\"\",\"tokens_predicted\":2,\"stop\":true}\n\n"))
	if err != nil || a.text != "ab" || a.tokens != 2 || len(a.at) != 2 {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := stream(strings.NewReader("data: {\"content\":\"a\"}\n\n")); err == nil {
		t.Error("a stream that broke off is an answer")
	}
}

// llama-server gets the whole prompt, and says how much of it it took.
func TestServerTakesTokens(t *testing.T) {
	took := 0
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			Prompt []int32 `json:"prompt"`
			Lora   []scale `json:"lora"`
		}
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || len(c.Lora) != 2 || c.Lora[0].Scale != 0 || c.Lora[1].Scale != 1 {
			t.Errorf("got %+v, %v", c, err)
		}
		_ = json.NewEncoder(w).Encode(part{Content: "x", Predicted: 4, Evaluated: took + len(c.Prompt)})
	}))
	defer fake.Close()
	s := &theirs{url: fake.URL, http: fake.Client(), adapters: 2}
	r := request{prompt: []int32{7, 8, 9}, head: "a b", text: "c", tokens: 4, adapter: 2}
	if a, err := s.run(t.Context(), r, false); err != nil || a.text != "x" || a.tokens != 4 {
		t.Errorf("got %+v, %v", a, err)
	}
	took = -2
	if _, err := s.run(t.Context(), r, false); err == nil || !strings.Contains(err.Error(), "of 1 tokens, not of 3") {
		t.Errorf("a part of the prompt was taken: %v", err)
	}
}

// Answers come in any order, and go to whom they belong.
func TestKronkAnswers(t *testing.T) {
	requests, in := io.Pipe()
	out, answers := io.Pipe()
	k := &kronk{in: in, grammar: "root ::= \"x\"", ended: make(chan struct{}), waiting: map[int]chan kronkAnswer{}}
	go k.listen(bufio.NewScanner(out))
	go func() {
		lines := bufio.NewScanner(requests)
		var asked []kronkRequest
		for len(asked) < 2 && lines.Scan() {
			var r kronkRequest
			_ = json.Unmarshal(lines.Bytes(), &r)
			asked = append(asked, r)
		}
		for _, r := range slices.Backward(asked) {
			_ = json.NewEncoder(answers).Encode(kronkAnswer{ID: r.ID, Text: r.System + r.User + r.Grammar, Prompt: 2, Tokens: r.Tokens})
		}
		_ = answers.Close()
	}()
	got := make(chan string)
	for _, r := range []request{{prompt: []int32{1, 2}, head: "a", text: "b", tokens: 7}, {text: "c", schema: form, tokens: 7}} {
		go func() {
			a, err := k.run(t.Context(), r, false)
			got <- fmt.Sprint(a.text, a.tokens, err)
		}()
	}
	all := []string{<-got, <-got}
	slices.Sort(all)
	if want := []string{"ab7 <nil>", "croot ::= \"x\"7 <nil>"}; !slices.Equal(all, want) {
		t.Errorf("got %q", all)
	}
	<-k.ended
	if _, err := (kronkAnswer{Prompt: 9}).check(request{prompt: []int32{1, 2}}); err == nil {
		t.Error("an answer to another prompt passes")
	}
}

// The copy is a model like the one before, with one more thing to heed.
func TestNeverEnding(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	numbers := binary.LittleEndian.AppendUint32(nil, 7)
	var b bytes.Buffer
	tensor := gguf.Tensor{Name: "x", Shape: [4]int64{1, 1, 1, 1}, Type: gguf.F32}
	if err := errors.Join(gguf.Write(&b, []gguf.Setting{{Key: "general.architecture", Kind: gguf.String, Value: "llama"}}, []gguf.Tensor{tensor}, func(int) []byte { return numbers }),
		os.WriteFile(from, b.Bytes(), 0o600), neverEnding(from, to, []int32{0, 2})); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := f.Setting("tokenizer.ggml.suppress_tokens")
	whole, err := os.ReadFile(to)
	if err != nil || fmt.Sprint(s.Value) != "[0 2]" || s.Items != gguf.Int32 || !bytes.HasPrefix(whole[f.Data:], numbers) {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, ok := f.Setting("general.architecture"); !ok || len(f.Tensors) != 1 {
		t.Errorf("got %+v", f.Settings)
	}
	if err := neverEnding(filepath.Join(dir, "none"), to, nil); err == nil {
		t.Error("a file that is none was copied")
	}
}

func sample() *report {
	r := row{Key: "unique", Name: "unique prompts", Goal: 1, Answers: 6}
	r.Ours.Command, r.Server.Command, r.Kronk.Missing = "lorry-engine", "llama-server -kvu", "left out"
	for _, x := range [][2]float64{{90, 100}, {120, 100}, {110, 100}} {
		mine := turn{x[0], []string{"a", "b"}}
		r.Ours.add(mine, mine)
		r.Server.add(mine, turn{x[1], []string{"a", "c"}})
	}
	pause := extra{Key: "pause", Name: "pause", Goal: 2, AtMost: true, Ratios: []float64{2.5, 2.1}, Peer: []float64{8}}
	return &report{Model: "m.gguf", Machine: "a machine", Slots: 8, Threads: 2, Context: 8192, Begun: time.Date(2026, 11, 26, 1, 2, 3, 0, time.UTC),
		Formats: []formatReport{{"q4_0", []row{{Key: "adapters2", Goal: 3, Skipped: "none fit"}, r}, []extra{pause}}}}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := sample().print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"m as Q4_0: 8 slots, 2 threads, 8192 cells on a machine, 26 November 2026", "WEIGHTS=q4_0",
		"| unique | unique prompts | 3 | 110.0 (90.0 to 120.0) | 100.0 (100.0 to 100.0) | 1.10 (0.90 to 1.20) | 1, met | — | — | 3 of 6 |",
		"`llama-server -kvu`", "no Kronk: left out", "none fit", "| 2.30 (2.10 to 2.50) | ≤ 2, missed | 8.00 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Index(b.String(), "| unique |") > strings.Index(b.String(), "| adapters2 |") {
		t.Error("the rows are not in their order")
	}
}

func TestJoin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	old := sample()
	if err := old.save(file); err != nil {
		t.Fatal(err)
	}
	same := &report{Model: old.Model, Machine: old.Machine, Slots: old.Slots, Threads: old.Threads, Context: old.Context}
	if err := same.join(file); err != nil {
		t.Fatal(err)
	}
	f := same.format("q4_0")
	f.Workloads = put(put(f.Workloads, row{Key: "unique", Name: "again"}), row{Key: "json"})
	same.Formats = put(same.Formats, f)
	var got []string
	for _, r := range same.Formats[0].Workloads {
		got = append(got, r.Key+r.Name)
	}
	if want := []string{"adapters2", "uniqueagain", "json"}; !slices.Equal(got, want) || len(same.Formats) != 1 {
		t.Errorf("got %q", got)
	}
	if err := (&report{Model: old.Model, Slots: 1}).join(file); err == nil || !strings.Contains(err.Error(), "-join") {
		t.Errorf("rows of other terms stand in one table: %v", err)
	}
	if err := same.join(file + "x"); err != nil {
		t.Errorf("the first run has nothing to join: %v", err)
	}
}

func TestFlags(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string // of the error
	}{
		"none":             {nil, ""},
		"one row":          {[]string{"-row", "unique,pause", "-weights", "q4_1"}, ""},
		"no such row":      {[]string{"-row", "uniqe"}, "-row takes unique, shared"},
		"no rounds":        {[]string{"-rounds", "0"}, "at least 1"},
		"no such format":   {[]string{"-o", "xml"}, "markdown or json"},
		"what is no flag":  {[]string{"unique"}, "no arguments"},
		"no weights":       {[]string{"-weights", ","}, "names one format"},
		"flags in between": {[]string{"-rounds", "1", "x", "-o", "json"}, "no arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parse(test.args)
			if test.want == "" && err == nil {
				if o.wants("json") != (len(test.args) == 0) || !o.wants("pause") {
					t.Errorf("got %+v", o)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
