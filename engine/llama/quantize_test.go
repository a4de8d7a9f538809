package llama

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// quantized writes the demo's model in a format, into a folder of its own.
func quantized(t *testing.T, from, to string) string {
	t.Helper()
	q := Quantization{Lib: runtimeFile(t, "lib"), From: from, Out: filepath.Join(t.TempDir(), to+".gguf"), To: to, Requantize: true, Threads: 1}
	last, of := 0, -1
	q.Progress = func(done, all int) { last, of = done, all }
	if err := Quantize(q); err != nil {
		t.Fatal(err)
	}
	if last != of {
		t.Errorf("the progress of %s ends at %d of %d", to, last, of)
	}
	if _, err := os.Lstat(q.Partial()); err == nil {
		t.Errorf("%s is left behind", q.Partial())
	}
	return q.Out
}

// Writing a model in half-precision numbers changes nothing that matters; two bits a weight do.
func TestQuantize(t *testing.T) {
	demo := runtimeFile(t, "models", "smollm2.gguf")
	f16 := quantized(t, demo, "f16")
	perplexities := map[string]float64{}
	for name, file := range map[string]string{"as it is": demo, "f16": f16, "q2_k": quantized(t, f16, "q2_k")} {
		c := config(t)
		c.File, c.Context = file, 256
		b, err := OpenBench(c)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ppl, stderr, err := b.Perplexity(func(int, int) {})
		if err != nil || stderr <= 0 {
			t.Errorf("%s: perplexity %.2f ± %.2f, %v", name, ppl, stderr, err)
		}
		perplexities[name] = ppl
	}
	if before, after := perplexities["as it is"], perplexities["f16"]; after < before*0.98 || after > before*1.02 {
		t.Errorf("in f16 the perplexity is %.2f, before it was %.2f", after, before)
	}
	if p := perplexities; p["q2_k"] < 1.1*p["f16"] || p["f16"] < 2 {
		t.Errorf("perplexities %v: two bits a weight should do harm", p)
	}
}

func TestMeasure(t *testing.T) {
	c := config(t)
	b, err := OpenBench(c)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.lengths = brief
	s, err := b.Measure()
	if err != nil || s.Prompt <= 0 || s.Alone <= 0 || s.Together <= 0 || s.Job() <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if first, _ := b.m.span(0); first >= 0 {
		b.clear()
		if first, last := b.m.span(0); first >= 0 {
			t.Errorf("cells %d to %d are held after clear", first, last)
		}
	}
	if _, err := b.Answers(99); err == nil {
		t.Error("99 answers fit into 8 slots")
	}
}

func TestQuantizeRefuses(t *testing.T) {
	demo, lib := runtimeFile(t, "models", "smollm2.gguf"), runtimeFile(t, "lib")
	dir := t.TempDir()
	there := filepath.Join(dir, "there.gguf")
	text := filepath.Join(dir, "text.gguf")
	for _, f := range []string{there, text} {
		if err := os.WriteFile(f, []byte("no model, but long enough to hold a header"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out.gguf")
	for name, c := range map[string]struct {
		q    Quantization
		want string
	}{
		"unknown format":  {Quantization{From: demo, Out: out, To: "q4"}, "take one of bf16, f16, f32, iq4_nl"},
		"needs a matrix":  {Quantization{From: demo, Out: out, To: "iq2_xxs"}, "not known"},
		"quantized twice": {Quantization{From: demo, Out: out, To: "q4_0"}, "--requantize"},
		"nothing to do":   {Quantization{From: demo, Out: out, To: "q4_1", Requantize: true}, "is q4_1 as it is"},
		"target there":    {Quantization{From: demo, Out: there, To: "q4_0", Requantize: true}, "is there already"},
		"no folder":       {Quantization{From: demo, Out: filepath.Join(dir, "a", "b"), To: "q4_0", Requantize: true}, "no such file"},
		"a NUL":           {Quantization{From: demo, Out: out + "\x00", To: "q4_0"}, "NUL"},
		"no target":       {Quantization{From: demo, To: "q4_0"}, "empty"},
		"no model":        {Quantization{From: text, Out: out, To: "q4_0"}, "no GGUF file"},
		"no file":         {Quantization{From: text + "x", Out: out, To: "q4_0"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			c.q.Lib = lib
			err := Quantize(c.q)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestChooseDevice(t *testing.T) {
	two := []device{{name: "cuda:0", about: "NVIDIA A"}, {name: "cuda:1", about: "NVIDIA B", index: 1}}
	for name, c := range map[string]struct {
		want  string
		found []device
		index int
		err   string
	}{
		"nothing asked, nothing there": {"", nil, -1, ""},
		"nothing asked":                {"", two, 0, ""},
		"the processor":                {"cpu", two, -1, ""},
		"any":                          {"gpu", two, 0, ""},
		"a kind":                       {"CUDA", two, 0, ""},
		"a name":                       {"cuda:1", two, 1, ""},
		"not that one":                 {"cuda:2", two, 0, "cuda:1 NVIDIA B"},
		"none there":                   {"gpu", nil, 0, "make runtime-cuda"},
		"another kind":                 {"metal", two, 0, `"metal" is not here`},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := choose(c.want, c.found)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || d.index != c.index {
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
	if got := shortName("CUDA0"); got != "cuda:0" {
		t.Errorf("CUDA0 is called %q", got)
	}
}

func TestStartSettingsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Config)
		want string
	}{
		"a device that is not there": {func(c *Config) { c.Device = "cuda:7" }, "is not here"},
		"an unknown KV type":         {func(c *Config) { c.KVType = "q3" }, "take f16 or q8_0"},
		"a small KV the long way":    {func(c *Config) { c.KVType, c.NoFlash = "q8_0", true }, "needs flash attention"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := config(t)
			conf.Model.Base = "x" // its digest is not wanted
			c.set(&conf)
			e, err := Open(conf)
			if err == nil {
				e.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
