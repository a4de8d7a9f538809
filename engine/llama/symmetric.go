package llama

import (
	"errors"
	"io"
	"os"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine/gguf"
)

// symmetric loads a model whose weights of Q4_1 are split into such of Q4_0, which llama.cpp packs for a processor, and
// their offsets: the same weights, with which a prompt takes half the time (BenchmarkSymmetric). The handle stays 0 where
// they can't be split: the file as it is computes the same, only slower.
func (m *model) symmetric(c Config, p llama.ModelParams) error {
	weights, offsets, done, err := splitFile(c.File)
	if err != nil {
		c.Log.Warn().Err(err).Msg("the model's weights can't be split, and are computed as its file has them, which is slower")
		return nil
	}
	defer done()
	p.LoadMode = llama.LoadModeNone // into memory of its own: the file goes
	if m.handle, err = llama.ModelLoadFromFile(weights, p); err != nil {
		return library.log.explain(err)
	}
	if m.offsets, err = llama.AdapterLoraInit(m.handle, offsets); err == nil && m.offsets == 0 {
		err = library.log.explain(errors.New("llama.cpp does not say why"))
	}
	return err
}

// splitFile writes both parts of a model into temporary files, which take as much as its own, and a sixth.
func splitFile(file string) (weights, offsets string, done func(), err error) {
	head, err := gguf.OpenWhole(file)
	if err != nil {
		return "", "", nil, err
	}
	r, err := os.Open(file)
	if err != nil {
		return "", "", nil, err
	}
	defer r.Close()
	weights, first, err := temporary(func(w io.Writer) error { return gguf.Symmetric(w, head, r) })
	if err != nil {
		return "", "", nil, err
	}
	offsets, second, err := temporary(func(w io.Writer) error { return gguf.Offsets(w, head, r) })
	if err != nil {
		first()
		return "", "", nil, err
	}
	return weights, offsets, func() { first(); second() }, nil
}
