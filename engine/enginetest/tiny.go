package enginetest

import (
	"bytes"
	"testing"

	"lorry/engine/gguf"
)

// TinyModel is a model's file in GGUF with as little in it as passes for one. llama.cpp would not load it. Each seed's is
// another file of the same length.
func TinyModel(t testing.TB, seed byte) []byte {
	t.Helper()
	u32 := func(key string, n uint64) gguf.Setting { return gguf.Setting{Key: key, Kind: gguf.Uint32, Value: n} }
	settings := []gguf.Setting{
		{Key: "general.architecture", Kind: gguf.String, Value: "llama"}, u32("llama.block_count", 1), u32("llama.context_length", 128),
		u32("llama.embedding_length", 8), u32("llama.attention.head_count", 1),
		{Key: "tokenizer.ggml.tokens", Kind: gguf.Array, Items: gguf.String, Len: 2, Value: []any{"a", "b"}},
	}
	weight := gguf.Tensor{Name: "token_embd.weight", Shape: [4]int64{8, 2, 1, 1}, Type: gguf.F16}
	var b bytes.Buffer
	if err := gguf.Write(&b, settings, []gguf.Tensor{weight}, func(int) []byte { return bytes.Repeat([]byte{seed}, 32) }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
