package llama

import (
	"strings"
	"testing"
	"unicode/utf8"

	"lorry/engine"
)

func TestText(t *testing.T) {
	for name, c := range map[string]struct {
		stops   []string
		tokens  []string
		want    []string // what each token releases
		flushed string
		stopped bool
	}{
		"plain":               {nil, []string{"Hel", "lo"}, []string{"Hel", "lo"}, "", false},
		"split character":     {nil, []string{"a\xf0\x9f", "\x99\x82b"}, []string{"a", "🙂b"}, "", false},
		"broken character":    {nil, []string{"a\xf0\x9f", "b"}, []string{"a", "\uFFFDb"}, "", false},
		"unfinished at end":   {nil, []string{"a\xe6\x97"}, []string{"a"}, "\uFFFD", false},
		"lone bytes":          {nil, []string{"\x80", "\xff"}, []string{"\uFFFD", "\uFFFD"}, "", false},
		"stop in a token":     {[]string{"END"}, []string{"a END b"}, []string{"a "}, "", true},
		"stop over tokens":    {[]string{"END"}, []string{"a E", "N", "D b"}, []string{"a ", "", ""}, "", true},
		"false alarm":         {[]string{"END"}, []string{"a E", "N", "T"}, []string{"a ", "", "ENT"}, "", false},
		"held at the end":     {[]string{"END"}, []string{"a EN"}, []string{"a "}, "EN", false},
		"first of two stops":  {[]string{"yz", "bc"}, []string{"abcyz"}, []string{"a"}, "", true},
		"stop within stop":    {[]string{"abcd", "bc"}, []string{"ab", "cd"}, []string{"", ""}, "", true},
		"self-overlapping":    {[]string{"aab"}, []string{"aa", "a", "b"}, []string{"", "a", ""}, "", true},
		"stop of characters":  {[]string{"日本"}, []string{"x\xe6\x97", "\xa5", "\xe6\x9c\xac"}, []string{"x", "", ""}, "", true},
		"like a stop, is not": {[]string{"日本"}, []string{"日", "月"}, []string{"", "日月"}, "", false},
		"empty tokens":        {[]string{"x"}, []string{"", "a", ""}, []string{"", "a", ""}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			x := text{stops: c.stops}
			stopped := false
			for i, token := range c.tokens {
				var p piece
				if p, stopped = x.push([]byte(token), nil); p.text != c.want[i] {
					t.Errorf("token %d released %q, want %q", i, p.text, c.want[i])
				}
			}
			if stopped != c.stopped {
				t.Errorf("stopped: %v, want %v", stopped, c.stopped)
			}
			if got := x.flush().text; got != c.flushed {
				t.Errorf("flushed %q, want %q", got, c.flushed)
			}
		})
	}
}

// TestTextThrough: what an answer ends with may be a part of it, and come in pieces.
func TestTextThrough(t *testing.T) {
	for name, c := range map[string]struct {
		stops  []string
		tokens []string
		want   string
		at     int // the token that ends it, -1: none
	}{
		"in one":        {nil, []string{"a", "b</c> d"}, "ab</c>", 1},
		"in pieces":     {nil, []string{"a<", "/c", ">", "d"}, "a</c>", 2},
		"not it":        {nil, []string{"a<", "/d>"}, "a</d>", -1},
		"a stop before": {[]string{"b"}, []string{"ab</c>"}, "a", 0},
		"a stop behind": {[]string{"d"}, []string{"a</c>d"}, "a</c>", 0},
	} {
		x, at := text{stops: c.stops, through: "</c>"}, -1
		for i, token := range c.tokens {
			if _, stopped := x.push([]byte(token), nil); stopped && at < 0 {
				at = i
				break
			}
		}
		if at < 0 {
			x.flush()
		}
		if got := x.done.String(); got != c.want || at != c.at {
			t.Errorf("%s: %q at %d, want %q at %d", name, got, at, c.want, c.at)
		}
	}
}

// TestTextLogprobs checks that a token's log-probability leaves with the last of its bytes, and that those of a stop
// string are cut with it.
func TestTextLogprobs(t *testing.T) {
	x := text{stops: []string{"END"}}
	var got []int
	for _, token := range []string{"a", " E", "N", "x", "EN", "D"} {
		p, _ := x.push([]byte(token), &engine.Logprob{Token: token})
		got = append(got, len(p.logprobs))
	}
	for i, want := range []int{1, 0, 0, 3, 0, 0} {
		if got[i] != want {
			t.Errorf("token %d released %d log-probabilities, want %d", i, got[i], want)
		}
	}
	if len(x.logs) != 4 {
		t.Errorf("kept %d, want 4", len(x.logs))
	}
}

// FuzzText cuts any bytes into any tokens: what is released must be whole characters, the same as if it had come in
// one token, and never hold a stop string.
func FuzzText(f *testing.F) {
	f.Add([]byte("a END b"), "END", uint8(1))
	f.Add([]byte("日本\xf0\x9f\x99"), "本", uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, stop string, step uint8) {
		if stop == "" || !utf8.ValidString(stop) || !utf8.Valid(b) {
			t.Skip("no request holds such a stop string, and broken text is replaced token by token")
		}
		x := text{stops: []string{stop}}
		n := int(step%7) + 1
		stopped := false
		for rest := b; len(rest) > 0 && !stopped; rest = rest[min(n, len(rest)):] {
			var p piece
			if p, stopped = x.push(rest[:min(n, len(rest))], nil); !utf8.ValidString(p.text) {
				t.Fatalf("released %q", p.text)
			}
		}
		if !stopped {
			x.flush()
		}
		want, _, found := strings.Cut(string(b), stop)
		if got := x.done.String(); got != want || stopped != found {
			t.Fatalf("got %q (stopped %v), want %q (%v)", got, stopped, want, found)
		}
	})
}
