package producer

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lorry/engine"
	"lorry/queue"
)

// say makes the token messages of an attempt, a chunk a word.
func say(words ...string) (out []queue.TokenMessage) {
	for i, w := range words {
		out = append(out, queue.TokenMessage{V: 1, Seq: i, Chunk: engine.Chunk{Text: w, Logprobs: []engine.Logprob{{Token: w}}}})
	}
	return out
}

func tokenMessage(seq int, c engine.Chunk) queue.TokenMessage {
	return queue.TokenMessage{V: 1, Seq: seq, Chunk: c}
}

func whole(words ...string) *engine.Completion {
	c := engine.Choice{Text: strings.Join(words, ""), Finish: engine.FinishStop}
	for _, w := range words {
		c.Logprobs = append(c.Logprobs, engine.Logprob{Token: w})
	}
	return &engine.Completion{Choices: []engine.Choice{c}}
}

// play hands hints to a relay and returns what was sent: the text, and the tokens of the logprobs.
func play(r *relay, a attempt, ms []queue.TokenMessage) (text, tokens string, err error) {
	for _, m := range ms {
		c, any, err := r.hint(a, m)
		if err != nil {
			return text, tokens, err
		}
		if any {
			text += c.Text
			tokens += joined(c.Logprobs)
		}
	}
	return text, tokens, nil
}

func joined(ls []engine.Logprob) (s string) {
	for _, l := range ls {
		s += l.Token
	}
	return s
}

func TestRelayRepeatsNothing(t *testing.T) {
	r := newRelay(1)
	one, lp1, err := play(r, attempt{1, 0}, say("a", "b", "c"))
	two, lp2, err2 := play(r, attempt{2, 0}, say("a", "bcd", "e"))
	old, _, err3 := play(r, attempt{1, 0}, say("x"))
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	if one != "abc" || two != "de" || old != "" || lp1 != "abc" || lp2 != "" {
		t.Errorf("sent %q, %q, %q (%q, %q)", one, two, old, lp1, lp2)
	}
}

func TestRelayDiverges(t *testing.T) {
	r := newRelay(1)
	_, _, _ = play(r, attempt{1, 0}, say("a", "b"))
	if _, _, err := play(r, attempt{1, 1}, say("a", "x")); !errors.Is(err, errDiverged) {
		t.Errorf("another answer: %v", err)
	}
	r = newRelay(1)
	_, _, _ = play(r, attempt{1, 0}, say("a", "b"))
	if _, err := r.rest(whole("a", "c")); !errors.Is(err, errDiverged) {
		t.Errorf("another verdict: %v", err)
	}
}

func TestParseAttempt(t *testing.T) {
	for s, want := range map[string]attempt{"1": {1, 0}, "2-3": {2, 3}, "12-0": {12, 0}} {
		if got, ok := parseAttempt(s); !ok || got != want {
			t.Errorf("%s: %v %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "x", "1-", "-", "1-x"} {
		if _, ok := parseAttempt(s); ok {
			t.Errorf("%q was taken", s)
		}
	}
}

// Whatever hints are lost or come twice, over whatever attempts, what leaves is the verdict, no more and no less.
func TestRelaySendsTheVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-c]{1,3}`), 0, 12).Draw(t, "words")
		r := newRelay(1)
		text, tokens := "", ""
		for a := range rapid.IntRange(0, 3).Draw(t, "attempts") {
			ms := say(words...)
			ms = ms[:rapid.IntRange(0, len(ms)).Draw(t, "crash at")]
			var heard []queue.TokenMessage
			for _, m := range ms {
				for range rapid.SampledFrom([]int{1, 1, 1, 0, 2}).Draw(t, "copies") {
					heard = append(heard, m)
				}
			}
			x, y, err := play(r, attempt{a + 1, 0}, heard)
			if err != nil {
				t.Fatal(err)
			}
			text, tokens = text+x, tokens+y
		}
		rest, err := r.rest(whole(words...))
		if err != nil {
			t.Fatal(err)
		}
		text, tokens = text+rest[0].Text, tokens+joined(rest[0].Logprobs)
		if want := strings.Join(words, ""); text != want || tokens != want {
			t.Fatalf("sent %q (logprobs of %q), the answer is %q", text, tokens, want)
		}
	})
}
