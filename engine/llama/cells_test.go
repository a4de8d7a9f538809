package llama

import (
	"os"
	"path/filepath"
	"testing"

	"lorry/engine/gguf"
)

// TestCacheSize sizes the cache of Llama 3.1 8B's shape, which takes 128 KiB a token, by what is free.
func TestCacheSize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "head.gguf")
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	settings := []gguf.Setting{{Key: "general.architecture", Kind: gguf.String, Value: "llama"}}
	for key, n := range map[string]uint64{"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8} {
		settings = append(settings, gguf.Setting{Key: "llama." + key, Kind: gguf.Uint32, Value: n})
	}
	if err := gguf.Write(w, settings, nil, nil); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	const gib = 1 << 30
	gpu := func(free int64) device { return device{name: "cuda:0", free: free} }
	for name, c := range map[string]struct {
		dev    device
		slots  int
		kvType string
		file   string
		want   int
	}{
		"a CPU":              {processor, 8, "", file, 8192},
		"room for all slots": {gpu(140 * gib), 64, "", file, 131072},
		"few slots":          {gpu(140 * gib), 8, "", file, 16384},
		"half of the rest":   {gpu(8*gib + 1<<20), 64, "", file, 32768},
		"smaller numbers":    {gpu(8*gib + 1<<20), 64, "q8_0", file, 61440},
		"no room":            {gpu(gib), 64, "", file, 8192},
		"no such file":       {gpu(140 * gib), 64, "", file + "x", 8192},
	} {
		t.Run(name, func(t *testing.T) {
			if got := cells(Config{File: c.file, Slots: c.slots, KVType: c.kvType}, c.dev); got != c.want {
				t.Errorf("%d cells, want %d", got, c.want)
			}
		})
	}
}
