package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/x448/float16"
)

// A weight in Q4_1 is d·q + m, with a q of 4 bits of its own, and d and m of its block of 32; one in Q4_0 is d·(q − 8). So
// an asymmetric block of Q4_1 is a symmetric one of Q4_0 with the same d and q, and an offset m + 8·d on all of its weights.
// What the offsets add to a product is a matrix of them, 32 times as narrow as the weights, times the sums of each 32
// numbers: two matrices, as a LoRA adapter is. Where a processor is fast with Q4_0 only, that makes a model of Q4_1 fast
// that has the same weights.
const (
	q40, q41, q80 Type = 2, 3, 8

	inBlock = 32 // weights
	bytes41 = 20 // of a block: d and m in 16 bits each, then q, in the same order as in Q4_0
	bytes80 = 34 // d in 16 bits, then 32 numbers of 8
	one16   = 0x3c00
)

// split are weights whose offsets an adapter may hold: llama.cpp multiplies by them with build_lora_mm in these
// architectures. Elsewhere an adapter's part might be left out without a word. TestSymmetricArchitectures looks at each.
var (
	split              = regexp.MustCompile(`^blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down))\.weight$`)
	splitArchitectures = []string{"gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen3"}
)

// rowsPacked is how many rows of Q4_0 llama.cpp packs together: it computes other numbers of them as slowly as Q4_1.
const rowsPacked = 8

func (t Tensor) splits() bool {
	return t.Type == q41 && split.MatchString(t.Name) && t.Shape[1]%rowsPacked == 0 && t.Shape[2]*t.Shape[3] == 1 && t.slender()
}

// slender says that the offsets take no more than the weights do: where rows are long and few they are more work than is
// saved, and more memory than the file's size tells.
func (t Tensor) slender() bool {
	a, b := t.sides()
	return a.Bytes() <= t.Bytes()-b.Bytes()
}

// Splits says whether [Symmetric] changes anything in a model.
func (f *File) Splits() bool {
	return slices.Contains(splitArchitectures, f.Architecture()) && slices.ContainsFunc(f.Tensors, Tensor.splits)
}

// Symmetric writes a model, whose head is f and whose numbers it reads from r, with its weights of Q4_1 as such of Q4_0:
// without their offsets, which [Offsets] writes.
func Symmetric(w io.Writer, f *File, r io.ReaderAt) error {
	tensors := slices.Clone(f.Tensors)
	for i, t := range tensors {
		if t.splits() {
			tensors[i].Type = q40
		}
	}
	return rewrite(w, f.Settings, tensors, func(i int) ([]byte, error) {
		numbers, err := f.numbers(r, f.Tensors[i])
		if err == nil && tensors[i].Type != f.Tensors[i].Type {
			numbers = symmetric(numbers)
		}
		return numbers, err
	})
}

// symmetric is blocks of Q4_1 without m, in the same memory.
func symmetric(blocks []byte) []byte {
	end := 0
	for at := 0; at < len(blocks); at += bytes41 {
		end += copy(blocks[end:], blocks[at:at+2])
		end += copy(blocks[end:], blocks[at+4:at+bytes41])
	}
	return blocks[:end]
}

// Offsets writes the adapter that adds what [Symmetric] left out. Its sums are exact in Q8_0, and its offsets are rounded to
// 16 bits, as the file's m are. Together they take a quarter of what the weights do where these have 576 in a row, and an
// eighth with 4,096.
func Offsets(w io.Writer, f *File, r io.ReaderAt) error {
	var from, tensors []Tensor
	for _, t := range f.Tensors {
		if t.splits() {
			a, b := t.sides()
			from, tensors = append(from, t), append(tensors, a, b)
		}
	}
	return rewrite(w, f.loraSettings(), tensors, func(i int) ([]byte, error) {
		if i%2 == 0 {
			return sums(from[i/2]), nil
		}
		numbers, err := f.numbers(r, from[i/2])
		if err != nil {
			return nil, err
		}
		return offsets(from[i/2], numbers)
	})
}

func (f *File) loraSettings() []Setting {
	return []Setting{
		{Key: "general.type", Kind: String, Value: "adapter"},
		{Key: "general.architecture", Kind: String, Value: f.Architecture()},
		{Key: "adapter.type", Kind: String, Value: "lora"},
	}
}

// sides are the tensors of a weight's offsets, as a LoRA adapter has them.
func (t Tensor) sides() (a, b Tensor) {
	rank := t.offsetRank()
	return Tensor{Name: t.Name + sideA, Shape: [4]int64{t.Shape[0], rank, 1, 1}, Type: q80},
		Tensor{Name: t.Name + sideB, Shape: [4]int64{rank, t.Shape[1], 1, 1}, Type: F16}
}

// offsetRank is how many offsets a row has, with zeros behind them up to a multiple of 32: llama.cpp multiplies rows of other
// lengths one by one.
func (t Tensor) offsetRank() int64 { return pad(t.Shape[0]/inBlock, 32) }

// sums is the matrix that adds up each 32 numbers.
func sums(t Tensor) []byte {
	blocks := t.Shape[0] / inBlock
	out := make([]byte, bytes80*blocks*t.offsetRank())
	for i := range blocks {
		b := out[bytes80*(i*blocks+i):]
		binary.LittleEndian.PutUint16(b, one16)
		for j := range inBlock {
			b[2+j] = 1
		}
	}
	return out
}

// offsets is m + 8·d of each block.
func offsets(t Tensor, blocks []byte) ([]byte, error) {
	rank, row := t.offsetRank(), t.Shape[0]/inBlock
	out := make([]byte, 2*rank*t.Shape[1])
	for i := range row * t.Shape[1] {
		b := blocks[bytes41*i:]
		x := float16.Fromfloat32(number16(b[2:]) + 8*number16(b))
		if x.IsNaN() || x.IsInf(0) {
			return nil, refuse("its tensor %q holds a number that is infinite or none", t.Name)
		}
		binary.LittleEndian.PutUint16(out[2*(i/row*rank+i%row):], x.Bits())
	}
	return out, nil
}

func number16(b []byte) float32 { return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32() }

// rewrite is Write with numbers that may be refused, or fail to be read.
func rewrite(w io.Writer, settings []Setting, tensors []Tensor, numbers func(i int) ([]byte, error)) error {
	var failed error
	err := Write(w, settings, tensors, func(i int) []byte {
		b, err := numbers(i)
		if failed == nil {
			failed = err
		}
		return b
	})
	if failed != nil {
		return failed
	}
	return err
}

// numbers are a tensor's, as the file has them.
func (f *File) numbers(r io.ReaderAt, t Tensor) ([]byte, error) {
	b := make([]byte, t.Bytes())
	if _, err := r.ReadAt(b, f.Data+t.Offset); err != nil {
		return nil, fmt.Errorf("gguf: tensor %q: %w", t.Name, err)
	}
	return b, nil
}
