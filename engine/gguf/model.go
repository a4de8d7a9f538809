package gguf

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// Limits on a model. llama.cpp asserts about some of them, and allocates by the others.
const (
	maxLayers   = 512
	maxWidth    = 1 << 20
	maxHeads    = 1 << 12
	maxContext  = 1 << 30
	maxVocab    = 1 << 22
	maxTemplate = 1 << 20
)

var architecture = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)

// CheckModel refuses a file that is no whole language model, or that llama.cpp would end the process over.
func CheckModel(f *File) error {
	if t := f.Text("general.type"); t != "" && t != "model" {
		return refuse("it is of the type %q, not a model", t)
	}
	if n, _ := f.Number("split.count"); n > 1 {
		return refuse("it is one of %d parts: merge them into one file with llama-gguf-split --merge", n)
	}
	arch := f.Architecture()
	if !architecture.MatchString(arch) {
		return refuse("its architecture is %q", arch)
	}
	if len(f.Tensors) == 0 {
		return refuse("it holds no tensors")
	}
	for _, c := range []struct {
		key  string
		most int64
	}{
		{"block_count", maxLayers}, {"context_length", maxContext}, {"embedding_length", maxWidth},
	} {
		if err := f.within(arch+"."+c.key, 1, c.most); err != nil {
			return err
		}
	}
	if err := f.checkHeads(arch); err != nil {
		return err
	}
	if err := f.checkVocab(); err != nil {
		return err
	}
	return f.checkTemplates()
}

func (f *File) within(key string, least, most int64) error {
	n, ok := f.Number(key)
	if !ok {
		return refuse("it does not say its %s as a whole number", key)
	}
	if n < least || n > most {
		return refuse("its %s is %d: it must be between %d and %d", key, n, least, most)
	}
	return nil
}

// checkHeads takes one number for all layers, or one for each; none of a layer without attention, or of such a model.
func (f *File) checkHeads(arch string) error {
	layers, _ := f.Number(arch + ".block_count")
	for _, key := range []string{arch + ".attention.head_count", arch + ".attention.head_count_kv", arch + ".feed_forward_length"} {
		s, ok := f.Setting(key)
		if !ok {
			continue
		}
		if s.Kind != Array {
			if err := f.within(key, 0, maxWidth); err != nil {
				return err
			}
			continue
		}
		items, _ := s.Value.([]any)
		if int64(len(items)) != layers {
			return refuse("its %s has %d items, where it has %d layers", key, s.Len, layers)
		}
		for _, v := range items {
			if n, ok := whole(v); !ok || n < 0 || n > maxWidth {
				return refuse("its %s holds %v", key, v)
			}
		}
	}
	if n, ok := f.Number(arch + ".attention.head_count"); ok && n > maxHeads {
		return refuse("its %s.attention.head_count is %d", arch, n)
	}
	return nil
}

// none stands for no token where a setting holds it all the same: -1 in 32 bits.
const none = 1<<32 - 1

// ends are the tokens that a text begins or ends with. llama.cpp takes another where one is not in the vocabulary, and
// then a text may never end; of other tokens nothing comes but a warning.
var ends = []string{"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}

func (f *File) checkVocab() error {
	tokens, ok := f.Setting("tokenizer.ggml.tokens")
	if !ok || tokens.Kind != Array || tokens.Items != String || tokens.Len < 1 || tokens.Len > maxVocab {
		return refuse("it has no vocabulary (tokenizer.ggml.tokens), or one of more than %d words", maxVocab)
	}
	for _, key := range []string{"tokenizer.ggml.scores", "tokenizer.ggml.token_type"} {
		s, ok := f.Setting(key)
		if ok && (s.Kind != Array || s.Items != Float32 && s.Items != Int32 || s.Len < tokens.Len) {
			return refuse("its %s does not fit a vocabulary of %d words", key, tokens.Len)
		}
	}
	for _, key := range ends {
		s, ok := f.Setting(key)
		if n, whole := s.number(); ok && (!whole || n != none && n != -1 && (n < 0 || n >= int64(tokens.Len))) {
			return refuse("its %s is %v, which is not in its vocabulary of %d", key, s.Value, tokens.Len)
		}
	}
	return nil
}

func (f *File) checkTemplates() error {
	for _, s := range f.Settings {
		if !strings.HasPrefix(s.Key, "tokenizer.chat_template") || s.Kind == Array {
			continue
		}
		text, ok := s.Value.(string)
		if !ok || len(text) > maxTemplate || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return refuse("its %s is no valid UTF-8 text of at most %d bytes", s.Key, maxTemplate)
		}
	}
	return nil
}
