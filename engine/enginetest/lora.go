package enginetest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"lorry/engine/gguf"
)

// LoRA is an adapter of random weights, made on the spot: it says nothing sensible, but something else than its base,
// and always the same. The zero value of each field is what SmolLM2-135M needs.
type LoRA struct {
	Seed uint64
	// Strength multiplies the weights. 0: 1, which makes other answers of nearly all.
	Strength float64
	// Arch is the base's architecture. Empty: llama.
	Arch string
	// Layers, Width (of the embedding) and KV (of keys and values) are the base's. 0: 30, 576 and 192.
	Layers, Width, KV int
	// Rank of the adapter's matrices. 0: 8.
	Rank int
}

// Write puts the adapter into a folder, under its digest, which it returns.
func (l LoRA) Write(t testing.TB, dir string) (digest string) {
	t.Helper()
	file := l.File(t)
	sum := sha256.Sum256(file)
	digest = hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(dir, digest), file, 0o600); err != nil {
		t.Fatal(err)
	}
	return digest
}

// File is the adapter in GGUF.
func (l LoRA) File(t testing.TB) []byte {
	t.Helper()
	l.Arch = cmp.Or(l.Arch, "llama")
	l.Strength = cmp.Or(l.Strength, 1)
	l.Layers, l.Width, l.KV, l.Rank = cmp.Or(l.Layers, 30), cmp.Or(l.Width, 576), cmp.Or(l.KV, 192), cmp.Or(l.Rank, 8)
	tensors := l.tensors()
	draw := rand.New(rand.NewPCG(l.Seed, 1))
	var b bytes.Buffer
	err := gguf.Write(&b, []gguf.Setting{
		{Key: "general.architecture", Kind: gguf.String, Value: l.Arch},
		{Key: "general.type", Kind: gguf.String, Value: "adapter"},
		{Key: "adapter.type", Kind: gguf.String, Value: "lora"},
		{Key: "adapter.lora.alpha", Kind: gguf.Float32, Value: float64(2 * l.Rank)},
	}, tensors, func(i int) []byte { return l.numbers(draw, tensors[i], i%2 == 1) })
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tensors are those of the attention's queries and values, as most adapters have them: a pair of matrices each.
func (l LoRA) tensors() (all []gguf.Tensor) {
	for i := range l.Layers {
		block := "blk." + strconv.Itoa(i)
		all = append(all,
			matrix(block+".attn_q.weight.lora_a", l.Width, l.Rank), matrix(block+".attn_q.weight.lora_b", l.Rank, l.Width),
			matrix(block+".attn_v.weight.lora_a", l.Width, l.Rank), matrix(block+".attn_v.weight.lora_b", l.Rank, l.KV))
	}
	return all
}

func matrix(name string, cols, rows int) gguf.Tensor {
	return gguf.Tensor{Name: name, Shape: [4]int64{int64(cols), int64(rows), 1, 1}, Type: gguf.F32}
}

// numbers are a matrix's, as float32: of the second of a pair such that the adapter changes what its base computes by as much again.
func (l LoRA) numbers(draw *rand.Rand, t gguf.Tensor, second bool) (b []byte) {
	scale := 1 / math.Sqrt(float64(l.Width))
	if second {
		scale = 0.25 * l.Strength
	}
	for range t.Elements() {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(scale*draw.NormFloat64())))
	}
	return b
}
