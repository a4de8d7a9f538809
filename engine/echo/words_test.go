package echo

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil, " ": {" "}, "one": {"one"}, " one": {" one"}, "one ": {"one "}, "one two": {"one", " two"}, " one\n two\t ": {" one", "\n two\t "},
	} {
		all := split(text, math.MaxInt)
		if !slices.Equal(all, want) || strings.Join(all, "") != text || count(text) != len(want) {
			t.Errorf("%q: %q, and %d counted", text, all, count(text))
		}
		for most := 1; most < len(want); most++ {
			if some := split(text, most); !slices.Equal(some, want[:most]) {
				t.Errorf("%q: at most %d are %q", text, most, some)
			}
		}
	}
}
