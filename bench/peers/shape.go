package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/x448/float16"

	"lorry/engine/gguf"
)

// shape is a model's of llama's architecture. One of random weights computes as long as a trained one.
type shape struct{ layers, width, hidden, heads, groups int } // groups share keys and values

// shapes are those that -shape takes: "8b" is Llama 3.1 8B's but for the vocabulary, "1b" TinyLlama's.
var shapes = map[string]shape{
	"8b":   {32, 4096, 14336, 32, 8},
	"1b":   {22, 2048, 5632, 32, 4},
	"tiny": {2, 64, 128, 4, 2},
}

func shapeNames() string { return strings.Join(slices.Sorted(maps.Keys(shapes)), ", ") }

// layout of a block of 32 numbers: float16 constants before the numbers themselves, in bits each. Their sum gives
// weights around zero: scale × n, and for q4_1 offset + scale × n.
type layout struct {
	kind gguf.Type
	bits int
	zero float64 // what n is where the weight is 0, if an offset follows the scale; 0: none does
}

var layouts = map[string]layout{
	"q4_0": {kind: 2, bits: 4},
	"q4_1": {kind: 3, bits: 4, zero: 7.5},
	"q8_0": {kind: 8, bits: 8},
}

func formatNames() string { return strings.Join(slices.Sorted(maps.Keys(layouts)), ", ") }

// write makes a model of the shape, with the vocabulary and chat template of another one.
func (s shape) write(file, format, like string) error {
	l, ok := layouts[format]
	if !ok {
		return fmt.Errorf("random weights are written as %s, not as %s: -weights", formatNames(), format)
	}
	f, err := gguf.OpenWhole(like)
	if err != nil {
		return err
	}
	words, ok := f.Setting("tokenizer.ggml.tokens")
	if !ok {
		return fmt.Errorf("%s has no vocabulary to take", like)
	}
	w, err := os.Create(file)
	if err != nil {
		return err
	}
	tensors := s.tensors(words.Len, l.kind)
	draw := rand.New(rand.NewPCG(1, 2))
	err = gguf.Write(w, s.settings(f), tensors, func(i int) []byte { return numbers(tensors[i], l, draw) })
	return cmp.Or(err, w.Close())
}

// settings are the shape's own, and the other model's vocabulary.
func (s shape) settings(like *gguf.File) []gguf.Setting {
	number := func(key string, n int) gguf.Setting {
		return gguf.Setting{Key: key, Kind: gguf.Uint32, Value: uint64(n)}
	}
	out := []gguf.Setting{
		{Key: "general.architecture", Kind: gguf.String, Value: "llama"},
		number("llama.block_count", s.layers), number("llama.embedding_length", s.width), number("llama.feed_forward_length", s.hidden),
		number("llama.attention.head_count", s.heads), number("llama.attention.head_count_kv", s.groups),
		number("llama.rope.dimension_count", s.width/s.heads), number("llama.context_length", 131072),
		{Key: "llama.attention.layer_norm_rms_epsilon", Kind: gguf.Float32, Value: 1e-5},
		{Key: "llama.rope.freq_base", Kind: gguf.Float32, Value: 500000.0},
	}
	for _, x := range like.Settings {
		if strings.HasPrefix(x.Key, "tokenizer.") {
			out = append(out, x)
		}
	}
	return out
}

func (s shape) tensors(words int, kind gguf.Type) (all []gguf.Tensor) {
	add := func(name string, kind gguf.Type, cols, rows int) {
		all = append(all, gguf.Tensor{Name: name + ".weight", Shape: [4]int64{int64(cols), int64(rows), 1, 1}, Type: kind})
	}
	kv := s.width / s.heads * s.groups
	add("token_embd", kind, s.width, words)
	for i := range s.layers {
		block := "blk." + strconv.Itoa(i) + "."
		add(block+"attn_norm", gguf.F32, s.width, 1)
		add(block+"attn_q", kind, s.width, s.width)
		add(block+"attn_k", kind, s.width, kv)
		add(block+"attn_v", kind, s.width, kv)
		add(block+"attn_output", kind, s.width, s.width)
		add(block+"ffn_norm", gguf.F32, s.width, 1)
		add(block+"ffn_gate", kind, s.width, s.hidden)
		add(block+"ffn_up", kind, s.width, s.hidden)
		add(block+"ffn_down", kind, s.hidden, s.width)
	}
	add("output_norm", gguf.F32, s.width, 1)
	add("output", kind, s.width, words)
	return all
}

// numbers of a matrix keep the length of what it is multiplied with; those of a norm are 1.
func numbers(t gguf.Tensor, l layout, draw *rand.Rand) []byte {
	out := make([]byte, t.Bytes())
	if t.Type == gguf.F32 {
		for i := 0; i < len(out); i += 4 {
			binary.LittleEndian.PutUint32(out[i:], math.Float32bits(1))
		}
		return out
	}
	spread := math.Exp2(float64(l.bits)) / math.Sqrt(12) // of numbers of so many bits
	scale := 1 / (spread * math.Sqrt(float64(t.Shape[0])))
	half := func(b []byte, x float64) []byte {
		return binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(float32(x)).Bits())
	}
	before := half(nil, scale)
	if l.zero != 0 {
		before = half(before, -l.zero*scale)
	}
	for at := 0; at < len(out); at += copy(out[at:], before) + 4*l.bits {
		for i := at + len(before); i < at+len(before)+4*l.bits; i += 8 {
			binary.LittleEndian.PutUint64(out[i:], draw.Uint64())
		}
	}
	return out
}
