package producer

import (
	"cmp"
	"errors"
	"strconv"
	"strings"

	"lorry/engine"
	"lorry/queue"
)

// errDiverged is an answer that was computed again and came out otherwise than what has left already.
var errDiverged = errors.New("producer: the answer was computed again and differs from what was sent")

// relay decides what of a running answer is still to be sent, from hints that may be lost and attempts that may start
// over. The verdict is the truth: what it holds beyond the hints is the rest, and an answer that does not begin with
// what was sent is errDiverged. It has no clock and no connection.
type relay struct {
	attempt attempt
	// next is the sequence expected; lost says that one of this attempt did not come, so that the verdict has the rest.
	next    int
	lost    bool
	choices []told
}

// attempt is one try at an answer, as the token's subject names it: the claim's number, and within it how often the
// engine began anew.
type attempt struct{ claim, start int }

// parseAttempt reads "2" or "2-1".
func parseAttempt(s string) (a attempt, ok bool) {
	claim, start, parts := strings.Cut(s, "-")
	var err, err2 error
	a.claim, err = strconv.Atoi(claim)
	if parts {
		a.start, err2 = strconv.Atoi(start)
	}
	return a, err == nil && err2 == nil
}

// compare says which came first.
func (a attempt) compare(b attempt) int { return cmp.Or(a.claim-b.claim, a.start-b.start) }

// told is what was sent of one choice.
type told struct {
	text, reasoning track
	logprobs        int
	atLogpbs        int
}

// track is a text that was sent, and how far the attempt under way has come in repeating it.
type track struct {
	sent []byte
	at   int
}

// advance takes the next piece of the attempt: what repeats must be equal, what is beyond is new.
func (t *track) advance(s string) (fresh string, err error) {
	again := min(len(s), len(t.sent)-t.at)
	if s[:again] != string(t.sent[t.at:t.at+again]) {
		return "", errDiverged
	}
	t.at += len(s)
	fresh = s[again:]
	t.sent = append(t.sent, fresh...)
	return fresh, nil
}

// rest is what a whole text holds beyond what was sent.
func (t *track) rest(whole string) (string, error) {
	rest, ok := strings.CutPrefix(whole, string(t.sent))
	if !ok {
		return "", errDiverged
	}
	return rest, nil
}

func newRelay(n int) *relay { return &relay{choices: make([]told, n)} }

// hint takes a token message of an attempt and returns what is new in it.
func (r *relay) hint(a attempt, m queue.TokenMessage) (fresh engine.Chunk, any bool, err error) {
	if a.compare(r.attempt) > 0 {
		r.restart(a)
	}
	if a != r.attempt || r.lost || m.Seq < r.next || m.Chunk.Index < 0 || m.Chunk.Index >= len(r.choices) {
		return fresh, false, nil
	}
	if m.Seq > r.next {
		r.lost = true
		return fresh, false, nil
	}
	r.next++
	fresh, err = r.choices[m.Chunk.Index].advance(m.Chunk)
	return fresh, fresh.Text != "" || fresh.Reasoning != "" || len(fresh.Logprobs) > 0, err
}

func (r *relay) restart(a attempt) {
	r.attempt, r.next, r.lost = a, 0, false
	for i := range r.choices {
		r.choices[i].text.at, r.choices[i].reasoning.at, r.choices[i].atLogpbs = 0, 0, 0
	}
}

// advance takes the next piece of the attempt, and returns what is new in it.
func (t *told) advance(c engine.Chunk) (fresh engine.Chunk, err error) {
	fresh.Index = c.Index
	if fresh.Reasoning, err = t.reasoning.advance(c.Reasoning); err != nil {
		return fresh, err
	}
	if fresh.Text, err = t.text.advance(c.Text); err != nil {
		return fresh, err
	}
	fresh.Logprobs = c.Logprobs[min(len(c.Logprobs), max(0, t.logprobs-t.atLogpbs)):]
	t.atLogpbs += len(c.Logprobs)
	t.logprobs += len(fresh.Logprobs)
	return fresh, nil
}

// rest is what a completion holds beyond what was sent: for each choice its remaining text, with its finish.
func (r *relay) rest(c *engine.Completion) ([]engine.Chunk, error) {
	var out []engine.Chunk
	for i, choice := range c.Choices {
		if i >= len(r.choices) {
			break
		}
		t := &r.choices[i]
		ch := engine.Chunk{Index: i, Finish: choice.Finish}
		var err, err2 error
		ch.Reasoning, err = t.reasoning.rest(choice.Reasoning)
		if ch.Text, err2 = t.text.rest(choice.Text); err != nil || err2 != nil {
			return nil, errDiverged
		}
		ch.Logprobs = choice.Logprobs[min(t.logprobs, len(choice.Logprobs)):]
		out = append(out, ch)
	}
	return out, nil
}
