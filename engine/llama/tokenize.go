package llama

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// vocab is a model's tokens, read once, so that a step asks nothing of native code but logits. It may be used from
// many goroutines: llama.cpp's tokenizer changes nothing.
type vocab struct {
	native  llama.Vocab
	size    int
	pieces  [][]byte // what each token adds to a text; nothing for control tokens
	longest int      // bytes of the longest piece
	eog     []int32
	end     map[int32]bool // eog as a set
	bos     int32          // -1: none
	eos     int32
	addBOS  bool
	control []string // texts of control tokens, longest first
	// gap are the tokens around what is to be filled in; -1: none.
	gap struct{ before, after, middle int32 }
}

func readVocab(native llama.Vocab) *vocab {
	v := &vocab{
		native: native, size: int(llama.VocabNTokens(native)), end: map[int32]bool{},
		bos: int32(llama.VocabBOS(native)), eos: int32(llama.VocabEOS(native)), addBOS: llama.VocabGetAddBOS(native),
	}
	v.gap.before, v.gap.after, v.gap.middle = int32(llama.VocabFIMPre(native)), int32(llama.VocabFIMSuf(native)), int32(llama.VocabFIMMid(native))
	v.pieces = make([][]byte, v.size)
	buf := make([]byte, 256)
	for id := range llama.Token(v.size) {
		v.pieces[id], buf = readPiece(native, id, buf)
		v.longest = max(v.longest, len(v.pieces[id]))
		if llama.VocabIsEOG(native, id) {
			v.eog = append(v.eog, int32(id))
			v.end[int32(id)] = true
		}
		v.noteControl(id)
	}
	slices.SortFunc(v.control, func(a, b string) int { return len(b) - len(a) })
	return v
}

func (v *vocab) noteControl(id llama.Token) {
	if llama.VocabGetAttr(v.native, id)&(llama.TokenAttrControl|llama.TokenAttrUnknown) == 0 {
		return
	}
	if s := llama.VocabGetText(v.native, id); s != "" {
		v.control = append(v.control, s)
		v.longest = max(v.longest, len(s))
	}
}

// show has tokens with these texts said in answers, control tokens or not: they stand around what answers are cut by.
func (v *vocab) show(texts ...string) {
	for _, s := range texts {
		if ids := v.tokenize(s, true); len(ids) == 1 && len(v.pieces[ids[0]]) == 0 {
			v.pieces[ids[0]] = []byte(s)
		}
	}
}

// readPiece copies a token's bytes. A negative size says how large the buffer should have been.
func readPiece(native llama.Vocab, id llama.Token, buf []byte) (piece, room []byte) {
	n := int(llama.TokenToPiece(native, id, buf, 0, false))
	if n < 0 {
		buf = make([]byte, -n)
		n = int(llama.TokenToPiece(native, id, buf, 0, false))
	}
	return slices.Clone(buf[:max(0, min(n, len(buf)))]), buf
}

func (v *vocab) has(id int32) bool { return id >= 0 && int(id) < v.size }

// text is the text of a control token such as BOS; empty where there is none.
func (v *vocab) text(id int32) string {
	if !v.has(id) {
		return ""
	}
	return llama.VocabGetText(v.native, llama.Token(id))
}

// tokenize makes tokens of a text without NUL. parse makes control tokens of their texts.
func (v *vocab) tokenize(s string, parse bool) []int32 {
	if s == "" {
		return nil
	}
	return ints(llama.Tokenize(v.native, s, false, parse))
}

func ints(tokens []llama.Token) []int32 {
	ids := make([]int32, len(tokens))
	for i, id := range tokens {
		ids[i] = int32(id)
	}
	return ids
}

// begin puts BOS before a prompt where the model wants one and its template did not write it.
func (v *vocab) begin(ids []int32) []int32 {
	if !v.has(v.bos) || len(ids) > 0 && (!v.addBOS || ids[0] == v.bos) {
		return ids
	}
	return slices.Insert(ids, 0, v.bos)
}

// veil hides the texts of control tokens within what a client wrote, while it is rendered into a prompt: each becomes
// a word that nobody can guess, and is tokenized afterwards as the mere text that it is.
type veil struct {
	vocab  *vocab
	word   string // what a hidden text's number follows
	hide   *strings.Replacer
	hidden bool
}

func (v *vocab) newVeil() *veil {
	var nonce [12]byte
	rand.Read(nonce[:])
	return &veil{vocab: v, word: "veil" + hex.EncodeToString(nonce[:]) + "x"}
}

// mask is s with the texts of control tokens hidden. Nearly all texts hold none and cost a search each.
func (h *veil) mask(s string) string {
	if !slices.ContainsFunc(h.vocab.control, func(c string) bool { return strings.Contains(s, c) }) {
		return s
	}
	if h.hide == nil {
		h.hide = h.replacer()
	}
	h.hidden = true
	return h.hide.Replace(s)
}

// replacer hides the longest of the texts that begin at one place.
func (h *veil) replacer() *strings.Replacer {
	pairs := make([]string, 0, 2*len(h.vocab.control))
	for i, c := range h.vocab.control {
		pairs = append(pairs, c, h.word+strconv.Itoa(i)+"x")
	}
	return strings.NewReplacer(pairs...)
}

// tokenize makes tokens of a rendered prompt: control tokens of what the template wrote, text of what was hidden.
func (h *veil) tokenize(prompt string) []int32 {
	if !h.hidden {
		return h.vocab.tokenize(prompt, true)
	}
	parts := strings.Split(prompt, h.word)
	ids := h.vocab.tokenize(parts[0], true)
	for _, part := range parts[1:] {
		number, rest, _ := strings.Cut(part, "x")
		if i, err := strconv.Atoi(number); err == nil && i >= 0 && i < len(h.vocab.control) {
			ids = append(ids, h.vocab.tokenize(h.vocab.control[i], false)...)
		}
		ids = append(ids, h.vocab.tokenize(rest, true)...)
	}
	return ids
}

// logprob describes a token and the likeliest others.
func (v *vocab) logprob(row []float32, id int32, top int) *engine.Logprob {
	own, best := logprobs(row, id, top)
	lp := v.describe(id, own)
	for _, c := range best {
		lp.Top = append(lp.Top, v.describe(c.id, c.weight))
	}
	return &lp
}

func (v *vocab) describe(id int32, logprob float64) engine.Logprob {
	b := v.pieces[id]
	if len(b) == 0 {
		b = []byte(v.text(id)) // a control token
	}
	return engine.Logprob{Token: strings.ToValidUTF8(string(b), "\uFFFD"), Bytes: b, Logprob: logprob}
}

// detokenize is the text of tokens that a client sent.
func (v *vocab) detokenize(ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = append(b, v.pieces[id]...)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
