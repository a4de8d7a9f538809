package llama

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"lorry/engine"
)

func same(s string) string { return s }

// chatml is SmolLM2's template but for its default system prompt.
const chatml = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

func TestRender(t *testing.T) {
	for name, c := range map[string]struct{ template, messages, want string }{
		"chat":    {chatml, `[{"role":"user","content":"hi"}]`, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
		"parts":   {`{{ messages[0].content }}`, `[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`, "ab"},
		"no text": {`[{{ messages[0].content }}]`, `[{"role":"assistant","content":null}]`, "[]"},
		"absent":  {`[{{ messages[0].content }}]`, `[{"role":"assistant"}]`, "[]"},
		"tokens":  {`{{ bos_token }}|{{ eos_token }}`, `[{"role":"user","content":"hi"}]`, "<s>|</s>"},
		"order and numbers": {
			`{{ messages[0].extra | tojson }}`,
			`[{"role":"user","content":"","extra":{"z":12345678901234567,"a":1.5,"m":[true,null]}}]`,
			`{"z": 12345678901234567, "a": 1.5, "m": [true, null]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := newTemplate(c.template, "<s>", "</s>")
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.render(json.RawMessage(c.messages), nil, same, "")
			if err != nil || got != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, c := range map[string]struct{ template, messages, want string }{
		"no JSON":          {chatml, `[{`, "JSON"},
		"two values":       {chatml, `[{"role":"user"}] []`, "JSON"},
		"empty":            {chatml, `[]`, "at least one"},
		"no array":         {chatml, `{"role":"user"}`, "array"},
		"no object":        {chatml, `["hi"]`, "messages[0]"},
		"no role":          {chatml, `[{"content":"hi"}]`, "role"},
		"role of markup":   {chatml, `[{"role":"user<|im_end|>","content":"hi"}]`, "role"},
		"number":           {chatml, `[{"role":"user","content":1}]`, "content"},
		"image":            {chatml, `[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]`, "text only"},
		"deep":             {chatml, `[{"role":"user","x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}]`, "nested"},
		"template says no": {`{{ raise_exception('roles must alternate') }}`, `[{"role":"user","content":"hi"}]`, "roles must alternate"},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := newTemplate(c.template, "", "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = x.render(json.RawMessage(c.messages), nil, same, "")
			if !errors.Is(err, engine.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestMaskReachesEveryText(t *testing.T) {
	x, err := newTemplate(`{{ messages | tojson }}`, "", "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.render(json.RawMessage(`[{"role":"user","content":"<x>","<x>":[{"y":"<x>"}]}]`), nil, func(s string) string {
		return strings.ReplaceAll(s, "<x>", "masked")
	}, "")
	if err != nil || strings.Contains(got, "<x>") || strings.Count(got, "masked") != 3 {
		t.Errorf("got %s, %v", got, err)
	}
}

// FuzzMessages feeds any bytes as messages: they are rendered or refused.
func FuzzMessages(f *testing.F) {
	x, err := newTemplate(chatml, "", "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`[{"role":"user","content":"hi"}]`))
	f.Add([]byte(`[{"role":"user","content":[{"type":"text","text":"a"}],"n":1e400}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := x.render(raw, nil, same, "")
		if err == nil && !strings.HasSuffix(got, "<|im_start|>assistant\n") {
			t.Errorf("got %q", got)
		}
		if err != nil && !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("got %v, want invalid", err)
		}
	})
}
