package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// kronk is a running bench/kronk: Kronk's SDK on our libraries, on the far side of two pipes as our own engine is.
type kronk struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	shown   string
	grammar string
	ended   chan struct{} // closed when no answer comes any more

	mu      sync.Mutex // of what follows, and of writing
	next    int
	waiting map[int]chan kronkAnswer
}

// kronkRequest is a line to it, and kronkAnswer one from it: see bench/kronk.
type kronkRequest struct {
	ID      int    `json:"id"`
	Adapter int    `json:"adapter"`
	System  string `json:"system"`
	User    string `json:"user"`
	Tokens  int    `json:"tokens"`
	Grammar string `json:"grammar"`
}

type kronkAnswer struct {
	ID     int    `json:"id"`
	Text   string `json:"text"`
	Prompt int    `json:"prompt"`
	Tokens int    `json:"tokens"`
	Error  string `json:"error"`
}

// startKronk starts one. It has an adapter for as long as a model is loaded, so each has a model of its own, which gets
// its part of the slots, threads and cells, and at least one slot and thread.
func startKronk(ctx context.Context, o *options, file, grammar string, adapters int, more string) (*kronk, error) {
	lib, err := o.kronkLib()
	if err != nil {
		return nil, err
	}
	template := filepath.Join(o.dir, "plain.jinja")
	if err := os.WriteFile(template, []byte("{% for m in messages %}{{ m.content }}{% endfor %}"), 0o600); err != nil {
		return nil, err
	}
	models := max(1, adapters)
	args := []string{"-lib", lib, "-model", file, "-template", template, "-slots", strconv.Itoa(max(1, o.slots/models)),
		"-threads", strconv.Itoa(max(1, o.threads/models)), "-window", strconv.Itoa(o.context / max(o.slots, models))}
	args = append(args, strings.Fields(more)...)
	if adapters > 0 {
		args = append(args, "-adapters", o.adapterFiles(adapters))
	}
	k := &kronk{shown: shell("kronk", args), grammar: grammar, ended: make(chan struct{}), waiting: map[int]chan kronkAnswer{}}
	k.cmd = exec.CommandContext(ctx, filepath.Join(o.kronk, "kronk"), args...)
	var said bytes.Buffer
	k.cmd.Stderr = &said
	if err := k.start(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, lastLine(said.String()))
	}
	return k, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// start returns when the models are loaded, as the first line says.
func (k *kronk) start() (err error) {
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := k.cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	loaded := lines.Scan()
	if !loaded {
		_ = k.cmd.Wait() // what it said on standard error is there then
		return errors.New("kronk ended before it had loaded the model")
	}
	go func() {
		k.listen(lines)
		_ = k.cmd.Wait()
	}()
	return nil
}

// listen hands answers to those who wait for them.
func (k *kronk) listen(lines *bufio.Scanner) {
	defer close(k.ended)
	for lines.Scan() {
		var a kronkAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return
		}
		k.mu.Lock()
		if to := k.waiting[a.ID]; to != nil {
			to <- a
		}
		delete(k.waiting, a.ID)
		k.mu.Unlock()
	}
}

func (k *kronk) name() string    { return "Kronk" }
func (k *kronk) command() string { return k.shown }

func (k *kronk) close() {
	_ = k.in.Close()
	_ = k.cmd.Process.Kill()
	<-k.ended
}

func (k *kronk) run(ctx context.Context, r request, _ bool) (a answer, err error) {
	q := kronkRequest{Adapter: r.adapter, System: r.head, User: r.text, Tokens: r.tokens}
	if r.schema != nil {
		q.Grammar = k.grammar
	}
	to, err := k.ask(q)
	if err != nil {
		return a, err
	}
	select {
	case got := <-to:
		return got.check(r)
	case <-k.ended:
		return a, errors.New("kronk ended")
	case <-ctx.Done():
		return a, context.Cause(ctx)
	}
}

func (k *kronk) ask(q kronkRequest) (<-chan kronkAnswer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	q.ID = k.next
	line, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	to := make(chan kronkAnswer, 1)
	k.waiting[q.ID] = to
	_, err = k.in.Write(append(line, '\n'))
	return to, err
}

// check refuses an answer to something else than was asked: Kronk takes text, of which it makes tokens itself. A model may
// have a token that begins each prompt.
func (got kronkAnswer) check(r request) (answer, error) {
	if got.Error != "" {
		return answer{}, fmt.Errorf("kronk: %s", got.Error)
	}
	if n := len(r.prompt); n > 0 && got.Prompt != n && got.Prompt != n+1 {
		return answer{}, fmt.Errorf("kronk computed a prompt of %d tokens, not of %d", got.Prompt, n)
	}
	return answer{text: got.Text, tokens: got.Tokens}, nil
}

// kronkLib is a folder of links to our libraries, and to the one that Kronk wants beside them.
func (o *options) kronkLib() (string, error) {
	dir := filepath.Join(o.dir, "kronk-lib")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(o.lib)
	for _, e := range entries {
		if err == nil && strings.Contains(e.Name(), ".so") {
			err = os.Symlink(filepath.Join(o.lib, e.Name()), filepath.Join(dir, e.Name()))
		}
	}
	if err == nil {
		if err = os.Symlink(filepath.Join(o.kronk, "libmtmd.so"), filepath.Join(dir, "libmtmd.so")); errors.Is(err, os.ErrExist) {
			err = nil
		}
	}
	return dir, err
}
