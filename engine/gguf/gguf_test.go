package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func text(key, value string) Setting { return Setting{Key: key, Kind: String, Value: value} }
func u32(key string, n uint64) Setting {
	return Setting{Key: key, Kind: Uint32, Value: n}
}
func list(key string, k Kind, items ...any) Setting {
	return Setting{Key: key, Kind: Array, Items: k, Len: len(items), Value: items}
}
func matrix(name string, t Type, shape ...int64) Tensor {
	out := Tensor{Name: name, Type: t, Shape: [4]int64{1, 1, 1, 1}}
	copy(out.Shape[:], shape)
	return out
}

// tiny is a model's head with as little in it as CheckModel takes.
func tiny() ([]Setting, []Tensor) {
	return []Setting{
			text("general.architecture", "llama"), u32("llama.block_count", 2), u32("llama.context_length", 128),
			u32("llama.embedding_length", 64), u32("llama.attention.head_count", 4),
			list("tokenizer.ggml.tokens", String, "a", "b", "</s>"), list("tokenizer.ggml.scores", Float32, 0.0, -1.5, 2.0),
			u32("tokenizer.ggml.eos_token_id", 2), text("tokenizer.chat_template", "{{ messages }}"),
		}, []Tensor{
			matrix("token_embd.weight", F32, 64, 3), matrix("blk.0.attn_q.weight", F16, 64, 96), matrix("blk.1.ffn_up_exps.weight", 2, 64, 32, 4),
		}
}

func write(t testing.TB, settings []Setting, tensors []Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, settings, tensors, func(i int) []byte { return make([]byte, tensors[i].Bytes()) }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRoundTrip(t *testing.T) {
	settings, tensors := tiny()
	settings = append(settings, Setting{Key: "a", Kind: Int8, Value: int64(-3)}, Setting{Key: "b", Kind: Bool, Value: true},
		Setting{Key: "c", Kind: Float64, Value: 1.25}, Setting{Key: "d", Kind: Int64, Value: int64(math.MinInt64)},
		list("e", Int16, int64(-1), int64(2)), u32("general.alignment", 64))
	f := read(t, write(t, settings, tensors))
	if !reflect.DeepEqual(f.Settings, settings) {
		t.Errorf("settings are\n%v, want\n%v", f.Settings, settings)
	}
	for i, got := range f.Tensors {
		if got.Offset%64 != 0 || got.Name != tensors[i].Name || got.Shape != tensors[i].Shape || got.Type != tensors[i].Type {
			t.Errorf("tensor %d is %+v, want %+v", i, got, tensors[i])
		}
	}
	if n, ok := f.Number("a"); n != -3 || !ok || f.Text("general.architecture") != "llama" {
		t.Errorf("got %d, %s", n, f.Text("general.architecture"))
	}
	if err := CheckModel(f); err != nil {
		t.Error(err)
	}
	if got := f.Format(); got != "f16" || new(File).Format() != "" {
		t.Errorf("most of it is %q", got)
	}
}

// TestLongArray: of a vocabulary only the length is kept.
func TestLongArray(t *testing.T) {
	words := make([]any, 5000)
	for i := range words {
		words[i] = "w"
	}
	f := read(t, write(t, []Setting{list("tokens", String, words...), u32("next", 7)}, nil))
	s, _ := f.Setting("tokens")
	if n, _ := f.Number("next"); s.Len != 5000 || s.Value != nil || n != 7 {
		t.Errorf("got %d items, %v, then %d", s.Len, s.Value, n)
	}
	file := filepath.Join(t.TempDir(), "long.gguf")
	if err := os.WriteFile(file, write(t, []Setting{list("tokens", String, words...)}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := OpenWhole(file)
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := whole.Setting("tokens"); !reflect.DeepEqual(s.Value, words) {
		t.Errorf("OpenWhole kept %.40v", s.Value)
	}
}

// TestDamage damages a good file in every way that a reader might trust.
func TestDamage(t *testing.T) {
	settings, tensors := tiny()
	good := write(t, settings, tensors)
	after := func(text string) int { return bytes.Index(good, []byte(text)) + len(text) }
	number := func(at int, n uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[at:], n); return b }
	}
	kind := func(at int, n uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], n); return b }
	}
	embd := after("token_embd.weight")
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":           {func([]byte) []byte { return nil }, "no GGUF file"},
		"text":            {func([]byte) []byte { return []byte("hello, this is text") }, "no GGUF file"},
		"magic alone":     {func(b []byte) []byte { return b[:4] }, "cut off"},
		"version":         {kind(4, 99), "damaged"},
		"version 1":       {kind(4, 1), "version 1"},
		"tensors":         {number(8, 1<<60), "damaged"},
		"negative counts": {number(16, math.MaxUint64), "damaged"},
		"more tensors":    {number(8, 4000), ""},
		"key":             {number(24, 1<<60), "a text of"},
		"setting's text":  {number(after("general.architecture")+4, 1<<40), ""},
		"setting's kind":  {kind(after("general.architecture"), 77), "kind 77"},
		"array in array":  {kind(after("tokenizer.ggml.tokens")+4, uint32(Array)), "kind 9"},
		"array's length":  {number(after("tokenizer.ggml.tokens")+8, 1<<61), "more than the file has"},
		"array's numbers": {number(after("tokenizer.ggml.scores")+8, uint64(len(good)-900)), ""},
		"same key": {func(b []byte) []byte {
			return bytes.Replace(b, []byte("llama.context_length"), []byte("general.architecture"), 1)
		}, "twice"},
		"NUL in a name":   {func(b []byte) []byte { return bytes.Replace(b, []byte("attn_q.w"), []byte("attn_q\x00w"), 1) }, "no good name"},
		"same tensor":     {func([]byte) []byte { return write(t, settings, []Tensor{tensors[0], tensors[0]}) }, "twice"},
		"dimensions":      {kind(embd, 5), "5 dimensions"},
		"no numbers":      {number(embd+4, 0), "impossible shape"},
		"many numbers":    {number(embd+12, 1<<62), "impossible shape"},
		"product":         {number(embd+12, 1<<58), "impossible shape"},
		"type":            {kind(embd+36, 4), "type 4"},
		"row of blocks":   {kind(embd+36, 12), "blocks of 256"},
		"offset":          {number(embd+40, 32), "where 0 is next"},
		"negative offset": {number(embd+40, math.MaxUint64), ""},
		"far offset":      {number(after("blk.0.attn_q.weight")+40, 1<<40), "is next"},
		"overlap":         {number(after("blk.0.attn_q.weight")+40, 0), "is next"},
		"larger tensor":   {number(after("blk.1.ffn_up_exps.weight")+20, 400), "not within the file bounds"},
		"cut in its head": {func(b []byte) []byte { return b[:embd] }, "cut off"},
		"cut in its data": {func(b []byte) []byte { return b[:len(b)-40] }, "not within the file bounds"},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.change(bytes.Clone(good))
			_, err := Read(bytes.NewReader(b), int64(len(b)))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an ErrInvalid with %q", err, c.want)
			}
		})
	}
}

func TestCheckModel(t *testing.T) {
	for name, c := range map[string]struct {
		setting Setting
		want    string
	}{
		"adapter":            {text("general.type", "adapter"), "not a model"},
		"part":               {Setting{Key: "split.count", Kind: Uint16, Value: uint64(3)}, "--merge"},
		"no architecture":    {text("general.architecture", ""), "architecture"},
		"path":               {text("general.architecture", "../x"), "architecture"},
		"no layers":          {u32("llama.block_count", 0), "block_count"},
		"a billion layers":   {u32("llama.block_count", 1_000_000_000), "block_count"},
		"layers as text":     {text("llama.block_count", "2"), "whole number"},
		"no context":         {u32("llama.context_length", 0), "context_length"},
		"wide":               {u32("llama.embedding_length", 1<<31), "embedding_length"},
		"many heads":         {u32("llama.attention.head_count", 1<<16), "head_count"},
		"no heads":           {u32("llama.attention.head_count", 0), ""},
		"odd padding":        {u32("tokenizer.ggml.padding_token_id", 3), ""},
		"heads of 3 layers":  {list("llama.attention.head_count", Uint32, uint64(1), uint64(1), uint64(1)), "2 layers"},
		"negative heads":     {list("llama.attention.head_count_kv", Int32, int64(1), int64(-1)), "head_count_kv"},
		"no vocabulary":      {u32("tokenizer.ggml.tokens", 3), "no vocabulary"},
		"numbers for words":  {list("tokenizer.ggml.tokens", Uint8, uint64(1)), "no vocabulary"},
		"short scores":       {list("tokenizer.ggml.scores", Float32, 1.0), "scores"},
		"token of nobody":    {u32("tokenizer.ggml.eos_token_id", 3), "eos_token_id"},
		"far token":          {u32("tokenizer.ggml.bos_token_id", 4_000_000_000), "bos_token_id"},
		"broken template":    {text("tokenizer.chat_template", "a\xff"), "chat_template"},
		"template with NUL":  {text("tokenizer.chat_template.tools", "a\x00"), "chat_template.tools"},
		"endless template":   {text("tokenizer.chat_template", strings.Repeat("a", maxTemplate+1)), "chat_template"},
		"good":               {u32("tokenizer.ggml.padding_token_id", none), ""},
		"good heads":         {list("llama.attention.head_count", Uint32, uint64(4), uint64(2)), ""},
		"an unknown setting": {list("general.tags", String, "x"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			settings, tensors := tiny()
			refused(t, CheckModel(read(t, write(t, with(settings, c.setting), tensors))), c.want)
		})
	}
	settings, _ := tiny()
	refused(t, CheckModel(read(t, write(t, settings, nil))), "no tensors")
}

// with replaces a setting, or adds it.
func with(settings []Setting, s Setting) []Setting {
	for i := range settings {
		if settings[i].Key == s.Key {
			settings[i] = s
			return settings
		}
	}
	return append(settings, s)
}

// refused wants an ErrInvalid with some words; none for no words.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestCheckAdapter(t *testing.T) {
	settings, tensors := tiny()
	base := read(t, write(t, settings, tensors))
	head := func() []Setting {
		return []Setting{text("general.type", "adapter"), text("adapter.type", "lora"), text("general.architecture", "llama"),
			{Key: "adapter.lora.alpha", Kind: Float32, Value: 16.0}}
	}
	pair := []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 64, 8), matrix("blk.0.attn_q.weight.lora_b", F32, 8, 96)}
	for name, c := range map[string]struct {
		setting Setting
		tensors []Tensor
		want    string
	}{
		"good":             {tensors: pair},
		"a model":          {setting: text("general.type", "model"), tensors: pair, want: "not a LoRA adapter"},
		"control vector":   {setting: text("adapter.type", "control"), tensors: pair, want: "not a LoRA adapter"},
		"of another":       {setting: text("general.architecture", "qwen2"), tensors: pair, want: `"qwen2"`},
		"alpha as text":    {setting: text("adapter.lora.alpha", "16"), tensors: pair, want: "alpha"},
		"alpha of 64 bits": {setting: Setting{Key: "adapter.lora.alpha", Kind: Float64, Value: 16.0}, tensors: pair, want: "alpha"},
		"alpha is none":    {setting: Setting{Key: "adapter.lora.alpha", Kind: Float32, Value: math.NaN()}, tensors: pair, want: "alpha"},
		"activated":        {setting: list("adapter.alora.invocation_tokens", Uint32, uint64(1)), tensors: pair, want: "activated"},
		"empty":            {want: "no tensors"},
		"half a pair":      {tensors: pair[:1], want: "no other half"},
		"other half":       {tensors: pair[1:], want: "no other half"},
		"norm":             {tensors: append(pair[:2:2], matrix("blk.0.attn_norm.weight", F32, 64)), want: "left out"},
		"unknown weight": {tensors: []Tensor{matrix("blk.9.attn_q.weight.lora_a", F32, 64, 8), matrix("blk.9.attn_q.weight.lora_b", F32, 8, 96)},
			want: "another base"},
		"wider":    {tensors: []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 96, 8), pair[1]}, want: "96 × 8"},
		"ranks":    {tensors: []Tensor{pair[0], matrix("blk.0.attn_q.weight.lora_b", F32, 4, 96)}, want: "do not fit"},
		"integers": {tensors: []Tensor{matrix("blk.0.attn_q.weight.lora_a", 26, 64, 8), pair[1]}, want: "i32"},
		"high rank": {tensors: []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 64, 97), matrix("blk.0.attn_q.weight.lora_b", F32, 97, 96)},
			want: "rank 97"},
		"embedding":           {tensors: []Tensor{matrix("token_embd.weight.lora_a", F32, 8, 3), matrix("token_embd.weight.lora_b", F32, 8, 64)}},
		"embedding's ranks":   {tensors: []Tensor{matrix("token_embd.weight.lora_a", F32, 8, 3), matrix("token_embd.weight.lora_b", F32, 4, 64)}, want: "do not fit"},
		"experts":             {tensors: []Tensor{matrix("blk.1.ffn_up_exps.weight.lora_a", F16, 64, 8, 4), matrix("blk.1.ffn_up_exps.weight.lora_b", F16, 8, 32, 4)}},
		"experts that lack":   {tensors: []Tensor{matrix("blk.1.ffn_up_exps.weight.lora_a", F16, 64, 8, 2), matrix("blk.1.ffn_up_exps.weight.lora_b", F16, 8, 32, 4)}, want: "do not fit"},
		"one more dimension":  {tensors: []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 64, 8, 1, 2), pair[1]}, want: "do not fit"},
		"quantized, as bytes": {tensors: []Tensor{matrix("blk.0.attn_q.weight.lora_a", 8, 64, 32), matrix("blk.0.attn_q.weight.lora_b", 8, 32, 96)}},
	} {
		t.Run(name, func(t *testing.T) {
			settings := head()
			if c.setting.Key != "" {
				settings = with(settings, c.setting)
			}
			refused(t, CheckAdapter(read(t, write(t, settings, c.tensors)), base), c.want)
		})
	}
}

// TestWiden: what a wider adapter adds to each weight is the same, to the last bit.
func TestWiden(t *testing.T) {
	settings := []Setting{text("general.type", "adapter"), text("general.architecture", "llama"), {Key: "adapter.lora.alpha", Kind: Float32, Value: 12.5}}
	tensors := []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 6, 2), matrix("blk.0.attn_q.weight.lora_b", F32, 2, 5),
		matrix("blk.0.ffn_up_exps.weight.lora_b", F32, 2, 3, 4), matrix("blk.0.ffn_up_exps.weight.lora_a", F32, 7, 2, 4)}
	draw := rand.New(rand.NewPCG(1, 2))
	var b, wide bytes.Buffer
	err := Write(&b, settings, tensors, func(i int) (numbers []byte) {
		for range tensors[i].Elements() {
			numbers = binary.LittleEndian.AppendUint32(numbers, math.Float32bits(draw.Float32()-0.5))
		}
		return numbers
	})
	if err != nil {
		t.Fatal(err)
	}
	narrow := read(t, b.Bytes())
	if n := narrow.Rank(); n != 2 {
		t.Errorf("its rank is %d, want 2", n)
	}
	if err := Widen(&wide, narrow, bytes.NewReader(b.Bytes()), 16); err != nil {
		t.Fatal(err)
	}
	wider := read(t, wide.Bytes())
	if n := wider.Rank(); n != 32 {
		t.Errorf("the wider one's rank is %d, want 32", n)
	}
	for _, weight := range []string{"blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"} {
		want, got := product(t, narrow, b.Bytes(), weight), product(t, wider, wide.Bytes(), weight)
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s changes by %v, want %v", weight, got, want)
		}
	}
	if err := Widen(io.Discard, narrow, bytes.NewReader(b.Bytes()[:b.Len()-8]), 2); err == nil {
		t.Error("numbers that are not there were read")
	}
}

// product is what an adapter adds to a weight: B times A, by alpha ÷ rank, matrix by matrix.
func product(t *testing.T, f *File, file []byte, weight string) (all []float64) {
	t.Helper()
	a, b := floats(t, f, file, weight+sideA), floats(t, f, file, weight+sideB)
	shapeA, _ := f.Tensor(weight + sideA)
	shapeB, _ := f.Tensor(weight + sideB)
	in, rank, out := int(shapeA.Shape[0]), int(shapeA.Shape[1]), int(shapeB.Shape[1])
	alpha, _ := f.Setting("adapter.lora.alpha")
	for m := range int(shapeA.Shape[2]) {
		for i := range in * out {
			sum := 0.0
			for k := range rank {
				sum += float64(a[(m*rank+k)*in+i%in]) * float64(b[(m*out+i/in)*rank+k])
			}
			all = append(all, sum*alpha.Value.(float64)/float64(rank))
		}
	}
	return all
}

func floats(t *testing.T, f *File, file []byte, name string) (all []float32) {
	t.Helper()
	x, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("%s is not there", name)
	}
	for b := file[f.Data+x.Offset:][:x.Bytes()]; len(b) > 0; b = b[4:] {
		all = append(all, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return all
}

// TestRank: only what is widened without a difference has one.
func TestRank(t *testing.T) {
	q := []Tensor{matrix("blk.0.attn_q.weight.lora_a", F32, 64, 8), matrix("blk.0.attn_q.weight.lora_b", F32, 8, 96)}
	for name, c := range map[string]struct {
		more []Tensor
		want int64
	}{
		"one":               {nil, 8},
		"another":           {[]Tensor{matrix("blk.0.attn_v.weight.lora_a", F32, 64, 4), matrix("blk.0.attn_v.weight.lora_b", F32, 4, 96)}, 0},
		"half floats":       {[]Tensor{matrix("blk.0.attn_v.weight.lora_a", F16, 64, 8), matrix("blk.0.attn_v.weight.lora_b", F32, 8, 96)}, 0},
		"embedding":         {[]Tensor{matrix("token_embd.weight.lora_a", F32, 8, 3), matrix("token_embd.weight.lora_b", F32, 8, 64)}, 0},
		"another embedding": {[]Tensor{matrix("per_layer_token_embd.weight.lora_a", F32, 8, 8), matrix("per_layer_token_embd.weight.lora_b", F32, 8, 64)}, 0},
	} {
		if got := (&File{Tensors: append(q[:2:2], c.more...)}).Rank(); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestFinite(t *testing.T) {
	for name, c := range map[string]struct {
		kind Type
		bits []byte
		good bool
	}{
		"f32":           {F32, []byte{0, 0, 0x7f, 0x7f}, true},
		"f32, infinite": {F32, []byte{0, 0, 0x80, 0xff}, false},
		"f32, none":     {F32, []byte{1, 0, 0xc0, 0x7f}, false},
		"f16":           {F16, []byte{0xff, 0x7b}, true},
		"f16, infinite": {F16, []byte{0, 0xfc}, false},
		"bf16, none":    {BF16, []byte{0xc0, 0x7f}, false},
		"bf16":          {BF16, []byte{0x7f, 0x7f}, true},
		"quantized":     {8, []byte{0xff, 0xff, 0xff, 0xff}, true},
	} {
		t.Run(name, func(t *testing.T) {
			tensor := matrix("w", c.kind, 64, 600)
			data := make([]byte, tensor.Bytes())
			copy(data[len(data)-len(c.bits):], c.bits)
			var b bytes.Buffer
			if err := Write(&b, nil, []Tensor{tensor}, func(int) []byte { return data }); err != nil {
				t.Fatal(err)
			}
			if err := Finite(read(t, b.Bytes()), bytes.NewReader(b.Bytes())); (err == nil) != c.good {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	settings, tensors := tiny()
	if err := os.WriteFile(path, write(t, settings, tensors), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Open(path); err != nil || len(f.Tensors) != 3 {
		t.Errorf("got %+v, %v", f, err)
	}
	if _, err := Open(filepath.Join(dir, "b")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(dir); err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// TestMemory: what a head promises costs nothing until it is there.
func TestMemory(t *testing.T) {
	settings, tensors := tiny()
	b := write(t, settings, tensors)
	at := bytes.Index(b, []byte("tokenizer.chat_template")) + len("tokenizer.chat_template") + 4
	binary.LittleEndian.PutUint64(b[at:], 90<<20)
	got := testing.AllocsPerRun(1, func() {
		if _, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
	if got > 500 {
		t.Errorf("%v allocations", got)
	}
}

func FuzzRead(f *testing.F) {
	settings, tensors := tiny()
	whole := write(f, settings, tensors)
	f.Add(whole)
	f.Add(whole[:300])
	f.Add([]byte("GGUF\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(write(f, []Setting{text("general.architecture", "llama")}, []Tensor{matrix("blk.0.attn_q.weight", q41, 256, 64)}))
	base := read(f, whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("reading from memory failed: %v", err)
			}
			return
		}
		end := int64(0)
		for _, x := range file.Tensors {
			if x.Offset < end || x.Bytes() < 1 || file.Data+x.Offset+x.Bytes() > int64(len(b)) {
				t.Errorf("tensor %+v is not in %d bytes after %d", x, len(b), end)
			}
			end = x.Offset + x.Bytes()
		}
		_ = CheckModel(file)
		_ = CheckAdapter(file, base)
		if err := Symmetric(io.Discard, file, bytes.NewReader(b)); err != nil {
			t.Errorf("a model can't be written: %v", err)
		}
		if err := Offsets(io.Discard, file, bytes.NewReader(b)); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("offsets can't be written: %v", err)
		}
		if err := Finite(file, bytes.NewReader(b)); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("a tensor can't be read: %v", err)
		}
	})
}

// TestTokenBytes: a head that lies about what it has gives no sum that runs over.
func TestTokenBytes(t *testing.T) {
	head := func(layers, groups, length uint64) *File {
		settings := []Setting{text("general.architecture", "llama"), u32("llama.block_count", layers), u32("llama.embedding_length", 4096),
			u32("llama.attention.head_count", 32), u32("llama.attention.head_count_kv", groups), u32("llama.attention.key_length", length),
			u32("llama.attention.value_length", length)}
		return read(t, write(t, settings, nil))
	}
	for _, c := range []struct {
		f           *File
		kvType      string
		least, most int64
	}{
		{head(32, 8, 128), "f16", 128 << 10, 128 << 10},
		{head(32, 8, 128), "q8_0", 68 << 10, 68 << 10},
		{head(1<<21, 1<<21, 1<<20), "f16", 1 << 45, tooMany * 2},
		{head(1<<21, 1<<21, 1<<20), "q8_0", 1 << 45, tooMany * 2},
		{head(1<<22, 8, 128), "f16", 0, 0},
	} {
		if got := c.f.TokenBytes(c.kvType); got < c.least || got > c.most {
			t.Errorf("%v as %s: %d bytes a token, want %d to %d", c.f.Settings, c.kvType, got, c.least, c.most)
		}
	}
}
