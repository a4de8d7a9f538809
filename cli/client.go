package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client speaks to one Lorry. Its methods may be called from many goroutines.
type Client struct {
	target Target
	http   *http.Client
	// pause waits between attempts; tests shorten it.
	pause func(context.Context, time.Duration) error
}

// NewClient makes a client. Nothing is dialled yet.
func NewClient(t Target) *Client {
	t.URL = strings.TrimSuffix(strings.TrimRight(t.URL, "/"), "/v1")
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost = 256
	return &Client{target: t, http: &http.Client{Transport: tr}, pause: sleep}
}

// APIError is an answer that is no success.
type APIError struct {
	Method, Path string
	Status       int
	Code         string `json:"code"`
	Message      string `json:"message"`
	Param        string `json:"param"`
	Type         string `json:"type"`
	retryAfter   time.Duration
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, cmp.Or(e.Message, http.StatusText(e.Status)))
	switch e.Status {
	case http.StatusUnauthorized:
		s += " (set LORRY_API_KEY; `lorry key create` makes a key)"
	case http.StatusForbidden:
		s += " (an admin key is needed: `lorry key create --admin`)"
	}
	return s
}

// attempts bounds how often a request that was refused for now is sent.
const attempts = 8

// do sends a request with a JSON body (nil: none) and reads a JSON answer into out (nil: ignored). What the server
// refuses for now (429, 503) is sent again at the time that it names.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, body, out any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = marshal(body); err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		resp, err := c.send(ctx, method, path, header, raw)
		if err == nil {
			return c.read(resp, out)
		}
		if err := c.again(ctx, err, n); err != nil {
			return err
		}
	}
}

// again waits where the nth attempt was refused for now; any other error, and the last one's, comes back.
func (c *Client) again(ctx context.Context, err error, n int) error {
	e, ok := errors.AsType[*APIError](err)
	if !ok || n == attempts || e.Status != http.StatusTooManyRequests && e.Status != http.StatusServiceUnavailable {
		return err
	}
	return c.pause(ctx, cmp.Or(e.retryAfter, min(time.Duration(n)*250*time.Millisecond, 2*time.Second)))
}

// send sends once; an answer of 2xx is left open.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.target.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("url %q: %w", c.target.URL, err)
	}
	maps.Copy(req.Header, header)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.exchange(ctx, req)
}

// exchange sends a request in the caller's name.
func (c *Client) exchange(ctx context.Context, req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "lorry")
	if c.target.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.target.Key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.away(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	return nil, apiError(req, resp)
}

// away says what to do when nobody answers.
func (c *Client) away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("no Lorry answers at %s: %w (start one with `lorry up`, or name another with --url or LORRY_URL)", c.target.URL, err)
	}
	return err
}

func apiError(req *http.Request, resp *http.Response) error {
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var body struct {
		Error *APIError `json:"error"`
	}
	_ = json.Unmarshal(b, &body)
	e := body.Error
	if e == nil {
		e = &APIError{Message: strings.TrimSpace(string(b[:min(len(b), 200)]))}
	}
	e.Method, e.Path, e.Status = req.Method, req.URL.Path, resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.retryAfter = min(time.Duration(s)*time.Second, 30*time.Second)
	}
	return e
}

func (c *Client) read(resp *http.Response, out any) error {
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if raw, ok := out.(*json.RawMessage); ok {
		b, err := io.ReadAll(resp.Body)
		*raw = bytes.TrimSpace(b)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", resp.Request.URL.Path, err)
	}
	return nil
}

// marshal is JSON without HTML escapes.
func marshal(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// model is the only model, or the first, that the server serves.
func (c *Client) model(ctx context.Context) (string, error) {
	models, err := c.Models(ctx)
	if err != nil {
		return "", err
	}
	if len(models) == 0 {
		return "", errors.New("this Lorry serves no model yet: start a worker, or wait until it has loaded one")
	}
	return models[0].ID, nil
}
