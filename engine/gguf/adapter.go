package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// maxRank bounds an adapter's rank. Those in use have 4 to 256.
const maxRank = 4096

// The ends of the names of an adapter's tensors: each weight of the base has a pair.
const (
	sideA = ".lora_a"
	sideB = ".lora_b"
)

// CheckAdapter refuses a file that is no LoRA adapter for base. llama.cpp checks most of it as well, but ends the process
// over the rest: over ranks that differ in an adapter of the embedding, over what it can't multiply by.
func CheckAdapter(f, base *File) error {
	if t, kind := f.Text("general.type"), f.Text("adapter.type"); t != "adapter" || kind != "lora" {
		return refuse("it is of the type %q (adapter type %q), not a LoRA adapter", t, kind)
	}
	if a, b := f.Architecture(), base.Architecture(); a != b {
		return refuse("it is an adapter for the architecture %q, and the base is %q", a, b)
	}
	if _, ok := f.Setting("adapter.alora.invocation_tokens"); ok {
		return refuse("it is an activated LoRA, which only begins at some token: that is not supported")
	}
	if s, ok := f.Setting("adapter.lora.alpha"); ok {
		if alpha, _ := s.Value.(float64); s.Kind != Float32 || math.IsNaN(alpha) || math.IsInf(alpha, 0) {
			return refuse("its adapter.lora.alpha is %v, not a number in 32 bits", s.Value)
		}
	}
	if len(f.Tensors) == 0 {
		return refuse("it holds no tensors")
	}
	for _, t := range f.Tensors {
		if err := f.checkSide(t, base); err != nil {
			return err
		}
	}
	return nil
}

// checkSide looks at one half of a pair. The pair is looked at with its first half.
func (f *File) checkSide(t Tensor, base *File) error {
	weight, isA := strings.CutSuffix(t.Name, sideA)
	if !isA {
		var isB bool
		if weight, isB = strings.CutSuffix(t.Name, sideB); !isB {
			return refuse("its tensor %q is no half of a LoRA pair: what else was trained would be left out", t.Name)
		}
	}
	if !layouts[t.Type].weights {
		return refuse("its tensor %q is of the type %s, which nothing is multiplied by", t.Name, t.Type)
	}
	a, okA := f.Tensor(weight + sideA)
	b, okB := f.Tensor(weight + sideB)
	if !okA || !okB {
		return refuse("its tensor %q has no other half", t.Name)
	}
	w, ok := base.Tensor(weight)
	if !ok {
		return refuse("it changes %q, which the base does not have: is it for another base?", weight)
	}
	return checkPair(a, b, w)
}

// checkPair holds shapes against each other. A weight maps a row's length to its second dimension; A maps to the rank,
// and B from there. llama.cpp wants the embedding's the other way round.
func checkPair(a, b, w Tensor) error {
	rank, in, out := a.Shape[1], a.Shape[0], b.Shape[1]
	want, inner := [2]int64{w.Shape[0], w.Shape[1]}, b.Shape[0]
	if transposed(w.Name) {
		rank, in, out = a.Shape[0], b.Shape[1], a.Shape[1]
	}
	switch {
	case in != want[0] || out != want[1] || inner != rank || a.Shape[2] != w.Shape[2] || b.Shape[2] != w.Shape[2] ||
		a.Shape[3] != w.Shape[3] || b.Shape[3] != w.Shape[3]:
		return refuse("it changes %q by %s and %s, which do not fit its %s: is it for another base?",
			w.Name, describe(a.Shape), describe(b.Shape), describe(w.Shape))
	case rank > maxRank || rank > max(in, out):
		return refuse("it changes %q with the rank %d: at most %d makes sense", w.Name, rank, min(maxRank, max(in, out)))
	}
	return nil
}

// transposed says that llama.cpp wants a weight's pair the other way round.
func transposed(weight string) bool { return strings.HasSuffix(weight, "token_embd.weight") }

// Finite reads the numbers of a file's tensors, where they are not quantized, and refuses one that is infinite or no
// number at all: all answers would be.
func Finite(f *File, r io.ReaderAt) error {
	buf := make([]byte, 64<<10)
	for _, t := range f.Tensors {
		bad, ok := infinite[t.Type]
		if !ok {
			continue
		}
		in := io.NewSectionReader(r, f.Data+t.Offset, t.Bytes())
		for {
			n, err := io.ReadFull(in, buf)
			if bad(buf[:n]) {
				return refuse("its tensor %q holds a number that is infinite or none", t.Name)
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				return fmt.Errorf("gguf: tensor %q: %w", t.Name, err)
			}
		}
	}
	return nil
}

// infinite says for each plain type whether one of its numbers has an exponent of ones.
var infinite = map[Type]func([]byte) bool{
	F32:  func(b []byte) bool { return exponent(b, 4, 0x7f800000) },
	F16:  func(b []byte) bool { return exponent(b, 2, 0x7c00) },
	BF16: func(b []byte) bool { return exponent(b, 2, 0x7f80) },
}

func exponent(b []byte, size int, mask uint32) bool {
	for ; len(b) >= size; b = b[size:] {
		n := uint32(binary.LittleEndian.Uint16(b))
		if size == 4 {
			n = binary.LittleEndian.Uint32(b)
		}
		if n&mask == mask {
			return true
		}
	}
	return false
}
