package llama

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/hybridgroup/yzma/pkg/loader"

	"lorry/engine"
	"lorry/engine/gguf"
)

// What llama.cpp does that this package relies on, or keeps away from. Each case was seen in v0.5.0; it fails on the day
// that the library does otherwise, and then the guard that it names wants another look.

// native is an engine's model while its loop has nothing to do: the test may call what the loop calls else.
func native(t *testing.T) *model {
	t.Helper()
	c := config(t)
	c.Slots, c.Context = 4, 512
	return open(t, c).model
}

// feed computes tokens for a sequence, from a position on, and returns llama.cpp's code.
func (m *model) feed(id, pos int, tokens ...int32) int32 {
	m.batch.Clear()
	for i, x := range tokens {
		m.batch.Add(llama.Token(x), llama.Pos(pos+i), []llama.SeqId{llama.SeqId(id)}, i == len(tokens)-1)
	}
	code, err := llama.Decode(m.ctx, m.batch)
	if err != nil {
		return badRows
	}
	return code
}

func spanned(t *testing.T, m *model, id, first, last int) {
	t.Helper()
	if a, b := m.span(id); a != first || b != last {
		t.Errorf("sequence %d holds %d to %d, want %d to %d", id, a, b, first, last)
	}
}

// TestDecodeCodes is what loop.decode, restore and relieve tell apart.
func TestDecodeCodes(t *testing.T) {
	m := native(t)
	if code := m.feed(0, 0, 1, 2, 3); code != 0 {
		t.Fatalf("three tokens: code %d", code)
	}
	t.Run("a gap", func(t *testing.T) {
		if code := m.feed(0, 7, 4); code != -1 {
			t.Errorf("code %d, want -1", code)
		}
		spanned(t, m, 0, 0, 2)
		if why := m.why(-1); !strings.Contains(why, "position") {
			t.Errorf("the log says %q: why explains nothing", why)
		}
	})
	t.Run("a position again", func(t *testing.T) {
		if code := m.feed(0, 1, 4); code != -1 {
			t.Errorf("code %d, want -1", code)
		}
		spanned(t, m, 0, 0, 2)
	})
	t.Run("a token of nobody", func(t *testing.T) {
		if code := m.feed(0, 3, int32(m.vocab.size)); code != -1 {
			t.Errorf("code %d, want -1", code)
		}
	})
	t.Run("no rows", func(t *testing.T) {
		if code := m.feed(0, 3); code != -1 {
			t.Errorf("code %d, want -1", code)
		}
	})
	t.Run("full", func(t *testing.T) {
		for pos := 0; pos+50 <= m.cells-3; pos += 50 {
			if code := m.feed(1, pos, slices.Repeat([]int32{5}, 50)...); code != 0 {
				t.Fatalf("at %d: code %d", pos, code)
			}
		}
		_, last := m.span(1)
		if code := m.feed(2, 0, slices.Repeat([]int32{6}, 63)...); code != noRoom {
			t.Errorf("code %d, want %d", code, noRoom)
		}
		spanned(t, m, 0, 0, 2)
		spanned(t, m, 1, 0, last)
		spanned(t, m, 2, -1, -1)
		m.remove(1, 0)
		if code := m.feed(2, 0, 6); code != 0 {
			t.Errorf("with room again: code %d", code)
		}
	})
}

// TestCells is what cache and tree rely on: parts may be shared and removed, by any id that llama.cpp has room for.
func TestCells(t *testing.T) {
	m := native(t)
	prompt := []int32{10, 20, 30, 40, 50}
	m.feed(0, 0, prompt...)
	want := slices.Clone(m.logits(len(prompt) - 1))
	for _, id := range []int{1, 3, 4, 200, maxSlots - 1} { // more than there are slots
		if llama.MemorySeqCp(m.mem, 0, llama.SeqId(id), 0, 3) != nil {
			t.Errorf("sequence %d can't share", id)
		}
		spanned(t, m, id, 0, 2)
	}
	t.Run("a part goes", func(t *testing.T) {
		if !m.remove(0, 2) {
			t.Error("a tail can't be removed")
		}
		spanned(t, m, 0, 0, 1)
		spanned(t, m, 200, 0, 2) // who shares keeps it
	})
	t.Run("holder goes on", func(t *testing.T) {
		if code := m.feed(200, 3, prompt[3:]...); code != 0 {
			t.Fatalf("code %d", code)
		}
		if got := m.logits(1); argmax(got) != argmax(want) || far(got, want) > 2 {
			t.Errorf("on shared cells logits are %v away", far(got, want))
		}
	})
	t.Run("nothing is shared of nothing", func(t *testing.T) {
		if m.share(2, 5, 3) {
			t.Error("an empty sequence was shared")
		}
		spanned(t, m, 5, -1, -1)
	})
}

// far is the largest distance of two rows.
func far(a, b []float32) (most float32) {
	for i := range a {
		most = max(most, a[i]-b[i], b[i]-a[i])
	}
	return most
}

// TestRows is why logits takes no row that was not marked for output.
func TestRows(t *testing.T) {
	m := native(t)
	m.feed(0, 0, 1, 2, 3)
	for i, want := range []bool{false, false, true, false} {
		if got := len(m.logits(i)) == m.vocab.size; got != want {
			t.Errorf("row %d has logits: %t", i, got)
		}
	}
	if m.logits(-1) != nil || m.logits(1<<20) != nil {
		t.Error("rows out of range have logits")
	}
	a := m.logits(2)
	first := a[0]
	m.feed(0, 3, 9)
	if b := m.logits(0); &a[0] == &b[0] && a[0] == first {
		t.Error("the row's memory is not overwritten by the next call: a copy may be needless")
	}
}

// TestFewRows asks for no more rows than there are slots, of which llama.cpp would end the process.
func TestFewRows(t *testing.T) {
	c := config(t)
	c.Slots, c.Rows = 4, 4
	e := open(t, c)
	if got := len(atOnce(t, e, 5, func(int) *engine.Request { return ask("hello", 2) })); got != 5 {
		t.Errorf("%d answers of 5", got)
	}
}

// TestGrammarSampler is what grammar and gbnf.Check rely on.
func TestGrammarSampler(t *testing.T) {
	m := native(t)
	v := m.vocab
	one := func(text string) int32 { return v.tokenize(text, false)[0] }
	judge := func(g llama.Sampler, id int32) float32 {
		d := []llama.TokenData{{Id: llama.Token(id)}}
		llama.SamplerApply(g, &llama.TokenDataArray{Data: &d[0], Size: 1, Selected: -1})
		return d[0].Logit
	}
	t.Run("judges", func(t *testing.T) {
		g := llama.SamplerInitGrammar(v.native, `root ::= "a" "b"`, "root")
		defer llama.SamplerFree(g)
		if judge(g, one("a")) != 0 || judge(g, one("b")) != negInf || judge(g, v.eos) != negInf {
			t.Error("a token that may come is not 0, or another is not -Inf")
		}
		llama.SamplerAccept(g, llama.Token(one("a")))
		c := llama.SamplerClone(g)
		defer llama.SamplerFree(c)
		llama.SamplerAccept(g, llama.Token(one("b")))
		if judge(g, v.eos) != 0 || judge(c, v.eos) != negInf || judge(c, one("b")) != 0 {
			t.Error("a copy shares the state")
		}
	})
	t.Run("takes nothing for everything", func(t *testing.T) {
		for _, text := range []string{"", "root ::= \"a\"\x00"} {
			g := llama.SamplerInitGrammar(v.native, text, "root")
			if g == 0 || judge(g, one("z")) != 0 {
				t.Errorf("%q is no longer a grammar of everything", text)
			}
			llama.SamplerFree(g)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		for _, text := range []string{`root ::= (`, `root ::= x`, `a ::= "a"`, `root ::= root "a"`, `root ::= "a`} {
			if g := llama.SamplerInitGrammar(v.native, text, "root"); g != 0 {
				t.Errorf("%q was taken", text)
				llama.SamplerFree(g)
			}
		}
	})
}

// TestAdapterCalls is why a handle of 0 is an error, and why clearing names an adapter.
func TestAdapterCalls(t *testing.T) {
	m := native(t)
	bad := filepath.Join(t.TempDir(), "bad.gguf")
	if err := os.WriteFile(bad, []byte("GGUF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/nowhere", bad, runtimeFile(t, "models", "smollm2.gguf")} {
		if h, err := llama.AdapterLoraInit(m.handle, path); h != 0 || err != nil {
			t.Errorf("%s: handle %d, %v: want none of both", path, h, err)
		}
	}
	if code := llama.SetAdaptersLora(m.ctx, nil, nil); code != -1 {
		t.Errorf("an empty list gives %d, want -1", code)
	}
}

// TestTokenizerCalls is what vocab relies on.
func TestTokenizerCalls(t *testing.T) {
	m := native(t)
	v := m.vocab
	if n := llama.TokenToPiece(v.native, llama.Token(v.tokenize(" Paris", false)[0]), make([]byte, 1), 0, false); n >= -1 {
		t.Errorf("a piece in too little room gives %d, want its size below zero", n)
	}
	const text = "<|im_start|>"
	if parsed, plain := v.tokenize(text, true), v.tokenize(text, false); len(parsed) != 1 || len(plain) < 2 || slices.Contains(plain, parsed[0]) {
		t.Errorf("parsed %v, plain %v", parsed, plain)
	}
	for _, s := range []string{"Zürich 日本語 🙂", " a  b\n\tc", "\x01"} {
		if got := v.detokenize(v.tokenize(s, false)); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// TestTensorTypes holds gguf's table against the library's own.
func TestTensorTypes(t *testing.T) {
	lib, err := purego.Dlopen(loader.GetLibraryFilename(runtimeFile(t, "lib"), "ggml-base"), purego.RTLD_NOW)
	if err != nil {
		t.Fatal(err)
	}
	var block func(int32) int64
	var size func(int32) uintptr
	purego.RegisterLibFunc(&block, lib, "ggml_blck_size")
	purego.RegisterLibFunc(&size, lib, "ggml_type_size")
	known := 0
	for i := range int32(43) { // GGML_TYPE_COUNT
		x := gguf.Tensor{Shape: [4]int64{max(1, block(i)), 1, 1, 1}, Type: gguf.Type(i)}
		if x.Type.String() == "" {
			if block(i) > 0 {
				t.Errorf("type %d is not in the table", i)
			}
			continue
		}
		if known++; x.Bytes() != int64(size(i)) || block(i) > 1 && x.Elements() != block(i) {
			t.Errorf("%s: a block of %d numbers has %d bytes, the table says %d", x.Type, block(i), size(i), x.Bytes())
		}
	}
	if known < 30 {
		t.Errorf("only %d types", known)
	}
}

// deaths end the process that calls them. Nothing in Go stops that, so each has a guard before it.
var deaths = map[string]struct {
	guard string
	call  func(m *model)
	want  string // in its last words
}{
	"NUL": {"engine.Request.Check", func(m *model) { llama.Tokenize(m.vocab.native, "a\x00b", false, true) }, "SIGABRT"},
	"forbidden token": {"grammar.accept", func(m *model) {
		g := llama.SamplerInitGrammar(m.vocab.native, `root ::= "a"`, "root")
		llama.SamplerAccept(g, llama.Token(m.vocab.tokenize("b", false)[0]))
	}, "Unexpected empty grammar stack"},
	"early end": {"grammar.accept", func(m *model) {
		g := llama.SamplerInitGrammar(m.vocab.native, `root ::= "a"`, "root")
		llama.SamplerAccept(g, llama.Token(m.vocab.eos))
	}, "llama-grammar.cpp"},
	"deep grammar": {"gbnf.Check", func(m *model) {
		llama.SamplerInitGrammar(m.vocab.native, "root ::= "+strings.Repeat("(", 20000)+`"a"`+strings.Repeat(")", 20000), "root")
	}, "SIGSEGV"},
	"too many rows": {"model.decode", func(m *model) {
		m.batch = llama.BatchInit(1000, 0, 1)
		m.feed(0, 0, slices.Repeat([]int32{1}, m.rows+1)...)
	}, "GGML_ASSERT"},
}

// asDead is an argument that makes the test binary die of what is named next.
const asDead = "die"

func die(name string) {
	e, err := Open(Config{Lib: os.Getenv("LIB"), File: os.Getenv("FILE"), Model: engine.Model{Base: "x"}, Threads: 1, Context: 256, Slots: 1})
	if err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
	fmt.Println("opened")
	deaths[name].call(e.model)
	fmt.Println("survived")
	os.Exit(0)
}

// TestDeaths wants each to end soon, with its reason on stderr: the parent has nothing else to tell of it.
func TestDeaths(t *testing.T) {
	for name, d := range deaths {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], asDead, name)
			cmd.Env = append(os.Environ(), "LIB="+runtimeFile(t, "lib"), "FILE="+runtimeFile(t, "models", "smollm2.gguf"))
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			begun := time.Now()
			err := cmd.Run()
			_, ended := errors.AsType[*exec.ExitError](err)
			if !ended || !strings.Contains(said.String(), "opened") || !strings.Contains(said.String(), d.want) {
				t.Errorf("it ended with %v, want %q: is %s still needed?\n%.2000s", err, d.want, d.guard, said.String())
			}
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("it took %v: does a debugger look at it? See loadNative", took)
			}
		})
	}
}
