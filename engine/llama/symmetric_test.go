package llama

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/rs/zerolog"
	"github.com/x448/float16"

	"lorry/engine"
	"lorry/engine/enginetest"
	"lorry/engine/gguf"
)

const typeQ41 gguf.Type = 3

// small is a model of two layers whose weights in Q4_1 are mostly offsets, of an architecture with some extra tensors.
type small struct {
	architecture string
	norms        []string // of its layers, by their lengths: beside attn_norm and ffn_norm
	fused        bool     // Q, K and V in one matrix, and gate and up
}

const (
	smallWidth = 256
	smallHead  = 128
	smallWords = 2048
)

func (s small) tensors() (all []gguf.Tensor) {
	add := func(name string, t gguf.Type, cols, rows int) {
		all = append(all, gguf.Tensor{Name: name + ".weight", Shape: [4]int64{int64(cols), int64(rows), 1, 1}, Type: t})
	}
	weight := func(name string, rows int) { add(name, typeQ41, smallWidth, rows) }
	add("token_embd", gguf.F16, smallWidth, smallWords)
	for i := range 2 {
		block := fmt.Sprintf("blk.%d.", i)
		for _, n := range append([]string{"attn_norm", "ffn_norm"}, s.norms...) {
			long := smallWidth
			if strings.HasSuffix(n, "_q_norm") || strings.HasSuffix(n, "_k_norm") {
				long = smallHead
			}
			add(block+n, gguf.F32, long, 1)
		}
		if s.fused {
			weight(block+"attn_qkv", 3*smallWidth)
			weight(block+"ffn_up", 2*smallWidth)
		} else {
			for _, n := range []string{"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"} {
				weight(block+n, smallWidth)
			}
		}
		weight(block+"attn_output", smallWidth)
		weight(block+"ffn_down", smallWidth)
	}
	add("output_norm", gguf.F32, smallWidth, 1)
	return all
}

func (s small) settings(like *gguf.File) (all []gguf.Setting) {
	all = append(all, gguf.Setting{Key: "general.architecture", Kind: gguf.String, Value: s.architecture})
	for key, n := range map[string]uint64{"block_count": 2, "context_length": 512, "embedding_length": smallWidth, "feed_forward_length": smallWidth,
		"attention.head_count": 2, "attention.head_count_kv": 2, "attention.key_length": smallHead, "attention.value_length": smallHead,
		"rope.dimension_count": smallHead} {
		all = append(all, gguf.Setting{Key: s.architecture + "." + key, Kind: gguf.Uint32, Value: n})
	}
	all = append(all, gguf.Setting{Key: s.architecture + ".attention.layer_norm_rms_epsilon", Kind: gguf.Float32, Value: 1e-5})
	for _, x := range like.Settings {
		if strings.HasPrefix(x.Key, "tokenizer.") {
			all = append(all, fewer(x, like))
		}
	}
	return all
}

// fewer is a vocabulary's setting for its first words only.
func fewer(x gguf.Setting, like *gguf.File) gguf.Setting {
	items, _ := x.Value.([]any)
	if len(items) <= smallWords {
		return x
	}
	if x.Key == "tokenizer.ggml.merges" {
		words, _ := like.Setting("tokenizer.ggml.tokens")
		known := map[any]bool{}
		for _, w := range words.Value.([]any)[:smallWords] {
			known[w] = true
		}
		x.Value = slices.DeleteFunc(slices.Clone(items), func(m any) bool { return !known[strings.Replace(m.(string), " ", "", 1)] })
	} else {
		x.Value = items[:smallWords]
	}
	return x
}

// write makes the model's file, with SmolLM2's vocabulary.
func (s small) write(t *testing.T) string {
	t.Helper()
	like, err := gguf.OpenWhole(runtimeFile(t, "models", "smollm2.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	tensors, draw := s.tensors(), rand.New(rand.NewPCG(7, 7))
	path := filepath.Join(t.TempDir(), s.architecture+".gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = gguf.Write(f, s.settings(like), tensors, func(i int) []byte { return smallNumbers(tensors[i], draw) })
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func smallNumbers(t gguf.Tensor, draw *rand.Rand) (b []byte) {
	half := func(x float32) { b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(x).Bits()) }
	for int64(len(b)) < t.Bytes() {
		switch t.Type {
		case gguf.F32:
			b = append(b, 0, 0, 0x80, 0x3f) // 1
		case gguf.F16:
			half(draw.Float32() - 0.5)
		default:
			half(0.002)
			half(draw.Float32()/8 - 0.08)
			b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, draw.Uint64()), draw.Uint64())
		}
	}
	return b
}

// following is what a model says comes after some text, from 0 for the least likely token to 1.
func following(t *testing.T, m *model) []float32 {
	t.Helper()
	m.remove(0, 0)
	if code := m.feed(0, 0, 504, 1917, 2, 339, 45, 900, 77, 1234); code != 0 {
		t.Fatal("code", code)
	}
	row := slices.Clone(m.logits(7))
	low, high := slices.Min(row), slices.Max(row)
	for i := range row {
		row[i] = (row[i] - low) / (high - low)
	}
	return row
}

func openSmall(t *testing.T, file string, asIs bool) *model {
	t.Helper()
	c := config(t)
	c.File, c.asIs, c.Slots, c.Context, c.Rows = file, asIs, 2, 512, 64
	if err := load(c.Lib); err != nil {
		t.Fatal(err)
	}
	m, err := openModel(c, processor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.free)
	return m
}

// TestSymmetricArchitectures: each architecture whose weights are split computes with the offsets of each of them.
func TestSymmetricArchitectures(t *testing.T) {
	for _, s := range []small{
		{architecture: "llama"}, {architecture: "qwen2"}, {architecture: "qwen3", norms: []string{"attn_q_norm", "attn_k_norm"}},
		{architecture: "gemma2", norms: []string{"post_attention_norm", "post_ffw_norm"}},
		{architecture: "gemma3", norms: []string{"post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"}},
		{architecture: "phi3", fused: true},
	} {
		t.Run(s.architecture, func(t *testing.T) {
			file := s.write(t)
			want, m := following(t, openSmall(t, file, true)), openSmall(t, file, false)
			if m.offsets == 0 {
				t.Fatal("it was not split")
			}
			rounding := far(following(t, m), want)
			if rounding > 0.02 {
				t.Errorf("its logits are %v from those of its file", rounding)
			}
			for _, name := range []string{"attn_q.", "attn_k.", "attn_v.", "attn_qkv.", "attn_output.", "ffn_gate.", "ffn_up.", "ffn_down."} {
				if !leaveOut(t, m, file, name) {
					continue
				}
				if d := far(following(t, m), want); d < 4*rounding {
					t.Errorf("without the offsets of %sweight its logits are %v from those of its file, and %v with them: are they used?", name, d, rounding)
				}
			}
		})
	}
}

// leaveOut has a model compute with the offsets of all weights but some, if there are such.
func leaveOut(t *testing.T, m *model, file, name string) bool {
	t.Helper()
	f, err := gguf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	all := len(f.Tensors)
	f.Tensors = slices.DeleteFunc(f.Tensors, func(x gguf.Tensor) bool { return strings.Contains(x.Name, name) })
	if len(f.Tensors) == all {
		return false
	}
	r, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path, done, err := temporary(func(w io.Writer) error { return gguf.Offsets(w, f, r) })
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	handle, err := llama.AdapterLoraInit(m.handle, path)
	if err != nil || llama.SetAdaptersLora(m.ctx, []llama.AdapterLora{handle}, []float32{1}) != 0 {
		t.Fatal("it can't be used", err)
	}
	return true
}

// TestSymmetricEverywhere: every context of an engine computes with the offsets, beside an adapter too.
func TestSymmetricEverywhere(t *testing.T) {
	c := config(t)
	c.File, c.Adapters, c.Context = small{architecture: "llama"}.write(t), t.TempDir(), 512
	digest := enginetest.LoRA{Seed: 3, Layers: 2, Width: smallWidth, KV: smallWidth}.Write(t, c.Adapters)
	split := open(t, c)
	c.asIs = true
	whole := open(t, c)
	if split.model.offsets == 0 || whole.model.offsets != 0 {
		t.Fatal("the wrong one is split")
	}
	for _, adapter := range []string{"", digest, ""} {
		q := ask("One, two, three,", 1)
		q.Model.Adapter, q.Sampling.Logprobs, q.Sampling.TopLogprobs = adapter, true, 5
		sameTop(t, q, whole, split)
		if adapter == "" {
			q.Deterministic = true
			sameTop(t, q, whole, split)
		}
		v := embedRequest("One, two, three.")
		v.Model.Adapter = adapter
		if x := cosine(answer(t, whole, v).Embeddings[0], answer(t, split, v).Embeddings[0]); x < 0.999 {
			t.Errorf("the vectors with the adapter %.4q have the cosine %v", adapter, x)
		}
	}
}

// sameTop holds the most likely tokens of two engines against each other.
func sameTop(t *testing.T, q *engine.Request, a, b *Engine) {
	t.Helper()
	x, y := answer(t, a, q).Choices[0].Logprobs[0].Top, answer(t, b, q).Choices[0].Logprobs[0].Top
	if d := x[0].Logprob - y[0].Logprob; x[0].Token != y[0].Token || d > 0.1 || d < -0.1 {
		t.Errorf("deterministic %v, adapter %.4q: %v by the file, and %v split", q.Deterministic, q.Model.Adapter, x[0], y[0])
	}
}

// TestSymmetricNoRoom: what can't be split is computed as it is, and the log says why.
func TestSymmetricNoRoom(t *testing.T) {
	var log bytes.Buffer
	c := config(t)
	c.File, c.Context, c.Log = small{architecture: "llama"}.write(t), 512, zerolog.New(&log)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	if e := open(t, c); e.model.offsets != 0 || !strings.Contains(log.String(), "TMPDIR") {
		t.Errorf("split: %v, logged %s", e.model.offsets != 0, &log)
	}
}
