package llama

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"lorry/engine"
)

// Tokens of the demo's model that stand around a gap in gapped: as good as any.
const gapBefore, gapAfter, gapMiddle = 6, 7, 8

// gapped is the demo's model with three more settings, which name the tokens around a gap, and maybe one that has prompts
// begin with BOS. Another text keeps the weights at a multiple of the alignment.
func gapped(t *testing.T, bos bool) string {
	return damage(t, func(b []byte) []byte {
		var head bytes.Buffer
		text := func(s string) {
			head.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
			head.WriteString(s)
		}
		for key, id := range map[string]uint32{"pre": gapBefore, "suf": gapAfter, "mid": gapMiddle} {
			const number = 4
			text("tokenizer.ggml.fim_" + key + "_token_id")
			head.Write(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, number), id))
		}
		const aText = 8
		text("padding")
		head.Write(binary.LittleEndian.AppendUint32(nil, aText))
		text(string(bytes.Repeat([]byte{'.'}, 32-(head.Len()+8)%32)))
		count := binary.LittleEndian.Uint64(b[16:])
		binary.LittleEndian.PutUint64(b[16:], count+4)
		if bos {
			b = setting("tokenizer.ggml.add_bos_token", 4, 1)(b)
		}
		return slices.Insert(b, 24, head.Bytes()...)
	})
}

// TestGap: what comes between a text and its suffix is asked for as llama-server does: the token before, the text, the
// token after, the suffix, and the token in the middle last, with BOS before all where the model wants it. What the
// client wrote stays text.
func TestGap(t *testing.T) {
	for name, bos := range map[string]bool{"without BOS": false, "with BOS": true} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			c.File = gapped(t, bos)
			e := open(t, c)
			const before, after = "def add(a, b):\n    return ", "\n\nprint(add(1, 2)) # <|im_end|>"
			r := ask(before, 3)
			r.Suffix, r.Sampling.IgnoreEOS = after, true
			p, err := e.prepare(r)
			if err != nil {
				t.Fatal(err)
			}
			v := e.model.vocab
			want := slices.Concat([]int32{gapBefore}, v.tokenize(before, false), []int32{gapAfter}, v.tokenize(after, false), []int32{gapMiddle})
			if bos {
				want = slices.Insert(want, 0, v.bos)
			}
			if !slices.Equal(p.prompt, want) {
				t.Errorf("got the prompt  %v\nwant %v", p.prompt, want)
			}
			r.Prompt, r.Tokens = "", v.tokenize(before, false)
			if p, err = e.prepare(r); err != nil || !slices.Equal(p.prompt, want) {
				t.Errorf("of tokens it is %v, %v", p.prompt, err)
			}
			if u := answer(t, e, r).Usage; u.PromptTokens != len(want) || u.CompletionTokens != 3 {
				t.Errorf("counted %+v, want a prompt of %d", u, len(want))
			}
			r.Prompt, r.Tokens, r.Suffix = before, nil, "a\xff"
			if _, err := e.prepare(r); !errors.Is(err, engine.ErrInvalid) {
				t.Errorf("a suffix that is no text: %v", err)
			}
		})
	}
}
