package gguf

import (
	"io"
	"strings"
)

// Rank is the rank of an adapter that [Widen] takes: of all its pairs, in 32 bits, none of them the embedding's. It is 0
// of any other.
func (f *File) Rank() (rank int64) {
	for _, t := range f.Tensors {
		n := t.Shape[0]
		weight, isA := strings.CutSuffix(t.Name, sideA)
		if isA {
			n = t.Shape[1]
		}
		if t.Type != F32 || transposed(strings.TrimSuffix(weight, sideB)) || rank != 0 && n != rank {
			return 0
		}
		rank = n
	}
	return rank
}

// Widen writes an adapter, whose numbers it reads from r, with zeros added so that its rank is times as large. It changes
// a weight by the same numbers: times is a power of two, so that its scale, alpha ÷ rank, is the same to the last bit.
func Widen(w io.Writer, f *File, r io.ReaderAt, times int64) error {
	return rewrite(w, f.widerSettings(times), f.widerTensors(times), func(i int) ([]byte, error) {
		numbers, err := f.numbers(r, f.Tensors[i])
		if err != nil {
			return nil, err
		}
		return wider(f.Tensors[i], numbers, times), nil
	})
}

func (f *File) widerSettings(times int64) (all []Setting) {
	for _, s := range f.Settings {
		if alpha, ok := s.Value.(float64); ok && s.Key == "adapter.lora.alpha" {
			s.Value = alpha * float64(times)
		}
		all = append(all, s)
	}
	return all
}

func (f *File) widerTensors(times int64) (all []Tensor) {
	for _, t := range f.Tensors {
		if strings.HasSuffix(t.Name, sideA) {
			t.Shape[1] *= times
		} else {
			t.Shape[0] *= times
		}
		all = append(all, t)
	}
	return all
}

// wider is a tensor's numbers with zeros behind each matrix of an A, whose rows these are, and behind each row of a B.
func wider(t Tensor, numbers []byte, times int64) []byte {
	part := t.Type.bytes() * t.Shape[0]
	if strings.HasSuffix(t.Name, sideA) {
		part *= t.Shape[1]
	}
	wide := make([]byte, int64(len(numbers))*times)
	for at := int64(0); at < int64(len(numbers)); at += part {
		copy(wide[at*times:], numbers[at:at+part])
	}
	return wide
}
