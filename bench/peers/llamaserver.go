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

// startTheirs starts one with more settings than the common ones.
func startTheirs(ctx context.Context, o *options, file, more string) (*theirs, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{"-m", file, "-np", strconv.Itoa(o.slots), "-c", strconv.Itoa(o.context), "-t", strconv.Itoa(o.threads), "-fa", "on", "-fit", "off"}
	args = append(args, strings.Fields(more)...)
	if n := len(o.adapters); n > 0 {
		files := make([]string, n)
		for i, d := range o.adapters {
			files[i] = filepath.Join(o.adapterDir, d)
		}
		args = append(args, "--lora", strings.Join(files, ","), "--lora-init-without-apply")
	}
	log, err := os.CreateTemp("", "llama-server-*.log")
	if err != nil {
		return nil, err
	}
	s := &theirs{url: fmt.Sprintf("http://127.0.0.1:%d", port), shown: shell("llama-server", args), adapters: len(o.adapters), log: log, ended: make(chan struct{}),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	s.cmd = exec.CommandContext(ctx, filepath.Join(o.peers, "llama-server"), append(args, "--host", "127.0.0.1", "--port", strconv.Itoa(port))...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	return s, s.ready(ctx)
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
			return fmt.Errorf("llama-server is not ready: %w; its log is %s", ctx.Err(), s.log.Name())
		case <-s.ended:
			return fmt.Errorf("llama-server ended; its log is %s", s.log.Name())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *theirs) command() string { return s.shown }

func (s *theirs) close() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	_ = s.log.Close()
	_ = os.Remove(s.log.Name())
}

// vocab is the model's number of tokens.
func (s *theirs) vocab() (int, error) {
	resp, err := s.http.Get(s.url + "/v1/models")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct {
			Meta struct {
				Vocab int `json:"n_vocab"`
			} `json:"meta"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Data) == 0 || list.Data[0].Meta.Vocab == 0 {
		return 0, fmt.Errorf("llama-server does not tell the size of the vocabulary: %v", err)
	}
	return list.Data[0].Meta.Vocab, nil
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
	if r.text == "" {
		c.Prompt = r.prompt
	}
	for i := range s.adapters {
		x := scale{ID: i}
		if i == r.adapter-1 {
			x.Scale = 1
		}
		c.Adapters = append(c.Adapters, x)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/completion", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return a, fmt.Errorf("llama-server: %d %s", resp.StatusCode, text)
	}
	if pieces {
		return stream(resp.Body)
	}
	var out part
	err = json.NewDecoder(resp.Body).Decode(&out)
	return answer{text: out.Content, tokens: out.Predicted}, err
}

// part is an answer, or a piece of one.
type part struct {
	Content   string `json:"content"`
	Predicted int    `json:"tokens_predicted"`
	Stop      bool   `json:"stop"`
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
func batchedBench(ctx context.Context, o *options, file string) (rate float64, shown string, err error) {
	args := []string{"-m", file, "-c", strconv.Itoa(o.context), "-t", strconv.Itoa(o.threads), "-fa", "on", "-npp", strconv.Itoa(promptLength),
		"-ntg", strconv.Itoa(answerLength), "-npl", strconv.Itoa(o.slots), "--output-format", "jsonl"}
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
