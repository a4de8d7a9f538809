package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/child"
)

func measured(format string, prompt, together float64) engine.Measured {
	return engine.Measured{File: format + ".gguf", Format: format, Bytes: 98_400_000, Speed: engine.Speed{Prompt: prompt, Alone: 80, Together: together}, Perplexity: 21.5, Error: 0.9}
}

func TestPrintQuantized(t *testing.T) {
	slow, fast := measured("q4_1", 200, 100), measured("q4_0", 600, 200)
	for name, c := range map[string]struct {
		r    engine.Quantized
		want []string
	}{
		"faster":       {engine.Quantized{Before: slow, After: fast, Device: "cpu (1 threads)"}, []string{"q4_0.gguf written", "21.50 ± 0.90", "98.4", "2.68 times as fast as with q4_1"}},
		"slower":       {engine.Quantized{Before: fast, After: slow}, []string{"q4_0 is faster here: its jobs take 37 % of q4_1's time"}},
		"compared":     {engine.Quantized{Before: slow, After: fast, Tried: []engine.Measured{fast, measured("q8_0", 300, 150)}}, []string{"q8_0", "q4_0 is the fastest here"}},
		"not measured": {engine.Quantized{Before: engine.Measured{Format: "f16"}, After: engine.Measured{Format: "q8_0"}}, []string{"–", "leave out --no-measure"}},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := printQuantized(&b, c.r); err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(b.String(), w) {
					t.Errorf("no %q in\n%s", w, b.String())
				}
			}
		})
	}
}

func TestQuantizeUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no model":      {[]string{"quantize", "--to", "q4_0"}, 2, "accepts 1 arg"},
		"no format":     {[]string{"quantize", "x.gguf"}, 2, "--to is missing"},
		"unknown model": {[]string{"quantize", "nobody", "--to", "q4_0"}, 1, "no model nobody here: name a GGUF file"},
		"bench what":    {[]string{"bench", "disk"}, 2, "unknown command"},
		"bench nobody":  {[]string{"bench", "engine", "nobody"}, 1, "no model nobody here"},
	} {
		t.Run(name, func(t *testing.T) {
			e := call(t, nil, c.args...)
			if e.code != c.code || !strings.Contains(e.err, c.want) {
				t.Errorf("exit %d: %s", e.code, e.err)
			}
		})
	}
}

func TestFileOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "my.gguf")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Config{ModelFile: file, ModelName: "mine"}
	for _, by := range []string{file, "mine"} {
		if got, err := fileOf(c, by); err != nil || got != file {
			t.Errorf("by %s: %s, %v", by, got, err)
		}
	}
}

// Off a terminal a stage is one line, however often its progress is told.
func TestStages(t *testing.T) {
	var b bytes.Buffer
	s := &stages{to: &b}
	for i := range 3 {
		s.show(child.Progress{Stage: "write q4_0", Done: i, Of: 3})
	}
	s.show(child.Progress{Stage: "measure q4_0"})
	s.end()
	if b.String() != "write q4_0\nmeasure q4_0\n" {
		t.Errorf("got %q", b.String())
	}
	b.Reset()
	s = &stages{to: &b, tty: true}
	s.show(child.Progress{Stage: "write q4_0", Done: 1, Of: 2})
	s.end()
	if b.String() != "\r\033[Kwrite q4_0  50%\r\033[K" {
		t.Errorf("on a terminal: %q", b.String())
	}
}

// What is suggested can be pasted: the settings file takes it, and the engine is started with it.
func TestSuggestionIsSettings(t *testing.T) {
	want := engine.Setting{Threads: 3, Slots: 8, Rows: 128, KVType: "q8_0", Flash: true}
	var b bytes.Buffer
	if err := printTuning(&b, engine.Tuning{File: "m.gguf", Format: "q4_0", Device: "cpu (3 threads)", Cores: 4, Trials: []engine.Trial{{Knob: "rows", Error: "no room"}}, Suggest: want}); err != nil {
		t.Fatal(err)
	}
	_, paste, ok := strings.Cut(b.String(), "\n# ")
	if !ok || !strings.Contains(b.String(), "no room") {
		t.Fatalf("got %s", b.String())
	}
	c, err := loadConfig(settingsFile(t, "# "+paste), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := (engine.Setting{Threads: c.Threads, Slots: c.Slots, Rows: c.Rows, KVType: c.KVType, Flash: c.Flash}); got != want {
		t.Errorf("got %+v", got)
	}
}
