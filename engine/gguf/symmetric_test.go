package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/x448/float16"
)

// blocks41 are random ones of Q4_1, with some of the values of d and m that there can be.
func blocks41(draw *rand.Rand, n int64) (b []byte) {
	for range n {
		d, m := draw.Float32()*0.1-0.02, draw.Float32()*2-1
		b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(d).Bits())
		b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(m).Bits())
		for range 2 {
			b = binary.LittleEndian.AppendUint64(b, draw.Uint64())
		}
	}
	return b
}

// of4bits are a row's weights of blocks of 4 bits: d·(q − zero) + m, where m follows d if there is one.
func of4bits(b []byte, zero float64, offset bool) (all []float64) {
	for len(b) > 0 {
		d, m := float64(number16(b)), 0.0
		b = b[2:]
		if offset {
			m, b = float64(number16(b)), b[2:]
		}
		for i := range 32 {
			q := b[i%16] >> (i / 16 * 4) & 15
			all = append(all, d*(float64(q)-zero)+m)
		}
		b = b[16:]
	}
	return all
}

// TestSymmetric: a weight is what it was, but for the rounding of an offset to 16 bits.
func TestSymmetric(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	tensors := []Tensor{matrix("token_embd.weight", q41, 96, 8), matrix("blk.0.attn_q.weight", q41, 288, 256), matrix("blk.0.attn_norm.weight", F32, 96),
		matrix("blk.0.ffn_down.weight", q41, 1056, 256), matrix("blk.0.ffn_up.weight", q41, 64, 260)}
	var numbers [][]byte
	for _, x := range tensors {
		b := make([]byte, x.Bytes())
		if x.Type == q41 {
			b = blocks41(draw, x.Elements()/32)
		}
		numbers = append(numbers, b)
	}
	var whole, symmetric, offsets bytes.Buffer
	if err := Write(&whole, []Setting{text("general.architecture", "llama")}, tensors, func(i int) []byte { return numbers[i] }); err != nil {
		t.Fatal(err)
	}
	f := read(t, whole.Bytes())
	if !f.Splits() {
		t.Fatal("it has nothing to split")
	}
	r := bytes.NewReader(whole.Bytes())
	if err := errors.Join(Symmetric(&symmetric, f, r), Offsets(&offsets, f, r)); err != nil {
		t.Fatal(err)
	}
	m, a := read(t, symmetric.Bytes()), read(t, offsets.Bytes())
	if err := CheckAdapter(a, f); err != nil {
		t.Error(err)
	}
	if m.Splits() {
		t.Error("there is something to split still")
	}
	for i, x := range tensors {
		got, _ := m.Tensor(x.Name)
		b := symmetric.Bytes()[m.Data+got.Offset:][:got.Bytes()]
		if x.Name != "blk.0.attn_q.weight" && x.Name != "blk.0.ffn_down.weight" {
			if got.Type != x.Type || !bytes.Equal(b, numbers[i]) {
				t.Errorf("%s is not as it was", x.Name)
			}
			continue
		}
		if got.Type != q40 {
			t.Errorf("%s is %v", x.Name, got.Type)
		}
		sameWeights(t, x, numbers[i], b, a, offsets.Bytes())
	}
	if n := len(a.Tensors); n != 4 {
		t.Errorf("the offsets have %d tensors", n)
	}
}

// sameWeights adds a weight's offsets, by the matrices as they stand in the adapter, to its symmetric numbers.
func sameWeights(t *testing.T, x Tensor, asymmetric, symmetric []byte, a *File, file []byte) {
	t.Helper()
	want, got := of4bits(asymmetric, 0, true), of4bits(symmetric, 8, false)
	sides := [2][]byte{}
	for i, side := range []string{sideA, sideB} {
		s, _ := a.Tensor(x.Name + side)
		sides[i] = file[a.Data+s.Offset:][:s.Bytes()]
	}
	rank, row := int(x.offsetRank()), int(x.Shape[0])
	for i := range want {
		add, most := 0.0, 0.0
		for k := range rank {
			sum := sides[0][bytes80*(k*row/32+i%row/32):] // a block of Q8_0
			by := float64(number16(sides[1][2*(i/row*rank+k):])) * float64(number16(sum)) * float64(int8(sum[2+i%32]))
			add, most = add+by, max(most, math.Abs(by))
		}
		if math.Abs(got[i]+add-want[i]) > most/2048+1e-7 {
			t.Fatalf("%s: weight %d is %v + %v, want %v", x.Name, i, got[i], add, want[i])
		}
	}
}

// TestSplitsNot: what llama.cpp might compute without an adapter, or no faster, stays as it is.
func TestSplitsNot(t *testing.T) {
	for name, c := range map[string]struct {
		architecture string
		tensor       Tensor
		want         bool
	}{
		"a weight":                 {"llama", matrix("blk.3.attn_output.weight", q41, 256, 256), true},
		"another architecture":     {"mamba", matrix("blk.3.attn_output.weight", q41, 256, 256), false},
		"another format":           {"llama", matrix("blk.3.attn_output.weight", q40, 256, 256), false},
		"the embedding":            {"llama", matrix("token_embd.weight", q41, 256, 256), false},
		"another weight":           {"llama", matrix("blk.3.attn_sinks.weight", q41, 256, 256), false},
		"experts":                  {"llama", matrix("blk.3.ffn_up.weight", q41, 256, 256, 4), false},
		"rows that are few":        {"llama", matrix("blk.3.ffn_up.weight", q41, 1<<20, 8), false},
		"rows that are not packed": {"llama", matrix("blk.3.ffn_up.weight", q41, 256, 260), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := read(t, write(t, []Setting{text("general.architecture", c.architecture)}, []Tensor{c.tensor}))
			if got := f.Splits(); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestOffsetsRefused: an offset that is no number makes all answers none; llama.cpp looks for it in whole files only.
func TestOffsetsRefused(t *testing.T) {
	weight := matrix("blk.0.attn_q.weight", q41, 256, 256)
	for name, c := range map[string]struct{ d, m uint16 }{
		"no number": {0x3c00, 0x7e00}, "infinite": {0x3c00, 0x7c00}, "more than 16 bits hold": {0x7800, 0x7800},
	} {
		t.Run(name, func(t *testing.T) {
			numbers := slices.Repeat(make([]byte, bytes41), int(weight.Elements()/32))
			binary.LittleEndian.PutUint16(numbers[40:], c.d)
			binary.LittleEndian.PutUint16(numbers[42:], c.m)
			var b bytes.Buffer
			if err := Write(&b, []Setting{text("general.architecture", "llama")}, []Tensor{weight}, func(int) []byte { return numbers }); err != nil {
				t.Fatal(err)
			}
			refused(t, Offsets(io.Discard, read(t, b.Bytes()), bytes.NewReader(b.Bytes())), "blk.0.attn_q.weight")
		})
	}
	b := write(t, []Setting{text("general.architecture", "llama")}, []Tensor{weight})
	for name, f := range map[string]func(io.Writer, *File, io.ReaderAt) error{"weights": Symmetric, "offsets": Offsets} {
		if err := f(io.Discard, read(t, b), bytes.NewReader(b[:len(b)-8])); err == nil {
			t.Errorf("%s that are not there were read", name)
		}
	}
}
