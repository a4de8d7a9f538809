package llama

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ardanlabs/jinja"

	"lorry/engine"
)

// parityFails are renders that are known to differ from Python's, by template and case, and why. Of llama.cpp's whole
// collection others differ for these reasons: the library prints 1.0 as 1 and None as nothing outside of tojson, and
// takes as empty what Python refuses as undefined; a type that is no word (enum) is Any instead of Union[].
var parityFails = map[string]string{
	"ByteDance-Seed-OSS.jinja/a call and its result": "prints 1.0 as 1 outside of tojson",
}

type render struct{ Text, Error *string }

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestTemplatesAreThoseOfPython compares templates with what Python's Jinja2 makes of them, byte for byte: models were
// trained on that. LORRY_TEMPLATES names another folder that scripts/templates was run over.
func TestTemplatesAreThoseOfPython(t *testing.T) {
	const own = "testdata/templates"
	folder := cmp.Or(os.Getenv("LORRY_TEMPLATES"), own)
	var cases map[string]struct{ Messages, Tools json.RawMessage }
	var golden map[string]map[string]render
	readJSON(t, filepath.Join(own, "cases.json"), &cases)
	readJSON(t, filepath.Join(folder, "golden.json"), &golden)
	tools, err := os.ReadFile(filepath.Join(own, "tools.json"))
	if err != nil {
		t.Fatal(err)
	}
	for file, renders := range golden {
		t.Run(file, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				t.Fatal(err)
			}
			x, err := newTemplate(string(source), "<s>", "</s>")
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range renders {
				list := tools
				if c := cases[name]; c.Tools == nil {
					list = nil
				}
				got, err := renderAsIs(x, cases[name].Messages, list)
				if why := parityFails[file+"/"+name]; why != "" {
					if agrees(want, got, err) {
						t.Errorf("%s: is listed as different, and is not: %s", name, why)
					}
					continue
				}
				if !agrees(want, got, err) {
					t.Errorf("%s:\ngot    %q, %v\npython %s", name, got, err, show(want))
				}
			}
		})
	}
}

// renderAsIs renders messages as they stand: what we make of contents and calls before is ours, and tested apart.
func renderAsIs(x *template, messages, tools json.RawMessage) (string, error) {
	list, err := decodeOrdered(messages)
	if err != nil {
		return "", err
	}
	day := func([]jinja.Value, map[string]jinja.Value) (jinja.Value, error) {
		return jinja.NewString("1 January 2026"), nil
	}
	more := variables{"strftime_now": jinja.NewCallable("strftime_now", day)}
	if tools == nil {
		return x.write(list, nil, more)
	}
	v, err := decodeOrdered(tools)
	if err != nil {
		return "", err
	}
	return x.write(list, &v, more)
}

// agrees wants the same text, or a refusal for a refusal.
func agrees(want render, got string, err error) bool {
	if want.Text == nil {
		return errors.Is(err, engine.ErrInvalid)
	}
	return err == nil && got == *want.Text
}

func show(r render) string {
	b, _ := json.Marshal(r)
	return string(b)
}

// TestPythonJSON has what Python 3.11's json.dumps wrote.
func TestPythonJSON(t *testing.T) {
	for value, want := range map[string]string{
		`1.0`: "1.0", `-0.5`: "-0.5", `1e16`: "1e+16", `123456789012345680.0`: "1.2345678901234568e+17", `0.0001`: "0.0001", `0.00001`: "1e-05",
		`0.0`: "0.0", `12345678901234567`: "12345678901234567", `[]`: "[]", `{}`: "{}", `[true,null,"a\u2028<&>\u007f"]`: "[true, null, \"a\u2028<&>\u007f\"]",
		`"\b\f\n\r\t\u0001\"\\"`: `"\b\f\n\r\t\u0001\"\\"`, `{"b":1,"a":[1,2]}`: `{"b": 1, "a": [1, 2]}`,
	} {
		v, err := decodeOrdered([]byte(value))
		if err != nil {
			t.Fatal(err)
		}
		got, err := tojsonFilter([]jinja.Value{v}, nil)
		if err != nil || got.AsString() != want {
			t.Errorf("%s: got %s, want %s", value, got.AsString(), want)
		}
	}
	v, _ := decodeOrdered([]byte(`{"b":[],"a":["é🚚",{}]}`))
	for want, named := range map[string]map[string]jinja.Value{
		"{\n  \"b\": [],\n  \"a\": [\n    \"é🚚\",\n    {}\n  ]\n}": {"indent": jinja.NewInt(2)},
		`{"a": ["é🚚", {}], "b": []}`:                               {"sort_keys": jinja.NewBool(true)},
		`{"b": [], "a": ["\u00e9\ud83d\ude9a", {}]}`:               {"ensure_ascii": jinja.NewBool(true)},
		`{"b":[],"a":["é🚚",{}]}`:                                   {"separators": jinja.NewList([]jinja.Value{jinja.NewString(","), jinja.NewString(":")})},
	} {
		if got, err := tojsonFilter([]jinja.Value{v}, named); err != nil || got.AsString() != want {
			t.Errorf("got %s, want %s", got.AsString(), want)
		}
	}
}
