package echo

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"lorry/engine"
)

// vectorLength is how many numbers a vector has unless the request says otherwise.
const vectorLength = 64

// embed makes a vector of each input that depends on the whole text and on nothing else: equal texts have equal
// vectors, all others point somewhere else.
func embed(r *engine.Request) *engine.Completion {
	c := &engine.Completion{Usage: engine.Usage{PromptTokens: countInputs(r.Inputs)}}
	for _, in := range r.Inputs {
		c.Embeddings = append(c.Embeddings, vector(in, cmp.Or(r.Dimensions, vectorLength)))
	}
	return c
}

func countInputs(list []engine.Input) (n int) {
	for _, in := range list {
		n += count(in.Text) + len(in.Tokens)
	}
	return n
}

func vector(in engine.Input, n int) engine.Vector {
	seed := sha256.Sum256(fmt.Append(nil, in.Tokens, in.Text))
	sum := make([]float64, n)
	for i := range sum {
		h := sha256.Sum256(binary.LittleEndian.AppendUint32(seed[:], uint32(i)))
		sum[i] = float64(int32(binary.LittleEndian.Uint32(h[:]))) + 0.5 // never zero
	}
	v, _ := engine.Unit(sum)
	return v
}
