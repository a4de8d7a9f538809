package llama

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine"
)

// process is a template in a process of its own.
func process(t *testing.T, source string, limit time.Duration, control ...string) *renderer {
	t.Helper()
	hello := greeting{Source: source, BOS: "<s>", EOS: "</s>", Limit: limit}
	for _, c := range control {
		hello.Control = append(hello.Control, []byte(c))
	}
	r, err := newRenderer([]string{os.Args[0], asRenderer}, hello)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// TestRenderer: a process renders what this one does, texts, refusals and all.
func TestRenderer(t *testing.T) {
	r := process(t, toolTemplate, time.Minute, "<|im_end|>")
	here, err := newTemplate(toolTemplate, "<s>", "</s>")
	if err != nil || r.tools != here.tools {
		t.Fatalf("tools: %t there, %t here; %v", r.tools, here.tools, err)
	}
	for name, c := range map[string]struct{ messages, tools string }{
		"plain":           {`[{"role":"user","content":"hi \u00e9 \ud83d\ude00"}]`, ""},
		"control":         {`[{"role":"user","content":"a<|im_end|>b"}]`, ""},
		"numbers":         {`[{"role":"user","content":"","x":[1.0,1,1e3,12345678901234567]}]`, ""},
		"tools":           {`[{"role":"user","content":"hi"}]`, weather},
		"calls":           {history, weather},
		"no JSON":         {`[{`, ""},
		"broken text":     {"[{\"role\":\"user\",\"content\":\"\xff\"}]", ""},
		"nothing":         {``, ""},
		"tools no array":  {`[{"role":"user","content":"hi"}]`, `{`},
		"template refuse": {`[{"role":"bad","content":"hi"}]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			there, own := &veil{vocab: &vocab{}, word: "veilx"}, &veil{vocab: &vocab{control: []string{"<|im_end|>"}}, word: "veilx"}
			var tools json.RawMessage
			if c.tools != "" {
				tools = json.RawMessage(c.tools)
			}
			got, gotErr := r.render(json.RawMessage(c.messages), tools, there, "")
			want, wantErr := here.render(json.RawMessage(c.messages), tools, own.mask, "")
			if got != want || there.hidden != own.hidden || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
				t.Errorf("there %q, %t, %v\nhere %q, %t, %v", got, there.hidden, gotErr, want, own.hidden, wantErr)
			}
		})
	}
}

const toolTemplate = `{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no') }}{% endif %}` +
	`{{ m.role }}:{{ m.content }}{{ m.x | default('') }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}</tool_call>{% endfor %};{% endfor %}{{ bos_token }}`

// TestDeadlyTemplates are programs without end: each costs its limit, and the next prompt is made as ever.
func TestDeadlyTemplates(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system does not bound a process's memory")
	}
	for name, body := range map[string]string{
		"loop":      `{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}`,
		"recursion": `{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(1) }}`,
		"doubling":  `{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}`,
		"large":     `{{ 'a' * 100000000000 }}`,
		"long list": `{{ range(1000000000000) | list | length }}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := process(t, `{% if messages[0].content == 'go' %}`+body+`{% endif %}fine`, time.Second)
			h := &veil{vocab: &vocab{}, word: "veilx"}
			_, err := r.render(json.RawMessage(`[{"role":"user","content":"go"}]`), nil, h, "")
			if got, ok := errors.AsType[*engine.Error](err); !ok || got.Class != engine.Invalid || got.Param != "messages" {
				t.Errorf("got %v, want it refused", err)
			}
			t.Log(err)
			if got, err := r.render(json.RawMessage(`[{"role":"user","content":"hi"}]`), nil, h, ""); got != "fine" || err != nil {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
}

// TestDeadlyProbe has a template that does not even end when it is looked at.
func TestDeadlyProbe(t *testing.T) {
	const source = `<tool_call>{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}`
	_, err := newRenderer([]string{os.Args[0], asRenderer}, greeting{Source: source, Limit: time.Second})
	if err == nil || !strings.Contains(err.Error(), "took longer than 1s") {
		t.Errorf("got %v", err)
	}
	for source, want := range map[string]string{"{% if %}": "compile", strings.Repeat("{{ (", 2) + strings.Repeat("(", 3000000): ""} {
		if _, err := newRenderer([]string{os.Args[0], asRenderer}, greeting{Source: source, Limit: time.Minute}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: got %v, want %q", source, err, want)
		}
	}
	if _, err := newRenderer([]string{"/nowhere/lorry-engine"}, greeting{}); err == nil {
		t.Error("nothing was started, and there is no error")
	}
}

// TestRendererLives: many ask at once while the process is killed; each gets the own prompt.
func TestRendererLives(t *testing.T) {
	r := process(t, `{{ messages[0].content }}`, time.Minute)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 25 {
				want := fmt.Sprintf("%d of %d", j, i)
				got, err := r.render(fmt.Appendf(nil, `[{"role":"user","content":%q}]`, want), nil, &veil{vocab: &vocab{}, word: "veilx"}, "")
				if got != want || err != nil {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
				if i == 0 && j%10 == 5 {
					r.mu.Lock()
					r.now.cmd.Process.Kill()
					r.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	r.close()
	if _, err := r.render(json.RawMessage(`[]`), nil, &veil{vocab: &vocab{}}, ""); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("closed, and got %v", err)
	}
}
