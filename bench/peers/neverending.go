package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"

	"lorry/engine/gguf"
)

// Of a GGUF file: where the count of its settings stands and where they begin, and what its tensors are aligned to at
// most, a power of two like all that they are aligned to.
const (
	countAt, settingsAt = 16, 24
	mostAlign           = 1 << 16
)

// neverEnding copies a model such that it never draws one of these tokens: Kronk cannot be told to ignore the end of an
// answer, but it heeds this setting, as llama-server heeds a request's.
func neverEnding(from, to string, ends []int32) error {
	if _, err := gguf.Open(from); err != nil { // it is one, of a version that is known
		return err
	}
	whole, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	more := suppress(ends)
	out := bytes.Clone(whole[:settingsAt])
	binary.LittleEndian.PutUint64(out[countAt:], binary.LittleEndian.Uint64(out[countAt:])+2)
	return os.WriteFile(to, append(append(out, more...), whole[settingsAt:]...), 0o600)
}

// suppress is the setting, and one that fills it up to a length that keeps all behind them aligned.
func suppress(ends []int32) []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if text, ok := v.(string); ok {
				v = append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
			}
			_ = binary.Write(&b, binary.LittleEndian, v) // to memory
		}
	}
	put("tokenizer.ggml.suppress_tokens", uint32(gguf.Array), uint32(gguf.Int32), uint64(len(ends)), ends)
	put("lorry.filler", uint32(gguf.String))
	put(strings.Repeat(" ", mostAlign-(b.Len()+8)%mostAlign))
	return b.Bytes()
}
