package llama

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// formats are the ones that a model can be written in without an importance matrix, which nobody has at hand.
var formats = map[string]llama.Ftype{
	"f32": llama.FtypeAllF32, "f16": llama.FtypeMostlyF16, "bf16": llama.FtypeMostlyBF16,
	"q8_0": llama.FtypeMostlyQ8_0, "q6_k": llama.FtypeMostlyQ6_K,
	"q5_0": llama.FtypeMostlyQ5_0, "q5_1": llama.FtypeMostlyQ5_1, "q5_k_s": llama.FtypeMostlyQ5_K_S, "q5_k_m": llama.FtypeMostlyQ5_K_M,
	"q4_0": llama.FtypeMostlyQ4_0, "q4_1": llama.FtypeMostlyQ4_1, "q4_k_s": llama.FtypeMostlyQ4_K_S, "q4_k_m": llama.FtypeMostlyQ4_K_M,
	"iq4_nl": llama.FtypeMostlyIQ4_NL, "iq4_xs": llama.FtypeMostlyIQ4_XS,
	"q3_k_s": llama.FtypeMostlyQ3_K_S, "q3_k_m": llama.FtypeMostlyQ3_K_M, "q3_k_l": llama.FtypeMostlyQ3_K_L, "q2_k": llama.FtypeMostlyQ2_K,
}

// whole are the formats that lose next to nothing, and that all others may be made of.
var whole = []string{"f32", "f16", "bf16"}

// Formats are the names of the formats that [Quantize] writes.
func Formats() []string { return slices.Sorted(maps.Keys(formats)) }

// Quantization says which file to write in which format.
type Quantization struct {
	// Lib is the folder of llama.cpp's libraries.
	Lib string
	// From is a model in GGUF, Out the file to write, which must not be there yet.
	From, Out string
	// To is one of [Formats].
	To string
	// Requantize allows a From that is quantized already.
	Requantize bool
	// Threads compute. 0: as for an engine.
	Threads int
	// Progress, if not nil, is told how many of the model's tensors are written.
	Progress func(done, of int)
}

// Quantize writes a model in another format: under [Quantization.Partial], which is renamed when it is whole, and is gone
// when an error is returned. A process that is ended half-way leaves that file to whoever ended it.
func Quantize(q Quantization) error {
	if err := q.Check(); err != nil {
		return err
	}
	p := llama.ModelQuantizeDefaultParams()
	p.Ftype, p.NThread = formats[q.To], int32(cmp.Or(q.Threads, defaultThreads()))
	if q.Requantize {
		p.AllowRequantize = 1
	}
	library.log.listen(q.follow())
	code := llama.ModelQuantize(q.From, q.Partial(), &p)
	library.log.listen(nil)
	if code != 0 {
		os.Remove(q.Partial())
		return fmt.Errorf("llama: write %s as %s: %w", q.Out, q.To, library.log.explain(fmt.Errorf("code %d: is the disk full?", code)))
	}
	if err := os.Rename(q.Partial(), q.Out); err != nil {
		os.Remove(q.Partial())
		return fmt.Errorf("llama: %w", err)
	}
	return nil
}

// Partial is where the file is written until it is whole.
func (q Quantization) Partial() string {
	return filepath.Join(filepath.Dir(q.Out), "."+filepath.Base(q.Out)+".partial")
}

// ErrSameFormat is a file that has the format to be written already.
var ErrSameFormat = errors.New("llama: nothing to do")

// Check refuses what can't be meant, before any time is spent.
func (q Quantization) Check() error {
	if _, ok := formats[q.To]; !ok {
		return fmt.Errorf("llama: the format %q is not known: take one of %s", q.To, strings.Join(Formats(), ", "))
	}
	if strings.ContainsRune(q.From+q.Out, 0) || q.Out == "" {
		return errors.New("llama: the file's name is empty or holds a NUL")
	}
	if _, err := os.Lstat(q.Out); err == nil {
		return fmt.Errorf("llama: %s is there already: name another file, or remove it", q.Out)
	}
	if _, err := os.Stat(filepath.Dir(q.Out)); err != nil {
		return fmt.Errorf("llama: the folder to write to: %w", err)
	}
	from, err := Format(q.Lib, q.From)
	switch {
	case err != nil:
		return err
	case from == q.To:
		return fmt.Errorf("%w: %s is %s as it is", ErrSameFormat, q.From, from)
	case slices.Contains(whole, from) || q.Requantize || from == unknown: // llama.cpp looks at each tensor too
		return nil
	}
	return fmt.Errorf("llama: %s is quantized already (%s): what that lost stays lost, and %s adds its own errors. Take the model's f16, bf16 or f32 file, "+
		"or say --requantize to do it all the same", q.From, from, q.To)
}

// Format says which format a model's file has, as "q4_0". What is none of [Formats] has llama.cpp's number ("type 19"),
// and a file that does not say is "unknown".
func Format(lib, file string) (string, error) {
	if err := load(lib); err != nil {
		return "", err
	}
	if _, err := checkFile(file); err != nil {
		return "", err
	}
	p := llama.ModelDefaultParams()
	p.VocabOnly = 1
	m, err := llama.ModelLoadFromFile(file, p)
	if err != nil {
		return "", fmt.Errorf("llama: load model %s: %w", file, library.log.explain(err))
	}
	defer llama.ModelFree(m)
	number, ok := llama.ModelMetaValStr(m, "general.file_type")
	if !ok {
		return unknown, nil
	}
	return formatName(number), nil
}

const unknown = "unknown"

func formatName(number string) string {
	for name, f := range formats {
		if strconv.Itoa(int(f)) == number {
			return name
		}
	}
	return "type " + number
}

// tensor is how llama.cpp begins the line of a tensor: "[  12/ 272] blk.1.ffn_up.weight …".
var tensor = regexp.MustCompile(`^\[ *(\d+)/ *(\d+)\]`)

// follow reads the progress off llama.cpp's log.
func (q Quantization) follow() func(line string) {
	if q.Progress == nil {
		return nil
	}
	return func(line string) {
		if m := tensor.FindStringSubmatch(line); m != nil {
			done, _ := strconv.Atoi(m[1])
			of, _ := strconv.Atoi(m[2])
			q.Progress(done, of)
		}
	}
}
