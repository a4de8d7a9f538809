package llama

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine/gguf"
)

// writeAdapter writes an adapter of some rank for the first layer's queries; change may damage it.
func writeAdapter(t *testing.T, rank int64, change func(settings []gguf.Setting, tensors []gguf.Tensor, numbers []float32)) string {
	t.Helper()
	base, err := gguf.Open(runtimeFile(t, "models", "smollm2.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := base.Tensor("blk.0.attn_q.weight")
	text := func(k, v string) gguf.Setting { return gguf.Setting{Key: k, Kind: gguf.String, Value: v} }
	settings := []gguf.Setting{text("general.type", "adapter"), text("adapter.type", "lora"), text("general.architecture", "llama"),
		{Key: "adapter.lora.alpha", Kind: gguf.Float32, Value: 16.0}}
	tensors := []gguf.Tensor{{Name: w.Name + ".lora_a", Shape: [4]int64{w.Shape[0], rank, 1, 1}}, {Name: w.Name + ".lora_b", Shape: [4]int64{rank, w.Shape[1], 1, 1}}}
	numbers := make([]float32, max(w.Shape[0], w.Shape[1])*rank)
	for i := range numbers {
		numbers[i] = float32(i%7-3) / 100
	}
	change(settings, tensors, numbers)
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = gguf.Write(f, settings, tensors, func(i int) []byte {
		var b []byte
		for _, n := range numbers[:tensors[i].Elements()] {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(n))
		}
		return b
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspectAdapter(t *testing.T) {
	asIs := func([]gguf.Setting, []gguf.Tensor, []float32) {}
	c := Inspection{Base: runtimeFile(t, "models", "smollm2.gguf"), Lib: runtimeFile(t, "lib"), File: writeAdapter(t, 8, asIs)}
	r, err := Inspect(c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != "adapter" || r.Rank != 8 || r.Alpha != 16 || !r.Loaded || r.Tensors != 2 {
		t.Errorf("got %+v", r)
	}
	for name, change := range map[string]func([]gguf.Setting, []gguf.Tensor, []float32){
		"no number":     func(_ []gguf.Setting, _ []gguf.Tensor, n []float32) { n[5] = float32(math.NaN()) },
		"other base":    func(_ []gguf.Setting, x []gguf.Tensor, _ []float32) { x[1].Shape[1]-- },
		"other weight":  func(_ []gguf.Setting, x []gguf.Tensor, _ []float32) { x[0].Name, x[1].Name = "x.lora_a", "x.lora_b" },
		"other kind":    func(s []gguf.Setting, _ []gguf.Tensor, _ []float32) { s[1].Value = "control" },
		"alpha as text": func(s []gguf.Setting, _ []gguf.Tensor, _ []float32) { s[3].Kind, s[3].Value = gguf.String, "16" },
	} {
		t.Run(name, func(t *testing.T) {
			c.File = writeAdapter(t, 8, change)
			if _, err := Inspect(c); !errors.Is(err, gguf.ErrInvalid) || !strings.Contains(err.Error(), c.File) {
				t.Errorf("got %v", err)
			}
		})
	}
}
