package producer

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
)

const vectorsPath = "/v1/embeddings"

func TestEmbeddings(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	a := r.post(vectorsPath, `{"model":"echo","input":["one two","three"],"encoding_format":"float"}`)
	v := a.want(t, 200)
	if v["object"] != "list" || v["model"] != "echo" || dig(v, "data", 1, "index") != 1.0 || dig(v, "data", 1, "object") != "embedding" ||
		dig(v, "usage", "prompt_tokens") != 3.0 || dig(v, "usage", "total_tokens") != 3.0 {
		t.Errorf("%s", a.body)
	}
	numbers, _ := dig(v, "data", 0, "embedding").([]any)
	if len(numbers) != 64 {
		t.Fatalf("%s", a.body)
	}
	// The vectors are computed once, whatever they are written as.
	b := r.post(vectorsPath, `{"model":"echo","input":["one two","three"],"encoding_format":"base64"}`)
	text, _ := dig(b.want(t, 200), "data", 0, "embedding").(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != 4*len(numbers) || b.header.Get(headerCache) != "hit" || r.runs.count() != 1 {
		t.Fatalf("%v %s %v after %d runs", err, b.body, b.header, r.runs.count())
	}
	for i := range numbers {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); got != float32(numbers[i].(float64)) {
			t.Errorf("number %d: %v in base64, %v in JSON", i, got, numbers[i])
		}
	}
}

func TestEmbeddingsLater(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	id := r.post(vectorsPath, `{"model":"echo","input":"one","dimensions":3,"encoding_format":"base64"}`, later).header.Get(headerJob)
	wait(t, "vectors", func() bool { return r.state(id) == queue.Succeeded })
	v := r.do("GET", "/v1/jobs/"+id, "").want(t, 200)
	if text, _ := dig(v, "response", "body", "data", 0, "embedding").(string); len(text) != 16 || v["endpoint"] != vectorsPath {
		t.Errorf("%v", v)
	}
}

func TestTokens(t *testing.T) {
	r := setup(t, Config{})
	r.work(func(_ context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		c := &engine.Completion{Choices: []engine.Choice{{Finish: engine.FinishStop}}}
		if q.Kind == engine.Tokenize {
			for i := range len(q.Prompt) {
				c.Tokens = append(c.Tokens, int32(q.Prompt[i]))
			}
			return c, nil
		}
		for _, id := range q.Tokens {
			c.Choices[0].Text += string(rune(id))
		}
		return c, nil
	})
	for body, want := range map[string]string{`"hi"`: `{"tokens":[104,105]}`, `""`: `{"tokens":[]}`} {
		if a := r.post("/lorry/v1/tokenize", `{"model":"echo","content":`+body+`}`); string(a.body) != want || a.status != 200 {
			t.Errorf("%d %s, want %s", a.status, a.body, want)
		}
	}
	for body, want := range map[string]string{`[104,105]`: `{"content":"hi"}`, `[]`: `{"content":""}`} {
		if a := r.post("/lorry/v1/detokenize", `{"model":"echo","tokens":`+body+`}`); string(a.body) != want || a.status != 200 {
			t.Errorf("%d %s, want %s", a.status, a.body, want)
		}
	}
}

func TestInputs(t *testing.T) {
	for input, want := range map[string][]engine.Input{
		`"a"`:             {{Text: "a"}},
		`["a","b"]`:       {{Text: "a"}, {Text: "b"}},
		`[1,2]`:           {{Tokens: []int32{1, 2}}},
		`[[1,2],[3]]`:     {{Tokens: []int32{1, 2}}, {Tokens: []int32{3}}},
		`["a",[3]]`:       {{Text: "a"}, {Tokens: []int32{3}}},
		`[" "," \u00e9"]`: {{Text: " "}, {Text: " é"}},
	} {
		d, err := parse(readEmbeddings, `{"model":"m","input":`+input+`}`)
		if err != nil {
			t.Errorf("%s: %v", input, err)
			continue
		}
		if diff := cmp.Diff(want, d.request.Inputs); diff != "" || !d.cacheable() {
			t.Errorf("%s: %s", input, diff)
		}
	}
}

func TestEmbeddingsRefusals(t *testing.T) {
	for name, c := range map[string]struct{ body, code, param, says string }{
		"no input":       {`"x":1`, codeMissing, "input", ""},
		"null input":     {`"input":null`, codeMissing, "input", ""},
		"a number":       {`"input":7`, codeType, "input", "an array of strings"},
		"an empty text":  {`"input":""`, codeValue, "input", "empty"},
		"one of them":    {`"input":["a",""]`, codeValue, "input[1]", "empty"},
		"no texts":       {`"input":[]`, "empty_array", "input", ""},
		"no tokens":      {`"input":[[]]`, codeType, "input[0]", ""},
		"half a token":   {`"input":[1.5]`, codeType, "input[0]", ""},
		"a huge token":   {`"input":[1,99999999999]`, codeType, "input", ""},
		"below zero":     {`"input":[[1,-1]]`, codeValue, "input[0]", "negative"},
		"encoding":       {`"input":"a","encoding_format":"int8"`, codeValue, "encoding_format", "'float', 'base64'"},
		"no dimensions":  {`"input":"a","dimensions":0`, "integer_below_min_value", "dimensions", ""},
		"an unknown":     {`"input":"a","temperature":1`, codeUnknown, "temperature", ""},
		"a stream":       {`"input":"a","stream":true`, codeUnknown, "stream", ""},
		"a bad deadline": {`"input":"a","lorry":{"deadline":"soon"}`, codeValue, "lorry.deadline", ""},
	} {
		t.Run(name, func(t *testing.T) { refused(t, readEmbeddings, `{"model":"m",`+c.body+`}`, c.code, c.param, c.says) })
	}
	refused(t, readTokenize, `{"model":"m"}`, codeMissing, "content", "")
	refused(t, readTokenize, `{"model":"m","content":"a","add_special":true}`, codeUnknown, "add_special", "")
	refused(t, readDetokenize, `{"model":"m"}`, codeMissing, "tokens", "")
	refused(t, readDetokenize, `{"model":"m","tokens":"a"}`, codeType, "tokens", "")
}
