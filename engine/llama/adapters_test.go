package llama

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/enginetest"
)

// adapted is SmolLM2 with adapters of these seeds, whose digests it returns.
func adapted(t testing.TB, seeds ...uint64) (Config, []string) {
	c := config(t)
	c.Adapters = t.TempDir()
	var digests []string
	for _, s := range seeds {
		digests = append(digests, enginetest.LoRA{Seed: s}.Write(t, c.Adapters))
	}
	return c, digests
}

// with asks an adapter, the base for none, and wants to know how sure it was.
func with(adapter, prompt string, tokens int) *engine.Request {
	r := ask(prompt, tokens)
	r.Model.Adapter = adapter
	r.Sampling.IgnoreEOS, r.Sampling.Logprobs, r.Sampling.TopLogprobs = true, true, 20
	return r
}

// alone is what an engine that does nothing else says.
func alone(t *testing.T, c Config, r *engine.Request) []engine.Logprob {
	t.Helper()
	e := open(t, c)
	defer e.Close()
	return answer(t, e, r).Choices[0].Logprobs
}

// TestAdaptersInTurn: base, A, base, B are each what they are in a context of their own, to the last bit.
func TestAdaptersInTurn(t *testing.T) {
	c, digests := adapted(t, 1, 2)
	c.NoShare = true // nothing is left in cells: all begin at the first one
	e := open(t, c)
	for i, digest := range []string{"", digests[0], "", digests[1], digests[0]} {
		got := answer(t, e, with(digest, prompts[i], 12)).Choices[0].Logprobs
		want := alone(t, c, with(digest, prompts[i], 12))
		for j := range want {
			if got[j].Token != want[j].Token || got[j].Logprob != want[j].Logprob {
				t.Errorf("answer %d, token %d: got %q %v, alone %q %v", i, j, got[j].Token, got[j].Logprob, want[j].Token, want[j].Logprob)
				break
			}
		}
	}
	if s := e.Stats(); s.AdapterLoads != 2 || s.Adapters != 2 || s.Changes != 4 {
		t.Errorf("want 2 loads and 4 changes: %+v", s)
	}
}

// TestAdaptersTogether: requests of the base and of two adapters, mixed, are each answered by their own.
func TestAdaptersTogether(t *testing.T) {
	c, digests := adapted(t, 1, 2)
	kinds := []string{"", digests[0], digests[1]}
	e := open(t, c)
	const n = 12
	request := func(i int) *engine.Request { return with(kinds[i%3], prompts[i/3], 8) }
	got := atOnce(t, e, n, request)
	turns := e.Stats()
	alone := make([][]engine.Logprob, n)
	for i := range alone {
		alone[i] = answer(t, e, request(i)).Choices[0].Logprobs
	}
	told := 0
	for i := range got {
		if err := adapterDiffers(alone[i], got[i].Choices[0].Logprobs); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
		if adapterDiffers(alone[i], alone[i/3*3+(i+1)%3]) != nil {
			told++
		}
	}
	if told < n/2 {
		t.Errorf("%d of %d answers can't be told from another adapter's: this test shows nothing", n-told, n)
	}
	if turns.AdapterLoads != 2 || turns.Changes < 2 {
		t.Errorf("%+v", turns)
	}
}

// TestParkedAnswers: who gave its slot to others goes on where it was.
func TestParkedAnswers(t *testing.T) {
	c, digests := adapted(t, 1, 2, 3)
	c.Slots = 4
	e := open(t, c)
	request := func(i int) *engine.Request { return with(digests[i%3], prompts[i/3], 16) }
	got := atOnce(t, e, 12, func(i int) *engine.Request {
		for i > 2 && e.Stats().Drawn < 4 { // the first of each adapter draw
			time.Sleep(time.Millisecond)
		}
		return request(i)
	})
	if s := e.Stats(); s.Parked == 0 || s.Preempted > 0 {
		t.Errorf("nobody was parked, this test shows nothing: %+v", s)
	}
	for i := range got {
		if err := adapterDiffers(answer(t, e, request(i)).Choices[0].Logprobs, got[i].Choices[0].Logprobs); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

// rounding is how much less or more likely a token may be for all the roundings of a call that others share. It is some
// tenths in nearly all cases.
const rounding = 2.0

// adapterDiffers says how two answers differ by more than rounding. They are the same up to where another token was drawn; even
// that must have been about as likely.
func adapterDiffers(want, got []engine.Logprob) error {
	for i, w := range want {
		g := got[i]
		j := slices.IndexFunc(w.Top, func(x engine.Logprob) bool { return x.Token == g.Token })
		if j < 0 || math.Abs(w.Top[j].Logprob-g.Logprob) > rounding {
			return fmt.Errorf("token %d is %q with %.3f, want %q with %.3f", i, g.Token, g.Logprob, w.Token, w.Logprob)
		}
		if w.Token != g.Token {
			return nil
		}
	}
	return nil
}

// TestAdapterFiles: what is wrong with an adapter fails the request that asks for it, in words that help; the engine
// goes on.
func TestAdapterFiles(t *testing.T) {
	c, good := adapted(t, 1)
	c.AdapterBytes = 2 << 20 // of one of rank 8, not of rank 16
	e := open(t, c)
	put := func(file []byte) string {
		digest := fmt.Sprintf("%064x", rand.Uint64())
		if err := os.WriteFile(filepath.Join(c.Adapters, digest), file, 0o600); err != nil {
			t.Fatal(err)
		}
		return digest
	}
	file := enginetest.LoRA{}.File(t)
	base, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		digest string
		class  engine.Class
		want   string
	}{
		"absent":          {strings.Repeat("0", 64), engine.NotFound, "is not in"},
		"a path":          {"../../etc/passwd", engine.NotFound, "no digest"},
		"empty":           {put(nil), engine.Invalid, ""},
		"text":            {put([]byte(strings.Repeat("hello", 20))), engine.Invalid, ""},
		"cut short":       {put(file[:len(file)/2]), engine.Invalid, ""},
		"a model":         {put(base[:1<<20]), engine.Invalid, ""},
		"of another base": {enginetest.LoRA{Width: 640}.Write(t, c.Adapters), engine.Invalid, "another base"},
		"of another kind": {enginetest.LoRA{Arch: "qwen2"}.Write(t, c.Adapters), engine.Invalid, "qwen2"},
		"of more layers":  {enginetest.LoRA{Layers: 31}.Write(t, c.Adapters), engine.Invalid, "does not have"},
		"too large":       {enginetest.LoRA{Rank: 16}.Write(t, c.Adapters), engine.Invalid, "adapter_memory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Run(t.Context(), with(x.digest, prompts[0], 2), nil)
			if !errors.Is(err, &engine.Error{Class: x.class}) || !strings.Contains(err.Error(), x.want) {
				t.Errorf("got %v, want %s %q", err, x.class, x.want)
			}
		})
	}
	if got := answer(t, e, with(good[0], prompts[0], 2)); got.Usage.CompletionTokens != 2 {
		t.Errorf("%+v", got)
	}
	none := open(t, config(t))
	if _, err := none.Run(t.Context(), with(good[0], prompts[0], 2), nil); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("without a folder: %v", err)
	}
}

// TestManyAdapters: twelve adapters take turns in the room of three, and each answers the same again.
func TestManyAdapters(t *testing.T) {
	c, digests := adapted(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	c.AdapterBytes, c.Pinned = 6<<20, digests[:1]
	e := open(t, c)
	request := func(i int) *engine.Request { return with(digests[i%12], prompts[0], 6) }
	got := atOnce(t, e, 24, request)
	told := 0
	for i := range 12 {
		first := got[i].Choices[0].Logprobs
		if err := adapterDiffers(first, got[i+12].Choices[0].Logprobs); err != nil {
			t.Errorf("adapter %d: %v", i, err)
		}
		if adapterDiffers(first, got[(i+1)%12].Choices[0].Logprobs) != nil {
			told++
		}
	}
	if told < 6 {
		t.Errorf("only %d adapters can be told from the next: this test shows nothing", told)
	}
	before := e.Stats()
	answer(t, e, request(0))
	if s := e.Stats(); s.AdapterBytes > 6<<20 || s.Evicted < 9 || s.AdapterLoads != before.AdapterLoads {
		t.Errorf("%+v", s)
	}
}

// TestWideAdapters: an adapter of a small rank answers as its file says when it is given a larger one, and leaves no file
// behind. One that would take too much of the memory for adapters stays as it is.
func TestWideAdapters(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	c, digests := adapted(t, 1)
	var answers [][]engine.Logprob
	for _, widen := range []bool{false, true} {
		e := open(t, c)
		e.adapters.widen = widen
		answers = append(answers, answer(t, e, with(digests[0], prompts[0], 24)).Choices[0].Logprobs)
		a := e.adapters.keep(digests[0], nil)
		if want := map[bool]int64{true: 4}[widen]; a.wider != want || a.bytes != max(1, want)*30*8*(576+576+576+192)*4 {
			t.Errorf("it is %d times as wide, and takes %d bytes", a.wider, a.bytes)
		}
	}
	if err := adapterDiffers(answers[0], answers[1]); err != nil || math.Abs(answers[0][0].Logprob-answers[1][0].Logprob) > 0.01 {
		t.Errorf("the wide one answers otherwise: %v; first %v, want %v", err, answers[1][0].Logprob, answers[0][0].Logprob)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	c.AdapterBytes = 8 << 20
	e := open(t, c)
	e.adapters.widen = true
	answer(t, e, with(digests[0], prompts[0], 1))
	if a := e.adapters.keep(digests[0], nil); a.wider != 0 {
		t.Errorf("%d bytes of %d are made %d times as many", a.bytes, c.AdapterBytes, a.wider)
	}
}
