package child

import (
	"fmt"
	"strings"
	"testing"
)

func lines(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

func TestTail(t *testing.T) {
	for name, c := range map[string]struct {
		writes []string
		want   string
	}{
		"nothing":         {nil, ""},
		"all of a few":    {[]string{"a\nb", "c\n", "d"}, "a\nbc\nd"},
		"the last":        {[]string{lines(1, 50)}, strings.TrimSpace(lines(11, 50))},
		"a long line":     {[]string{strings.Repeat("x", 9000), "y\nz\n"}, strings.Repeat("x", lineBytes) + "\nz"},
		"Windows' breaks": {[]string{"a\r\nb\r\n"}, "a\nb"},
		"broken UTF-8":    {[]string{"a\xff\n"}, "a\uFFFD"},
		"before a trace":  {[]string{"GGML_ASSERT failed\n", "SIGABRT: abort\n", lines(1, 500)}, "GGML_ASSERT failed\nSIGABRT: abort\n" + strings.TrimSpace(lines(1, 19))},
	} {
		t.Run(name, func(t *testing.T) {
			tail := new(tail)
			for _, w := range c.writes {
				tail.Write([]byte(w))
			}
			if got := tail.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
