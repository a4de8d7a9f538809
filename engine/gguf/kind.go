package gguf

import "math"

// Kind is what a setting's value is.
type Kind uint32

// The kinds, as files number them.
const (
	Uint8 Kind = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// size is how many bytes a value takes; 0 of what is no number.
func (k Kind) size() int {
	switch k {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// decode is the value in b, which has size bytes. n are its bits.
func (k Kind) decode(n uint64) any {
	switch k {
	case Int8:
		return int64(int8(n))
	case Int16:
		return int64(int16(n))
	case Int32:
		return int64(int32(n))
	case Int64:
		return int64(n)
	case Float32:
		return float64(math.Float32frombits(uint32(n)))
	case Float64:
		return math.Float64frombits(n)
	case Bool:
		return n != 0
	}
	return n
}

// encode is what decode has read.
func (k Kind) encode(value any) uint64 {
	switch v := value.(type) {
	case int64:
		return uint64(v)
	case float64:
		if k == Float32 {
			return uint64(math.Float32bits(float32(v)))
		}
		return math.Float64bits(v)
	case bool:
		if v {
			return 1
		}
		return 0
	}
	n, _ := value.(uint64)
	return n
}

func (s Setting) number() (int64, bool) { return whole(s.Value) }

// whole is a value that is a whole number of 63 bits.
func whole(value any) (int64, bool) {
	switch n := value.(type) {
	case uint64:
		return int64(n), n <= math.MaxInt64
	case int64:
		return n, true
	}
	return 0, false
}

// Type is how a tensor's numbers are written.
type Type uint32

// Types that programs ask about by name. Others are known by their sizes.
const (
	F32  Type = 0
	F16  Type = 1
	BF16 Type = 30
)

// layout is how many numbers are a block, and how many bytes a block takes.
type layout struct {
	name         string
	block, bytes int64
	weights      bool // llama.cpp multiplies by it
}

// layouts are ggml's types, of llama.cpp v0.5.0. A test holds them against the library's own.
var layouts = map[Type]layout{
	F32: {"f32", 1, 4, true}, F16: {"f16", 1, 2, true}, BF16: {"bf16", 1, 2, true},
	2: {"q4_0", 32, 18, true}, 3: {"q4_1", 32, 20, true}, 6: {"q5_0", 32, 22, true}, 7: {"q5_1", 32, 24, true},
	8: {"q8_0", 32, 34, true}, 9: {"q8_1", 32, 36, false}, 10: {"q2_K", 256, 84, true}, 11: {"q3_K", 256, 110, true},
	12: {"q4_K", 256, 144, true}, 13: {"q5_K", 256, 176, true}, 14: {"q6_K", 256, 210, true}, 15: {"q8_K", 256, 292, false},
	16: {"iq2_xxs", 256, 66, true}, 17: {"iq2_xs", 256, 74, true}, 18: {"iq3_xxs", 256, 98, true}, 19: {"iq1_s", 256, 50, true},
	20: {"iq4_nl", 32, 18, true}, 21: {"iq3_s", 256, 110, true}, 22: {"iq2_s", 256, 82, true}, 23: {"iq4_xs", 256, 136, true},
	24: {"i8", 1, 1, false}, 25: {"i16", 1, 2, false}, 26: {"i32", 1, 4, false}, 27: {"i64", 1, 8, false}, 28: {"f64", 1, 8, false},
	29: {"iq1_m", 256, 56, true}, 34: {"tq1_0", 256, 54, true}, 35: {"tq2_0", 256, 66, true}, 39: {"mxfp4", 32, 17, true},
	40: {"nvfp4", 64, 36, true}, 41: {"q1_0", 128, 18, true}, 42: {"q2_0", 64, 18, true},
}

func (t Type) known() bool  { return layouts[t].block > 0 }
func (t Type) block() int64 { return layouts[t].block }
func (t Type) bytes() int64 { return layouts[t].bytes }

// String is ggml's name of the type.
func (t Type) String() string { return layouts[t].name }
