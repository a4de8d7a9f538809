package engine

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// Vector is a text's place among all texts. In JSON it is base64 of its numbers as little-endian float32, which is what
// OpenAI's SDKs ask for: half as long as digits, and exact.
type Vector []float32

// MarshalText is the vector in base64.
func (v Vector) MarshalText() ([]byte, error) {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText wrote. It refuses what is no number, which JSON could not say again.
func (v *Vector) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(b)%4 != 0 {
		return fmt.Errorf("engine: %d characters are no vector in base64", len(text))
	}
	*v = make(Vector, len(b)/4)
	for i := range *v {
		x := math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if (*v)[i] = x; math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return fmt.Errorf("engine: number %d of a vector is none", i)
		}
	}
	return nil
}

// Floats is the vector for clients that want JSON numbers.
func (v Vector) Floats() json.RawMessage {
	b, err := json.Marshal([]float32(v))
	if err != nil {
		panic("engine: " + err.Error()) // neither Unit nor UnmarshalText let such numbers through: a bug
	}
	return b
}

// Unit is the vector of length 1 in the direction of sum. It says false for what has none: all zero, or not finite.
func Unit(sum []float64) (Vector, bool) {
	square := 0.0
	for _, x := range sum {
		square += x * x
	}
	length := math.Sqrt(square)
	if !(length > 0) || math.IsInf(length, 0) {
		return nil, false
	}
	v := make(Vector, len(sum))
	for i, x := range sum {
		v[i] = float32(x / length)
	}
	return v, true
}

// maxVectors bounds the vectors of one answer, in bytes of base64: an answer is one message of the queue.
const maxVectors = 3 << 20

// CheckVectors refuses a request whose answer no message holds, before it is computed.
func CheckVectors(inputs, dimensions int) error {
	each := 16*dimensions/3 + 8
	if most := maxVectors / each; inputs > most {
		return Errorf(Invalid, CodeInvalidValue, "input", "input holds %d texts: the vectors of this model have %d numbers, of which one answer "+
			"carries %d. Send at most %d texts in a request: requests are batched by the workers.", inputs, dimensions, most, most)
	}
	return nil
}
