package remote

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"http://Host:8000":            "http://host:8000",
		"http://host:8000/v1":         "http://host:8000",
		"HTTPS://host:443/openai/v1/": "https://host/openai",
		"http://host:80/":             "http://host",
		"http://[::1]:80/v1":          "http://[::1]",
		"http://host/av1":             "http://host/av1",
	} {
		if got, err := parseAddress(in); err != nil || got.root != want {
			t.Errorf("%s: got %q, %v, want %q", in, got.root, err, want)
		}
	}
}

func collect(r io.Reader) (out []event, err error) {
	for e, err := range events(r) {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

func TestEvents(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []event
	}{
		"one":           {"data: a\n\n", []event{{"a", false}}},
		"no space":      {"data:a\n\n", []event{{"a", false}}},
		"carriage":      {"data: a\r\n\r\ndata: b\r\n\r\n", []event{{"a", false}, {"b", false}}},
		"two lines":     {"data: a\ndata: b\n\n", []event{{"a\nb", false}}},
		"comments":      {": hello\n\n:\n\ndata: a\n: more\n\n", []event{{"a", false}}},
		"other fields":  {"id: 1\nretry: 2\n\nevent: x\ndata: a\n\n", []event{{"a", false}}},
		"a mark":        {"\uFEFFdata: a\n\n", []event{{"a", false}}},
		"an error":      {"event: error\ndata: a\n\ndata: b\n\n", []event{{"a", true}, {"b", false}}},
		"error's field": {"error: a\n\n", []event{{"a", true}}},
		"empty data":    {"data:\n\n", []event{{"", false}}},
		"broken off":    {"data: a\n\ndata: b\n", []event{{"a", false}}},
		"blank lines":   {"\n\n\ndata: a\n\n\n\n", []event{{"a", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := collect(strings.NewReader(c.in))
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzEvents(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "event: error\r\ndata: {}\r\n\r\n", ": x\n\ndata\n\n", "data: [DONE]\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		whole, err := collect(strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if bytes, err := collect(iotest.OneByteReader(strings.NewReader(in))); err != nil || !slices.Equal(whole, bytes) {
			t.Errorf("read at once %+v, by bytes %+v, %v", whole, bytes, err)
		}
	})
}

// FuzzReadError: whatever a server says, its text is kept and nothing breaks.
func FuzzReadError(f *testing.F) {
	for _, s := range []string{`{"error":{"message":"a","code":400}}`, `{"error":"a"}`, `{"detail":[]}`, `<html>`, `{"error":null}`, `[]`} {
		f.Add([]byte(s), 400)
	}
	f.Fuzz(func(t *testing.T, raw []byte, status int) {
		se := readError(raw)
		se.class(status)
		se.midway()
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		header, value string
		want          time.Duration
	}{
		"seconds":      {"Retry-After", "2", 2 * time.Second},
		"milliseconds": {"Retry-After-Ms", "250", 250 * time.Millisecond},
		"a date":       {"Retry-After", "Fri, 02 Jan 2026 03:04:15 GMT", 10 * time.Second},
		"past":         {"Retry-After", "Fri, 02 Jan 2026 03:04:00 GMT", 0},
		"nonsense":     {"Retry-After", "soon", 0},
		"negative":     {"Retry-After", "-1", 0},
		"for ever":     {"Retry-After", "1e300", 1e6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := retryAfter(http.Header{c.header: {c.value}}, now); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for n, most := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 3: maxBackoff, 60: maxBackoff} {
		if got := backoff(time.Second, n); got < most/2 || got > most {
			t.Errorf("retry %d: got %v, want %v to %v", n, got, most/2, most)
		}
	}
}
