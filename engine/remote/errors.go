package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"lorry/engine"
)

// failure is a request that failed, and whether and when it may be sent again.
type failure struct {
	err   *engine.Error
	again bool
	after time.Duration // what the server asked for; 0: nothing
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// classOf is empty for no error.
func classOf(err error) engine.Class {
	if err == nil {
		return ""
	}
	return engine.AsError(err).Class
}

// do sends a request. What comes back is a success, with its body to be closed.
func (e *Engine) do(req *http.Request) (*http.Response, error) {
	if e.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+e.cfg.Key)
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, e.away(req, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, e.refused(req, resp, raw)
}

// away is a server that can't be reached.
func (e *Engine) away(req *http.Request, err error) error {
	hint := ": is the server running?"
	if errors.Is(err, context.DeadlineExceeded) {
		hint = ": it does not answer in time"
	}
	return &failure{again: true, err: engine.Errorf(engine.Unavailable, "", "", "engine/remote: %s %s: %s%s",
		req.Method, req.URL.Redacted(), e.hush(cause(err)), hint)}
}

// cause is err without the method and URL that http puts before it.
func cause(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

// hush takes the key out of a text that others will read.
func (e *Engine) hush(s string) string {
	if e.cfg.Key == "" {
		return s
	}
	return strings.ReplaceAll(s, e.cfg.Key, "***")
}

// refused makes an error of an answer that is no success.
func (e *Engine) refused(req *http.Request, resp *http.Response, raw []byte) error {
	se := readError(raw)
	se.Message = e.hush(cmp.Or(se.Message, http.StatusText(resp.StatusCode)))
	f := &failure{err: se.class(resp.StatusCode)}
	if f.err.Class == engine.Invalid {
		return f // the client's own words about its own request
	}
	f.err.Message = fmt.Sprintf("engine/remote: %s %s: %d: %s", req.Method, req.URL.Redacted(), resp.StatusCode, f.err.Message)
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		f.err.Message += ": is the key right?"
	case s/100 == 3:
		f.err.Message += ": it redirects to " + resp.Header.Get("Location") + ": is the URL right?"
	case f.err.Class == engine.Unavailable:
		f.again, f.after = true, retryAfter(resp.Header, time.Now())
	}
	return f
}

// serverError is an error's text in the shapes that servers give it: {"error": {"message", "type", "param", "code"}}
// with a code that is a text or a number, {"error": "text", "error_type"} (TGI), {"message", "type", "code"} (old
// vLLM, SGLang), {"detail"} (FastAPI), or no JSON at all.
type serverError struct {
	Message string
	Type    string
	Param   string
	Code    string
}

func readError(raw []byte) serverError {
	var outer struct {
		Error     json.RawMessage `json:"error"`
		ErrorType string          `json:"error_type"`
		Detail    json.RawMessage `json:"detail"`
	}
	text := strings.TrimSpace(string(raw[:min(len(raw), 500)]))
	if json.Unmarshal(raw, &outer) != nil {
		return serverError{Message: strings.ToValidUTF8(text, "")}
	}
	if s := jsonText(outer.Error); s != "" && outer.Error[0] == '"' {
		return serverError{Message: s, Type: outer.ErrorType}
	}
	inner := outer.Error
	if len(inner) == 0 {
		inner = raw
	}
	se := readErrorObject(inner)
	se.Message = cmp.Or(se.Message, jsonText(outer.Detail), text)
	return se
}

func readErrorObject(raw []byte) serverError {
	var o struct {
		Message, Type, Param, Code json.RawMessage
	}
	json.Unmarshal(raw, &o) // what can't be read is empty
	return serverError{jsonText(o.Message), jsonText(o.Type), jsonText(o.Param), jsonText(o.Code)}
}

// jsonText is a string's value, a number's digits, nothing for null, and anything else as it stands.
func jsonText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(bytes.TrimSpace(raw))
}

// tooLong is how servers say that a prompt does not fit: OpenAI and vLLM, llama-server, SGLang, TGI.
var tooLong = regexp.MustCompile(`(?i)context_length|exceed_context_size|maximum context length|context (size|length|window)|longer than the model|must have less than \d+ tokens|must be <= \d+\. Given`)

// class sorts an error by its status. The server's text, field and code go with it.
func (se serverError) class(status int) *engine.Error {
	out := &engine.Error{Message: se.Message, Param: se.Param, Class: engine.Unavailable}
	if _, err := strconv.Atoi(se.Code); err != nil {
		out.Code = se.Code
	}
	switch {
	case status == http.StatusNotFound:
		out.Class, out.Code = engine.NotFound, cmp.Or(out.Code, engine.CodeModelNotFound)
	case status == http.StatusNotImplemented:
		out.Class, out.Code = engine.Invalid, cmp.Or(out.Code, engine.CodeUnsupported)
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500, status < 400,
		status == http.StatusUnauthorized, status == http.StatusForbidden: // not the request's fault
	default:
		out.Class = engine.Invalid
		if tooLong.MatchString(se.Code + " " + se.Type + " " + se.Message) {
			out.Code = engine.CodeContextLength
		}
	}
	return out
}

// kinds are the statuses that an error's type or code stands for, where it came without one.
var kinds = []struct {
	word   string
	status int
}{
	{"context", 400}, {"invalid", 400}, {"badrequest", 400}, {"validation", 422}, {"not_found", 404},
	{"overloaded", 503}, {"unavailable", 503}, {"rate_limit", 429},
}

// midway makes an error of one that came in a stream, or in an answer that began as a success.
func (se serverError) midway() *failure {
	status, _ := strconv.Atoi(se.Code)
	for _, k := range kinds {
		if status < 400 && strings.Contains(strings.ToLower(se.Type+" "+se.Code), k.word) {
			status = k.status
		}
	}
	if status < 400 {
		return &failure{err: engine.Errorf(engine.Internal, se.Code, se.Param, "%s", se.Message)}
	}
	f := &failure{err: se.class(status)}
	f.again = f.err.Class == engine.Unavailable
	return f
}

// broken is an answer that came to no end: the server, or the way to it, went down.
func broken(format string, args ...any) error {
	return &failure{again: true, err: engine.Errorf(engine.Unavailable, "", "", "engine/remote: "+format, args...)}
}

const (
	maxBackoff = 8 * time.Second
	// maxAfter is the longest wait that a server may ask for; beyond that the job is better off elsewhere.
	maxAfter = 30 * time.Second
)

// retry calls try until it succeeds, fails for good, or was called often enough. try says whether it may be repeated:
// not when a piece of the answer was passed on.
func (e *Engine) retry(ctx context.Context, try func() (clean bool, err error)) error {
	for n := 0; ; n++ {
		clean, err := try()
		var f *failure
		if err == nil || ctx.Err() != nil || !clean || !errors.As(err, &f) || !f.again || n >= e.cfg.Retries || f.after > maxAfter {
			return err
		}
		timer := time.NewTimer(cmp.Or(f.after, backoff(e.cfg.Backoff, n)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// backoff is the wait before retry n, from 0: doubled, bounded, and spread so that many clients do not come together.
func backoff(first time.Duration, n int) time.Duration {
	d := min(first<<min(n, 16), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// retryAfter reads the server's wish, in milliseconds, seconds, or as a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return clampSeconds(ms / 1000)
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 {
		return clampSeconds(s)
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

func clampSeconds(s float64) time.Duration { return time.Duration(min(s, 1e6) * float64(time.Second)) }
