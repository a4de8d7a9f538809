package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// theirs is a running llama-server.
type theirs struct {
	cmd      *exec.Cmd
	url      string
	shown    string
	http     *http.Client
	adapters int
	log      *os.File
	ended    chan struct{}
}

// httpThreads are more than there are requests at the same moment.
const httpThreads = 512

// startTheirs starts one that serves so many of the adapters, with more settings than the common ones.
func startTheirs(ctx context.Context, o *options, file string, adapters int, more string) (*theirs, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{"-m", file, "-np", strconv.Itoa(o.slots), "-c", strconv.Itoa(o.context), "-t", strconv.Itoa(o.threads), "-fa", "on", "-fit", "off"}
	// A thread of its HTTP server stays with a connection for seconds after an answer: requests beyond them would wait.
	args = append(args, "--threads-http", strconv.Itoa(httpThreads))
	args = append(args, strings.Fields(more)...)
	if adapters > 0 {
		args = append(args, "--lora", o.adapterFiles(adapters), "--lora-init-without-apply")
	}
	log, err := os.CreateTemp("", "llama-server-*.log")
	if err != nil {
		return nil, err
	}
	s := &theirs{url: fmt.Sprintf("http://127.0.0.1:%d", port), shown: shell("llama-server", args), adapters: adapters, log: log, ended: make(chan struct{}),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	s.cmd = exec.CommandContext(ctx, filepath.Join(o.peers, "llama-server"), append(args, "--host", "127.0.0.1", "--port", strconv.Itoa(port))...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	if err := s.ready(ctx); err != nil {
		said := s.lastWords()
		s.close()
		return nil, fmt.Errorf("%w: %s", err, said)
	}
	return s, nil
}

// lastWords are the end of its log.
func (s *theirs) lastWords() string {
	b, _ := os.ReadFile(s.log.Name()) // to help, if it can be read
	return string(b[max(0, len(b)-1000):])
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// ready waits until the model is loaded.
func (s *theirs) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		if resp, err := s.http.Get(s.url + "/health"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("llama-server is not ready: %w", ctx.Err())
		case <-s.ended:
			return errors.New("llama-server ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *theirs) name() string    { return "llama-server" }
func (s *theirs) command() string { return s.shown }

func (s *theirs) close() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	_ = s.log.Close()
	_ = os.Remove(s.log.Name())
}

// completion is llama-server's own form, which takes tokens as they are. One sampler is the least that it can do.
type completion struct {
	Prompt      any             `json:"prompt"`
	Tokens      int             `json:"n_predict"`
	IgnoreEOS   bool            `json:"ignore_eos"`
	Temperature float64         `json:"temperature"`
	Samplers    []string        `json:"samplers"`
	TopK        int             `json:"top_k"`
	Schema      json.RawMessage `json:"json_schema,omitempty"`
	Adapters    []scale         `json:"lora,omitempty"`
	Stream      bool            `json:"stream,omitempty"`
}

// scale is how much of an adapter is added. All are named: the server's own are not asked for.
type scale struct {
	ID    int     `json:"id"`
	Scale float64 `json:"scale"`
}

func (s *theirs) run(ctx context.Context, r request, pieces bool) (a answer, err error) {
	c := completion{Prompt: r.text, Tokens: r.tokens, IgnoreEOS: r.schema == nil, Samplers: []string{"top_k"}, TopK: 1, Schema: r.schema, Stream: pieces}
	if len(r.prompt) > 0 {
		c.Prompt = r.prompt
	}
	for i := range s.adapters {
		x := scale{ID: i}
		if i == r.adapter-1 {
			x.Scale = 1
		}
		c.Adapters = append(c.Adapters, x)
	}
	if pieces {
		body, err := s.open(ctx, "/completion", c)
		if err != nil {
			return a, err
		}
		defer body.Close()
		return stream(body)
	}
	var out part
	if err = s.post(ctx, "/completion", c, &out); err == nil && len(r.prompt) > 0 && out.Evaluated != len(r.prompt) {
		err = fmt.Errorf("llama-server took a prompt of %d tokens, not of %d", out.Evaluated, len(r.prompt))
	}
	return answer{text: out.Content, tokens: out.Predicted}, err
}

// post sends a question and reads the answer's JSON.
func (s *theirs) post(ctx context.Context, path string, in, out any) error {
	body, err := s.open(ctx, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(out)
}

// open sends a question; whoever calls closes the answer.
func (s *theirs) open(ctx context.Context, path string, in any) (io.ReadCloser, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("llama-server: %d %s", resp.StatusCode, text)
	}
	return resp.Body, nil
}

// part is an answer, or a piece of one.
type part struct {
	Content   string     `json:"content"`
	Predicted int        `json:"tokens_predicted"`
	Evaluated int        `json:"tokens_evaluated"` // of the prompt, those in the cache among them
	Stop      bool       `json:"stop"`
	Settings  generation `json:"generation_settings"`
}

// generation is what a question came down to.
type generation struct {
	Grammar string `json:"grammar"`
	Biases  []struct {
		Token int32 `json:"token"`
	} `json:"logit_bias"`
}

func stream(body io.Reader) (a answer, err error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var p part
		if err := json.Unmarshal(data, &p); err != nil {
			return a, err
		}
		a.text += p.Content
		if a.tokens = p.Predicted; p.Stop {
			return a, nil
		}
		a.at = append(a.at, time.Now())
	}
	return a, errors.Join(errors.New("llama-server: the stream broke off"), lines.Err())
}

// batchedBench is tokens made a second by llama-batched-bench: the same calls, without a server.
func batchedBench(ctx context.Context, o *options, file, more string) (rate float64, shown string, err error) {
	args := []string{"-m", file, "-c", strconv.Itoa(o.context), "-t", strconv.Itoa(o.threads), "-fa", "on", "-npp", strconv.Itoa(promptLength),
		"-ntg", strconv.Itoa(answerLength), "-npl", strconv.Itoa(o.slots), "--output-format", "jsonl"}
	args = append(args, strings.Fields(more)...)
	shown = shell("llama-batched-bench", args)
	out, err := exec.CommandContext(ctx, filepath.Join(o.peers, "llama-batched-bench"), args...).Output()
	if err != nil {
		return 0, shown, fmt.Errorf("llama-batched-bench: %w", err)
	}
	for line := range bytes.Lines(out) {
		var r struct {
			Seconds float64 `json:"t"`
			Made    int     `json:"tg"`
			Batch   int     `json:"pl"`
		}
		if json.Unmarshal(line, &r) == nil && r.Seconds > 0 {
			rate = float64(r.Made*r.Batch) / r.Seconds
		}
	}
	if rate == 0 {
		err = errors.New("llama-batched-bench printed no result")
	}
	return rate, shown, err
}
