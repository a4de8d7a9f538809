package llama

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
	"lorry/engine/gguf"
)

// Inspection says what to look at: a model, an adapter for Base, or a template alone.
type Inspection struct {
	// File is the model or adapter, in GGUF; empty for a template alone.
	File string
	// Base is the model that an adapter is for.
	Base string
	// Template is a file with a chat template. Empty: the model's own.
	Template string
	// Lib is the folder of llama.cpp's libraries. Empty: the file is read, and not loaded.
	Lib string
	// Renderer is the command line that templates run by, see [Config.Renderer].
	Renderer []string
	// Memory is how many bytes this process may write to from the loading on; it dies of more. 0: there is no bound.
	Memory uint64
}

// Report is what a file was found to be.
type Report struct {
	Kind         string          `json:"kind"` // "model", "adapter" or "template"
	Architecture string          `json:"architecture,omitempty"`
	Name         string          `json:"name,omitempty"` // as its author called it
	Bytes        int64           `json:"bytes,omitempty"`
	Tensors      int             `json:"tensors,omitempty"`
	Parameters   int64           `json:"parameters,omitempty"`
	Types        map[string]int  `json:"types,omitempty"` // tensors of each format
	Context      int64           `json:"context,omitempty"`
	Layers       int64           `json:"layers,omitempty"`
	Width        int64           `json:"width,omitempty"`
	Rank         int64           `json:"rank,omitempty"`  // an adapter's highest
	Alpha        float64         `json:"alpha,omitempty"` // an adapter's
	Template     *TemplateReport `json:"template,omitempty"`
	// Loaded says that llama.cpp loaded it and computed a token with it.
	Loaded bool `json:"loaded"`
}

// TemplateReport is what a chat template was found to do.
type TemplateReport struct {
	// Tools says that it writes tools itself; else they stand in the system message.
	Tools bool `json:"tools"`
	// Sample is a conversation as it writes it.
	Sample string `json:"sample"`
}

// Inspect looks at files that nobody trusts yet: first by reading them, which nothing can come of, then, with Lib, by
// loading them into llama.cpp, which may end this process, or never return. It belongs into a process of its own, with a
// deadline; `lorry-engine check` is that.
func Inspect(c Inspection) (*Report, error) {
	r := &Report{Kind: "template"}
	if c.File != "" {
		if err := r.read(c); err != nil {
			return nil, err
		}
	}
	source, err := c.template()
	if err == nil && source != "" {
		err = r.render(c, source)
	}
	if err == nil && c.Lib != "" && c.File != "" {
		err = r.load(c)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Report) read(c Inspection) error {
	f, err := gguf.Open(c.File)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	if c.Base != "" {
		err = r.readAdapter(c, f)
	} else {
		r.Kind, err = "model", gguf.CheckModel(f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	r.describe(f)
	return nil
}

func (r *Report) readAdapter(c Inspection, f *gguf.File) error {
	base, err := gguf.Open(c.Base)
	if err == nil {
		err = gguf.CheckModel(base)
	}
	if err != nil {
		return fmt.Errorf("its base %s: %w", c.Base, err)
	}
	if err := gguf.CheckAdapter(f, base); err != nil {
		return err
	}
	in, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer in.Close()
	r.Kind = "adapter"
	alpha, _ := f.Setting("adapter.lora.alpha")
	r.Alpha, _ = alpha.Value.(float64)
	return gguf.Finite(f, in)
}

func (r *Report) describe(f *gguf.File) {
	arch := f.Architecture()
	r.Architecture, r.Name, r.Bytes, r.Tensors = arch, f.Text("general.name"), f.Size, len(f.Tensors)
	r.Context, _ = f.Number(arch + ".context_length")
	r.Layers, _ = f.Number(arch + ".block_count")
	r.Width, _ = f.Number(arch + ".embedding_length")
	r.Types = map[string]int{}
	for _, t := range f.Tensors {
		r.Parameters += t.Elements()
		r.Types[t.Type.String()]++
		if r.Kind == "adapter" && strings.HasSuffix(t.Name, ".lora_a") {
			r.Rank = max(r.Rank, min(t.Shape[0], t.Shape[1]))
		}
	}
}

// maxTemplate bounds a template's file, in bytes.
const maxTemplate = 1 << 20

// template is the text of the template to be looked at; empty where there is none.
func (c Inspection) template() (string, error) {
	if c.Template == "" {
		return c.ownTemplate()
	}
	f, err := os.Open(c.Template)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	switch {
	case err != nil:
		return "", err
	case len(b) == 0 || len(b) > maxTemplate || !utf8.Valid(b) || strings.ContainsRune(string(b), 0):
		return "", fmt.Errorf("%s: a template is UTF-8 text of at most %d bytes", c.Template, maxTemplate)
	}
	return string(b), nil
}

func (c Inspection) ownTemplate() (string, error) {
	if c.File == "" {
		return "", errors.New("nothing is named to look at")
	}
	f, err := gguf.Open(c.File)
	if err != nil {
		return "", err
	}
	return f.Text("tokenizer.chat_template"), nil
}

// samples are conversations that a template is tried with. The first must be rendered; a template may refuse others.
var samples = []string{
	`[{"role":"user","content":"Hello."}]`,
	`[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello."},{"role":"assistant","content":"Hi."},{"role":"user","content":"Bye."}]`,
}

const sampleTool = `[{"type":"function","function":{"name":"now","description":"The time.","parameters":{"type":"object","properties":{}}}}]`

func (r *Report) render(c Inspection, source string) error {
	t, err := openTemplate(c.Renderer, source, &vocab{bos: -1, eos: -1})
	if err != nil {
		return err
	}
	defer t.close()
	r.Template = &TemplateReport{Tools: t.tools}
	for i, messages := range samples {
		for _, tools := range []json.RawMessage{nil, json.RawMessage(sampleTool)} {
			h := &veil{vocab: &vocab{}, word: "veil"}
			prompt, err := t.prompt(json.RawMessage(messages), tools, h, "")
			if err != nil && (i == 0 && tools == nil || !saysNo(err)) {
				return fmt.Errorf("its chat template: %w", err)
			}
			if i == 0 && tools == nil {
				r.Template.Sample = prompt
			}
		}
	}
	return nil
}

// saysNo tells a template that refuses a conversation from one that does not end.
func saysNo(err error) bool {
	return errors.Is(err, engine.ErrInvalid) && !strings.Contains(err.Error(), "process ended")
}

// load has llama.cpp load the file, and compute a token with it: on one thread and no GPU, for an engine may be at work
// beside it.
func (r *Report) load(c Inspection) error {
	if c.Memory > 0 {
		if err := limitMemory(c.Memory); err != nil {
			return fmt.Errorf("llama: limit the memory of a check: %w", err)
		}
	}
	e, err := Open(Config{Lib: c.Lib, File: cmp.Or(c.Base, c.File), Model: engine.Model{Name: "inspected", Base: "unknown"}, Slots: 1, Context: 256,
		Device: "cpu", Threads: 1, Renderer: c.Renderer, asIs: true})
	if err != nil {
		return err
	}
	defer e.Close()
	if c.Base != "" {
		if err := e.model.attach(c.File); err != nil {
			return err
		}
	}
	request := &engine.Request{Kind: engine.Text, Tokens: []int32{max(0, e.model.vocab.bos)}, Sampling: engine.Sampling{N: 1, MaxTokens: 2, IgnoreEOS: true}}
	if _, err := e.Run(context.Background(), request, nil); err != nil {
		return fmt.Errorf("llama: compute a token: %w", err)
	}
	r.Loaded = true
	return nil
}

// attach has all calls from now on compute with an adapter. It must not run beside a call.
func (m *model) attach(path string) error {
	handle, err := llama.AdapterLoraInit(m.handle, path)
	if err != nil || handle == 0 {
		return fmt.Errorf("llama: load adapter %s: %w", path, library.log.explain(errors.Join(err, errors.New("llama.cpp does not say why"))))
	}
	if !m.use(handle) {
		return fmt.Errorf("llama: llama.cpp can't use the adapter %s", path)
	}
	return nil
}
