package main

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"lorry/engine/gguf"
)

// number is a float16's value.
func number(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	return sign * math.Ldexp(1+float64(h&0x3ff)/1024, int(h>>10&0x1f)-15)
}

// packed are the numbers in a byte.
func packed(x byte, bits int) []float64 {
	if bits == 4 {
		return []float64{float64(x & 15), float64(x >> 4)}
	}
	return []float64{float64(int8(x))}
}

// A matrix of random weights keeps the length of what it is multiplied with, in all formats.
func TestRandomWeights(t *testing.T) {
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			const width = 4096
			b := numbers(gguf.Tensor{Shape: [4]int64{width, 8, 1, 1}, Type: l.kind}, l, rand.New(rand.NewPCG(1, 1)))
			var sum, squares float64
			var n int
			size := len(b) / (width * 8 / 32)
			for block := b; len(block) > 0; block = block[size:] {
				scale, offset := number(binary.LittleEndian.Uint16(block)), 0.0
				at := 2
				switch {
				case l.bits == 4 && l.zero == 0:
					offset = -8
				case l.zero != 0:
					offset, at = number(binary.LittleEndian.Uint16(block[2:]))/scale, 4
				}
				for _, x := range block[at:size] {
					for _, q := range packed(x, l.bits) {
						sum, squares, n = sum+scale*(q+offset), squares+scale*scale*(q+offset)*(q+offset), n+1
					}
				}
			}
			length := math.Sqrt(squares / float64(n) * width)
			if n != width*8 || math.Abs(length-1) > 0.05 || math.Abs(sum/float64(n)) > 0.15/math.Sqrt(width) {
				t.Errorf("%d weights, mean %g, a row of length %.3f, want 1", n, sum/float64(n), length)
			}
		})
	}
}

// A small one passes what pushed models must pass, and has the other's vocabulary whole.
func TestShape(t *testing.T) {
	dir := t.TempDir()
	small, again := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	words := make([]any, 3000)
	for i := range words {
		words[i] = "w"
	}
	like := filepath.Join(dir, "like")
	writeFile(t, like, []gguf.Setting{
		{Key: "tokenizer.ggml.model", Kind: gguf.String, Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Kind: gguf.Array, Items: gguf.String, Len: len(words), Value: words},
	})
	if err := shapes["tiny"].write(small, "q4_1", like); err != nil {
		t.Fatal(err)
	}
	if err := shapes["tiny"].write(again, "q8_0", small); err != nil { // its vocabulary is whole
		t.Fatal(err)
	}
	f, err := gguf.Open(again)
	if err != nil {
		t.Fatal(err)
	}
	if err := gguf.CheckModel(f); err != nil {
		t.Error(err)
	}
	if err := shapes["tiny"].write(small, "q2_k", like); err == nil {
		t.Error("a format without random weights is written")
	}
}

func writeFile(t *testing.T, file string, settings []gguf.Setting) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(gguf.Write(f, settings, nil, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
}
