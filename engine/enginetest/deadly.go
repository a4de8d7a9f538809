package enginetest

import (
	"os"
	"path/filepath"
	"testing"

	"lorry/engine/gguf"
)

// DeadlyModel is the path of a model over which llama.cpp ends its process, and which nothing of ours refuses before: it
// has more experts than llama.cpp takes, which is an assertion. LoRA{Layers: 1, Width: 8, KV: 8, Rank: 2} fits it.
func DeadlyModel(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deadly.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	number := func(key string, n uint64) gguf.Setting {
		return gguf.Setting{Key: "llama." + key, Kind: gguf.Uint32, Value: n}
	}
	weight := func(name string) gguf.Tensor {
		return gguf.Tensor{Name: "blk.0." + name + ".weight", Shape: [4]int64{8, 8, 1, 1}, Type: gguf.F32}
	}
	err = gguf.Write(f, []gguf.Setting{
		{Key: "general.architecture", Kind: gguf.String, Value: "llama"}, number("context_length", 64), number("embedding_length", 8),
		number("block_count", 1), number("attention.head_count", 1), number("expert_count", 100_000),
		{Key: "tokenizer.ggml.tokens", Kind: gguf.Array, Items: gguf.String, Len: 1, Value: []any{"a"}},
	}, []gguf.Tensor{weight("attn_q"), weight("attn_v")}, func(int) []byte { return make([]byte, 8*8*4) })
	if err != nil {
		t.Fatal(err)
	}
	return path
}
