package llama

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"lorry/engine"
)

// A template is a program that came with a model, and its language knows no bounds: it may loop for ever, call itself
// without end, or double a text until no memory is left. Nothing in Go ends such a goroutine. So templates run in a
// process of their own, which is ended with them. A prompt costs some microseconds more for it.

// Bounds of one prompt.
const (
	renderLimit  = 5 * time.Second
	renderStart  = 10 * time.Second // more, for a process that begins on a busy machine
	renderMemory = 1 << 30
	renderStack  = 64 << 20
	maxPrompt    = 64 << 20
)

// greeting is the first message to the process: the template, and the texts that only it may write.
type greeting struct {
	Source  string        `json:"source"`
	BOS     string        `json:"bos"`
	EOS     string        `json:"eos"`
	Control [][]byte      `json:"control"`
	Limit   time.Duration `json:"limit"`
}

// rendering is a conversation to be rendered, as the client wrote it, JSON or not. Word is the veil's.
type rendering struct {
	Messages []byte `json:"messages"`
	Tools    []byte `json:"tools,omitempty"`
	Word     string `json:"word"`
	Effort   string `json:"effort,omitempty"`
}

// rendered is the answer to both.
type rendered struct {
	Prompt []byte        `json:"prompt,omitempty"`
	Hidden bool          `json:"hidden,omitempty"` // the veil hides something
	Tools  bool          `json:"tools,omitempty"`  // the template writes tools itself
	Error  *engine.Error `json:"error,omitempty"`
}

// ServeTemplates is the other end: it renders what comes on in until that ends. It ends this process when a prompt takes
// too long, for nobody else may be there to do it, or too much memory.
func ServeTemplates(in io.Reader, out io.Writer) error {
	debug.SetMaxStack(renderStack)
	if err := limitMemory(renderMemory); err != nil {
		return fmt.Errorf("llama: limit the memory of templates: %w", err)
	}
	messages, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	var hello greeting
	if err := messages.Decode(&hello); err != nil {
		return ignoreEOF(err)
	}
	t, err := hello.compile()
	if err != nil {
		return answers.Encode(rendered{Error: engine.AsError(err)})
	}
	if err := answers.Encode(rendered{Tools: t.tools}); err != nil {
		return err
	}
	v := &vocab{}
	for _, c := range hello.Control {
		v.control = append(v.control, string(c))
	}
	for {
		var r rendering
		if err := messages.Decode(&r); err != nil {
			return ignoreEOF(err)
		}
		if err := answers.Encode(t.answer(&r, v, hello.Limit)); err != nil {
			return err
		}
	}
}

func (g *greeting) compile() (*template, error) {
	defer tooLate(g.Limit).Stop()
	return newTemplate(g.Source, g.BOS, g.EOS)
}

func (t *template) answer(r *rendering, v *vocab, limit time.Duration) rendered {
	defer tooLate(limit).Stop()
	h := &veil{vocab: v, word: r.Word}
	prompt, err := t.render(r.Messages, r.Tools, h.mask, r.Effort)
	if err == nil && len(prompt) > maxPrompt {
		err = badMessages("the model's chat template makes a prompt of more than %d bytes", maxPrompt)
	}
	if err != nil {
		return rendered{Error: engine.AsError(err)}
	}
	return rendered{Prompt: []byte(prompt), Hidden: h.hidden}
}

// tooLate ends the process unless it is stopped in time.
func tooLate(limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() {
		fmt.Fprintln(os.Stderr, "llama: the chat template took longer than", limit)
		os.Exit(1)
	})
}

// renderer is this end. It may be used from many goroutines; prompts are made one after the other.
type renderer struct {
	command []string
	hello   greeting
	tools   bool

	mu     sync.Mutex
	now    *renderProcess
	closed bool
}

type renderProcess struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
	words *lastWords
}

// newRenderer starts the process, and has it compile the template.
func newRenderer(command []string, hello greeting) (*renderer, error) {
	r := &renderer{command: command, hello: hello}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.start()
}

func (r *renderer) start() error {
	p := &renderProcess{cmd: exec.Command(r.command[0], r.command[1:]...), words: &lastWords{}}
	p.cmd.Stderr = p.words
	p.cmd.WaitDelay = time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("llama: templates' process: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("llama: templates' process: %w", err)
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("llama: start templates' process: %w", err)
	}
	hello, err := p.ask(r.hello, r.hello.Limit+renderStart)
	if err != nil {
		return fmt.Errorf("compile its chat template: %w", err)
	}
	if hello.Error != nil {
		p.end()
		return errors.New(hello.Error.Message)
	}
	r.now, r.tools = p, hello.Tools
	return nil
}

// ask sends a question and waits for the answer. Where there is none the process is gone, and the error says why.
func (p *renderProcess) ask(question any, limit time.Duration) (answer rendered, err error) {
	late := time.AfterFunc(limit+time.Second, func() { p.cmd.Process.Kill() }) // it should have ended itself
	defer late.Stop()
	if err = json.NewEncoder(p.in).Encode(question); err == nil {
		err = p.out.Decode(&answer)
	}
	if err != nil {
		p.end()
		return answer, fmt.Errorf("the template's process ended: %s", p.words.String())
	}
	return answer, nil
}

// end waits for the process, which ends when it has nothing to read.
func (p *renderProcess) end() {
	p.in.Close()
	p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
}

// render is template.render, in the process. One that ended for no fault of this prompt is started once more; a prompt
// that ends it again is refused, for it would do so always.
func (r *renderer) render(messages, tools json.RawMessage, h *veil, effort string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var answer rendered
	var err error
	for range 2 {
		if answer, err = r.try(&rendering{Messages: messages, Tools: tools, Word: h.word, Effort: effort}); err == nil {
			break
		}
		if strings.Contains(err.Error(), "took longer") {
			break // twice the time would not help
		}
	}
	switch {
	case r.closed:
		return "", errClosed()
	case err != nil:
		return "", badMessages("the model's chat template does not end well for these messages: %v", err)
	case answer.Error != nil:
		return "", answer.Error
	}
	h.hidden = h.hidden || answer.Hidden
	return string(answer.Prompt), nil
}

func (r *renderer) try(q *rendering) (answer rendered, err error) {
	if r.closed {
		return answer, errClosed()
	}
	if r.now == nil {
		if err := r.start(); err != nil {
			return answer, err
		}
	}
	if answer, err = r.now.ask(q, r.hello.Limit); err != nil {
		r.now = nil
	}
	return answer, err
}

func (r *renderer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.now != nil {
		r.now.end()
		r.now = nil
	}
}

// lastWords keeps the beginning of what a process says: a fatal error comes first, and its stacks follow.
type lastWords struct {
	mu   sync.Mutex
	text []byte
}

// Write never fails.
func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b[:min(len(b), 4096-len(w.text))]...)
	return len(b), nil
}

// String is the first line.
func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, _, _ := strings.Cut(strings.TrimSpace(string(w.text)), "\n")
	if line == "" {
		return "it said nothing"
	}
	return strings.ToValidUTF8(line, "\uFFFD")
}
