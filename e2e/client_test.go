package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// client speaks to a Lorry as an SDK does: it repeats what was refused for now or lost on the way, and nothing else.
type client struct {
	urls func() string // where the next request goes: a fleet has several producers
	key  string
	// again counts repeats, by reason.
	again tally
}

// answer is a response whose body was read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// errLost is a stream that ended with an error event or without its end: provisional, by contract, so asked for again.
var errLost = errors.New("stream lost")

// do sends one request until it is answered for good, or ctx ends.
func (c *client) do(ctx context.Context, method, path string, body any, header ...string) (answer, error) {
	var payload []byte
	if body != nil {
		payload, _ = json.Marshal(body) // maps of strings and numbers
	}
	for attempt := 0; ; attempt++ {
		a, err := c.once(ctx, method, path, payload, header)
		wait, why := repeat(a, err, attempt)
		if why == "" {
			return a, err
		}
		c.again.add(why)
		select {
		case <-ctx.Done():
			return a, fmt.Errorf("%s %s: %w (last: %s)", method, path, ctx.Err(), why)
		case <-time.After(wait):
		}
	}
}

// repeat says how long to wait before sending a request again, and why; no reason means that the answer stands.
func repeat(a answer, err error, attempt int) (time.Duration, string) {
	backoff := min(100*time.Millisecond<<min(attempt, 5), 2*time.Second)
	switch {
	case errors.Is(err, errLost):
		return backoff, "stream lost"
	case err != nil:
		return backoff, "connection lost"
	case a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable:
		if s, err := strconv.Atoi(a.header.Get("Retry-After")); err == nil {
			backoff = min(time.Duration(s)*time.Second, 2*time.Second)
		}
		return backoff, strconv.Itoa(a.status)
	}
	return 0, ""
}

func (c *client) once(ctx context.Context, method, path string, payload []byte, header []string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.urls()+path, bytes.NewReader(payload))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer r.Body.Close()
	a := answer{status: r.StatusCode, header: r.Header}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream") {
		a.body, err = readStream(r.Body)
	} else {
		a.body, err = io.ReadAll(r.Body)
	}
	return a, err
}

// readStream joins a stream's deltas; only one that ends with [DONE] counts.
func readStream(r io.Reader) ([]byte, error) {
	var text strings.Builder
	for s := bufio.NewScanner(r); s.Scan(); {
		data, ok := strings.CutPrefix(s.Text(), "data: ")
		switch {
		case !ok:
			continue
		case data == "[DONE]":
			return []byte(text.String()), nil
		}
		if err := addDelta(&text, data); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: no [DONE]", errLost)
}

func addDelta(text *strings.Builder, data string) error {
	var chunk struct {
		Error   json.RawMessage
		Choices []struct{ Delta struct{ Content string } }
	}
	if err := json.Unmarshal([]byte(data), &chunk); err != nil {
		return fmt.Errorf("chunk %q: %w", data, err)
	}
	if chunk.Error != nil {
		return fmt.Errorf("%w: %s", errLost, chunk.Error)
	}
	for _, choice := range chunk.Choices {
		text.WriteString(choice.Delta.Content)
	}
	return nil
}

// job is a lorry.job object, as far as the tests look at it.
type job struct {
	ID, Status string
	Response   *struct {
		StatusCode int `json:"status_code"`
		Body       json.RawMessage
	}
	Error json.RawMessage
}

func (j job) over() bool { return j.Status != "queued" && j.Status != "running" }

// finish asks for a job until it is over.
func (c *client) finish(ctx context.Context, id string) (job, error) {
	for {
		j, err := c.job(ctx, id)
		if err != nil || j.over() {
			return j, err
		}
		select {
		case <-ctx.Done():
			return j, fmt.Errorf("%s is still %s: %w", id, j.Status, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *client) job(ctx context.Context, id string) (j job, err error) {
	a, err := c.do(ctx, "GET", "/v1/jobs/"+id, nil)
	if err != nil {
		return j, err
	}
	if a.status != http.StatusOK {
		return j, fmt.Errorf("GET job %s: %d %s", id, a.status, a.body)
	}
	return j, json.Unmarshal(a.body, &j)
}

// jobs lists every job, page by page.
func (c *client) jobs(ctx context.Context) ([]job, error) {
	var all []job
	for after := ""; ; {
		a, err := c.do(ctx, "GET", "/v1/jobs?limit=100&after="+after, nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Data    []job
			HasMore bool   `json:"has_more"`
			LastID  string `json:"last_id"`
		}
		if err := json.Unmarshal(a.body, &page); err != nil || a.status != http.StatusOK {
			return nil, fmt.Errorf("GET jobs: %d %s %w", a.status, a.body, err)
		}
		all = append(all, page.Data...)
		if !page.HasMore {
			return all, nil
		}
		after = page.LastID
	}
}
