package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
	"lorry/queue"
)

func good(i int) string {
	return fmt.Sprintf(`{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`, i)
}

// with is a good line with a part replaced.
func with(old, new string) string { return strings.Replace(good(1), old, new, 1) }

func TestParseLine(t *testing.T) {
	for name, c := range map[string]struct{ line, code, param string }{
		"good":                    {good(1), "", ""},
		"spaces everywhere":       {"{ \"custom_id\" : \"c\\u0031\",\t\"method\":\"POST\" , \"url\":\"/v1/completions\", \"body\" : { \"a\" : [ 1 , {\"b\":\"}\\\\\\\"]\"} ] , \"model\" : \"m\" } }", "", ""},
		"fields that we know not": {with(`"method"`, `"priority":[{"x":null}],"method"`), "", ""},
		"stream is false":         {with(`"model"`, `"stream":false,"model"`), "", ""},
		"not JSON":                {"{", codeJSON, ""},
		"two values":              {good(1) + good(2), codeJSON, ""},
		"an array":                {"[]", codeJSON, ""},
		"a string":                {`"x"`, codeJSON, ""},
		"not UTF-8":               {with("c1", "\xff"), codeJSON, ""},
		"no custom_id":            {with(`"custom_id":"c1",`, ""), codeMissing, "custom_id"},
		"custom_id is null":       {with(`"c1"`, "null"), codeMissing, "custom_id"},
		"custom_id is a number":   {with(`"c1"`, "1"), codeType, "custom_id"},
		"custom_id is empty":      {with(`"c1"`, `""`), engine.CodeInvalidValue, "custom_id"},
		"custom_id is long":       {with("c1", strings.Repeat("x", maxCustomID+1)), engine.CodeInvalidValue, "custom_id"},
		"custom_id holds zero":    {with("c1", `\u0000`), engine.CodeInvalidValue, "custom_id"},
		"custom_id twice":         {with(`"method"`, `"custom_id":"c2","method"`), engine.CodeInvalidValue, "custom_id"},
		"another case":            {with("custom_id", "Custom_ID"), codeMissing, "custom_id"},
		"GET":                     {with("POST", "GET"), codeMethod, "method"},
		"no method":               {with(`"method":"POST",`, ""), codeMissing, "method"},
		"another url":             {with("/v1/completions", "/v1/embeddings"), codeURL, "url"},
		"no body":                 {with(`,"body":{"model":"m","prompt":"x"}`, ""), codeMissing, "body"},
		"body is a list":          {with(`{"model":"m","prompt":"x"}`, "[1]"), codeType, "body"},
		"no model":                {with(`"model":"m",`, ""), codeMissing, "body.model"},
		"model is empty":          {with(`"m"`, `""`), codeMissing, "body.model"},
		"model is an object":      {with(`"m"`, `{}`), codeType, "body.model"},
		"stream":                  {with(`"model"`, `"stream":true,"model"`), engine.CodeUnsupported, "body.stream"},
	} {
		t.Run(name, func(t *testing.T) {
			l, e := ParseLine([]byte(c.line), queue.Completions)
			if e == nil {
				if c.code != "" || l.CustomID != "c1" || l.Model != "m" || !json.Valid(l.Body) {
					t.Errorf("read %+v, want error %s", l, c.code)
				}
				return
			}
			if e.Code != c.code || e.Param != c.param || e.Message == "" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// FuzzParseLine compares with encoding/json: what it reads, we read alike.
func FuzzParseLine(f *testing.F) {
	f.Add([]byte(good(1)))
	f.Add([]byte(`{"custom_id":"\\\"","method":"POST","url":"/v1/completions","body":{"model":"m","x":[{"stream":true},"\\"],"n":-1.5e3}}`))
	f.Add([]byte("{\"\\u0062ody\":{ } }"))
	f.Add([]byte(`{"custom_id":"1","method":"POST","url":"/v1/completions","body":{"model":"m","input":[ "a" , ["]",{"b":[1,2]}],3 ]}}`))
	f.Add([]byte(`{"custom_id":"1","method":"POST","url":"/v1/completions","body":{"model":"m","input":[1,"a"]}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.Trim(text, " \t\r\n")
		if len(text) == 0 {
			return
		}
		l, e := ParseLine(text, queue.Completions)
		var want map[string]json.RawMessage
		if json.Unmarshal(text, &want) != nil || want == nil {
			if e == nil {
				t.Fatalf("read what is no object: %q", text)
			}
			return
		}
		if e != nil {
			return
		}
		var id string
		if json.Unmarshal(want["custom_id"], &id) != nil || id != l.CustomID || string(want["body"]) != string(l.Body) {
			t.Fatalf("%q: read %q %q", text, l.CustomID, l.Body)
		}
		var body map[string]json.RawMessage
		var model string
		if json.Unmarshal(l.Body, &body) != nil || json.Unmarshal(body["model"], &model) != nil || model != l.Model {
			t.Fatalf("%q: model %q", l.Body, l.Model)
		}
		if n := inputsOf(body["input"]); n != l.Inputs {
			t.Fatalf("%q: %d inputs, want %d", l.Body, l.Inputs, n)
		}
	})
}

// inputsOf counts inputs as encoding/json sees them.
func inputsOf(raw json.RawMessage) int {
	var list []json.RawMessage
	if raw == nil {
		return 0
	}
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return 1
	}
	if len(list) > 0 && list[0][0] != '"' && list[0][0] != '[' {
		return 1
	}
	return len(list)
}

// FuzzLineReader holds that lines and their places are those of the file.
func FuzzLineReader(f *testing.F) {
	f.Add([]byte("\xef\xbb\xbfa\r\n\n b \nc"))
	f.Add([]byte("\n\n"))
	f.Add([]byte(strings.Repeat("x", 200_000) + "\ny"))
	f.Fuzz(func(t *testing.T, file []byte) {
		l := newLineReader(bytes.NewReader(file))
		var got []string
		for {
			text, at, err := l.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(file[at:at+int64(len(text))], text) {
				t.Fatalf("%q is not at %d", text, at)
			}
			got = append(got, string(text))
		}
		var want []string
		for line := range bytes.SplitSeq(bytes.TrimPrefix(file, bom), []byte("\n")) {
			if s := strings.Trim(string(line), " \t\r\n"); s != "" {
				want = append(want, s)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// validated is a validation of a file, without a store.
func validated(t *testing.T, r io.Reader) *validation {
	t.Helper()
	v := &validation{endpoint: queue.Completions, offsets: newOffsets(), seen: map[[16]byte]int32{}}
	ok(t, v.readAll(r))
	_, err := v.resolve(t.Context(), func(_ context.Context, model string) (engine.Model, error) {
		if model != "m" {
			return engine.Model{}, engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "no such model")
		}
		return engine.Model{Name: "m"}, nil
	})
	ok(t, err)
	return v
}

func TestValidation(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(good(i) + "\n")
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		file string
		want string // codes and lines
		n    int
	}{
		"good":                              {good(1) + "\n" + good(2) + "\n", "", 2},
		"no newline at the end":             {good(1) + "\n" + good(2), "", 2},
		"BOM, CRLF, blank lines":            {"\xef\xbb\xbf" + good(1) + "\r\n\r\n \t\n" + good(2) + "\r\n\n", "", 2},
		"empty":                             {"", "empty_file 0", 0},
		"only blank":                        {"\n \r\n\xef\xbb\xbf"[:4], "empty_file 0", 0},
		"lines count as editors count them": {"\n" + good(1) + "\n\nx\n" + good(1), "invalid_json_line 4, duplicate_custom_id 5", 3},
		"two models":                        {good(1) + "\n" + strings.Replace(good(2), `"m"`, `"other"`, 1), "model_mismatch 2", 2},
		"no such model":                     {strings.Replace(good(2), `"m"`, `"other"`, 1), "model_not_found 1", 1},
		"errors are capped":                 {strings.Repeat("x\n", 500), strings.TrimSuffix(capped(), ", "), maxErrors},
		"as many as may be":                 {many(MaxLines), "", MaxLines},
		"one too many":                      {many(MaxLines + 1), "too_many_tasks 0", MaxLines},
		"too long":                          {good(1) + "\n" + strings.Repeat("x", MaxLine+1), "line_too_long 2", 1},
		"long, but not too long":            {with(`"x"`, `"`+strings.Repeat("x", 10<<20)+`"`), "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := validated(t, strings.NewReader(c.file))
			var got []string
			for _, e := range v.errs {
				got = append(got, fmt.Sprintf("%s %d", e.Code, e.Line))
			}
			if s := strings.Join(got, ", "); s != c.want || v.offsets.len() != c.n {
				t.Errorf("%d lines, errors: %.300s", v.offsets.len(), s)
			}
			if c.want == "" {
				checkOffsets(t, c.file, v.offsets)
			}
		})
	}
}

// TestEmbeddingInputs: a batch's inputs count over all its lines.
func TestEmbeddingInputs(t *testing.T) {
	file := func(inputs ...string) string {
		var b strings.Builder
		for i, in := range inputs {
			fmt.Fprintf(&b, `{"custom_id":"c%d","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":%s}}`+"\n", i, in)
		}
		return b.String()
	}
	list := func(item string, n int) string { return "[" + strings.Repeat(item+" , ", n-1) + item + "]" }
	for name, c := range map[string]struct {
		inputs []string
		n      int // -1: too many
	}{
		"texts":                 {[]string{`"a"`, `"b"`}, 2},
		"lists of texts":        {[]string{`["a","]"]`, `[ "b" ]`}, 3},
		"tokens are one":        {[]string{`[1,2,3]`, `[[1,2],[3]]`}, 3},
		"none":                  {[]string{`[ ]`}, 0},
		"as many as may be":     {[]string{list(`"a"`, MaxInputs-1), `"b"`}, MaxInputs},
		"one too many":          {[]string{list(`"a"`, MaxInputs), `"b"`}, -1},
		"too many in one":       {[]string{list(`[1]`, MaxInputs+1)}, -1},
		"of others none counts": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := &validation{endpoint: queue.Embeddings, offsets: newOffsets(), seen: map[[16]byte]int32{}}
			text := file(c.inputs...)
			if c.inputs == nil {
				v.endpoint, text = queue.Completions, good(1)
			}
			ok(t, v.readAll(strings.NewReader(text)))
			refused := len(v.errs) == 1 && v.errs[0].Code == "too_many_tasks" && v.errs[0].Line == 0
			if refused != (c.n < 0) || c.n >= 0 && (v.inputs != c.n || len(v.errs) > 0) {
				t.Errorf("%d inputs, errors %+v", v.inputs, v.errs)
			}
		})
	}
}

func capped() (s string) {
	for i := range maxErrors {
		s += fmt.Sprintf("invalid_json_line %d, ", i+1)
	}
	return s
}

func checkOffsets(t *testing.T, file string, o offsets) {
	t.Helper()
	back, err := readOffsets(bytes.NewReader(o))
	ok(t, err)
	for n := 1; n <= back.len(); n++ {
		at, length := back.of(n)
		if _, e := ParseLine([]byte(file[at:at+int64(length)]), queue.Completions); e != nil {
			t.Fatalf("line %d at %d: %v", n, at, e)
		}
	}
}

// duplicates are lines without end, made as they are read; the last one's custom_id is the first one's.
type duplicates struct {
	n, of int
	buf   bytes.Buffer
}

func (d *duplicates) Read(p []byte) (int, error) {
	for d.buf.Len() < len(p) && d.n < d.of {
		d.n++
		fmt.Fprintf(&d.buf, `{"custom_id":"%s%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"%s"}}`+"\n",
			strings.Repeat("i", 400), d.n%(d.of-1), strings.Repeat("x", 3000))
	}
	return d.buf.Read(p)
}

// TestDuplicatesInBoundedMemory: 50,000 lines, 180 MB; what is kept of each are a digest and an offset.
func TestDuplicatesInBoundedMemory(t *testing.T) {
	before := heap()
	v := validated(t, &duplicates{of: MaxLines})
	grown := heap() - before
	if len(v.errs) != 1 || v.errs[0].Code != codeDuplicate || v.errs[0].Line != MaxLines || !strings.Contains(v.errs[0].Message, "line 1:") {
		t.Errorf("errors: %+v", v.errs)
	}
	if grown > 16<<20 {
		t.Errorf("%d bytes are held", grown)
	}
}

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
