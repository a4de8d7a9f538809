package llama

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine/gguf"
)

// model is a loaded file with its context: all that native code holds for us.
type model struct {
	handle   llama.Model
	ctx      llama.Context
	mem      llama.Memory
	batch    llama.Batch
	vocab    *vocab
	template *template // nil: the model has none
	source   string    // of the template
	trained  int       // the longest text that the model was trained on
	cells    int       // of the KV cache, for all sequences
	rows     int       // most rows of one call
	slots    int
	params   llama.ContextParams // of ctx
	pool     llama.Threadpool    // of all its contexts; 0: each call starts its own threads
	adapter  llama.AdapterLora   // that ctx computes with; 0: none
	offsets  llama.AdapterLora   // of weights that were split, which all contexts compute with; 0: none were
	branches bool                // a range of one sequence's cells may be shared with another
	// listing is held while an adapter is loaded, and while a context is made: llama.cpp then reads the list of a model's
	// adapters, which has no lock.
	listing  *sync.Mutex
	borrowed bool // the handle and the pool are another's
}

// openModel loads a file and makes its context. A bad file is one clear error, as far as llama.cpp does not abort on
// it: untrusted files belong in a process of their own.
func openModel(c Config, dev device) (*model, error) {
	head, err := checkFile(c.File)
	if err != nil {
		return nil, err
	}
	p := llama.ModelDefaultParams()
	p.CheckTensors = 1 // damaged weights would load and compute NaN; costs a third of the load's time
	p.NGpuLayers = 0
	if dev.accelerated() {
		p.NGpuLayers, p.MainGpu = 999, int32(dev.index)
	}
	if dev.accelerated() && c.Device != "" {
		p.SplitMode = llama.SplitModeNone // the one that was asked for, alone
	}
	m := &model{slots: c.Slots, rows: c.Rows, listing: new(sync.Mutex)}
	if err := m.read(c, dev, head, p); err != nil {
		m.free()
		return nil, fmt.Errorf("llama: load model %s: %w", c.File, err)
	}
	if err = m.inspect(); err == nil {
		err = m.readTemplate(c.Renderer)
	}
	if err == nil {
		err = m.makeContext(c, dev)
	}
	if err != nil {
		m.free()
		return nil, fmt.Errorf("llama: model %s: %w", c.File, err)
	}
	return m, nil
}

// read reads the weights.
func (m *model) read(c Config, dev device, head *gguf.File, p llama.ModelParams) (err error) {
	if !c.asIs && !dev.accelerated() && head.Splits() {
		err = m.symmetric(c, p)
	}
	if err != nil || m.handle != 0 {
		return err
	}
	if m.handle, err = llama.ModelLoadFromFile(c.File, p); err != nil {
		return library.log.explain(err)
	}
	return nil
}

// twin is another context over the same weights, for one sequence at a time of up to the limit. It must be freed before
// the model.
func (m *model) twin() (*model, error) {
	t := *m
	t.ctx, t.mem, t.batch, t.borrowed, t.slots, t.adapter = 0, 0, llama.Batch{}, true, 1, 0
	p := m.params
	p.NCtx, p.NSeqMax = uint32(m.limit()), uint32(t.slots+1)
	m.listing.Lock()
	defer m.listing.Unlock()
	err := t.create(p)
	if err == nil && !t.warm() {
		err = errors.New("its first call failed")
	}
	if err != nil {
		t.free()
		return nil, err
	}
	return &t, nil
}

// warm makes a context's first call, which plans its graph, and leaves it empty.
func (m *model) warm() bool {
	code := m.decode([]row{{seq: &sequence{}, token: 0, pos: 0, output: true}})
	return code == 0 && m.remove(0, 0)
}

// inspect reads what the file says of itself, and refuses what llama.cpp takes and then trips over.
func (m *model) inspect() error {
	if llama.ModelHasEncoder(m.handle) || !llama.ModelHasDecoder(m.handle) || llama.ModelIsDiffusion(m.handle) {
		return errors.New("it is no decoder-only language model, which is what this engine runs")
	}
	m.vocab = readVocab(llama.ModelGetVocab(m.handle))
	m.trained = int(llama.ModelNCtxTrain(m.handle))
	if m.trained < 1 || m.vocab.size < 1 {
		return fmt.Errorf("its context of %d tokens or its vocabulary of %d is none", m.trained, m.vocab.size)
	}
	for name, id := range map[string]int32{"beginning": m.vocab.bos, "end": m.vocab.eos} {
		if id != llama.TokenNull && !m.vocab.has(id) {
			return fmt.Errorf("its %s-of-text token %d is not in its vocabulary of %d", name, id, m.vocab.size)
		}
	}
	m.branches = !llama.ModelIsRecurrent(m.handle) && !llama.ModelIsHybrid(m.handle) && !m.positions()
	return nil
}

// positions says that a token's position is not its index: no range of cells is a prefix then.
func (m *model) positions() bool {
	kind := int(llama.ModelRopeType(m.handle))
	return kind == int(llama.RoPETypeMROPE) || kind == int(llama.RoPETypeIMROPE)
}

func (m *model) readTemplate(command []string) (err error) {
	m.source = llama.ModelChatTemplate(m.handle, "")
	if m.source == "" {
		return nil
	}
	if !utf8.ValidString(m.source) {
		return errors.New("its chat template is no valid UTF-8")
	}
	if m.template, err = openTemplate(command, m.source, m.vocab); err != nil {
		return err
	}
	m.vocab.show(callOpen, callClose)
	if m.template.channels {
		m.vocab.show(chanStart, chanName, chanType, chanMessage, chanEnd)
	}
	if t := m.template.thought; t != nil {
		m.vocab.show(t.open, t.close)
	}
	return nil
}

// makeContext sets every parameter that the engine relies on: defaults change between releases.
func (m *model) makeContext(c Config, dev device) (err error) {
	p := llama.ContextDefaultParams()
	if p.TypeK, err = kvType(c); err != nil {
		return err
	}
	p.TypeV = p.TypeK
	p.NCtx, p.NSeqMax = uint32(c.Context), uint32(c.Slots+1) // the last is freeze's and thaw's
	p.NBatch, p.NUbatch = uint32(c.Rows), uint32(c.Rows)
	p.NThreads, p.NThreadsBatch = int32(c.Threads), int32(c.Threads)
	p.FlashAttentionType = llama.FlashAttentionTypeEnabled
	if c.NoFlash {
		p.FlashAttentionType = llama.FlashAttentionTypeDisabled
	}
	if !dev.accelerated() {
		p.Offload_kqv, p.OpOffload = 0, 0 // an accelerator that is not wanted
	}
	p.KVUnified = 1 // sequences share cells, and any of them may grow to the limit
	p.SwaFull = 1   // sliding windows keep all cells, so that prefixes can be shared
	p.NoPerf = 1
	m.pool = newPool(c.Threads, dev)
	return m.create(p)
}

func (m *model) create(p llama.ContextParams) (err error) {
	if m.ctx, err = llama.InitFromModel(m.handle, p); err != nil {
		return fmt.Errorf("make a context of %d tokens: %w", p.NCtx, library.log.explain(err))
	}
	if m.mem, err = llama.GetMemory(m.ctx); err != nil || m.mem == 0 {
		return errors.New("it has no KV cache")
	}
	if err := m.equip(m.ctx); err != nil {
		return err
	}
	m.params = p
	m.cells = int(llama.NCtx(m.ctx))
	m.rows = min(m.rows, int(llama.NBatch(m.ctx)))
	m.batch = llama.BatchInit(int32(m.rows), 0, 1)
	return nil
}

// equip gives a new context what all of a model's have.
func (m *model) equip(ctx llama.Context) error {
	attach(ctx, m.pool)
	if m.offsets != 0 && !m.compute(ctx, 0, 0) {
		return errors.New("it can't compute with the offsets of its weights")
	}
	return nil
}

// kvTypes are what the cache's numbers may be kept as.
var kvTypes = map[string]llama.GGMLType{"": llama.GGMLTypeF16, "f16": llama.GGMLTypeF16, "q8_0": llama.GGMLTypeQ8_0}

func kvType(c Config) (llama.GGMLType, error) {
	t, ok := kvTypes[c.KVType]
	switch {
	case !ok:
		return t, fmt.Errorf("a KV cache of type %q is not known: take f16 or q8_0", c.KVType)
	case c.NoFlash && t != llama.GGMLTypeF16:
		return t, fmt.Errorf("a KV cache of type %s needs flash attention", c.KVType)
	}
	return t, nil
}

// limit is the longest prompt and answer together.
func (m *model) limit() int { return min(m.trained, m.cells) }

// free gives everything back, the context before the model, as llama.cpp wants it; the model's adapters go with it. It
// may be called half-way.
func (m *model) free() {
	m.template.close()
	if m.batch.Token != nil {
		llama.BatchFree(m.batch)
	}
	if m.ctx != 0 {
		llama.Free(m.ctx)
	}
	if !m.borrowed {
		llama.ModelFree(m.handle)
		llama.ThreadpoolFree(m.pool)
	}
}

// decode computes rows in one call and returns llama.cpp's code, or badRows where it would end the process.
func (m *model) decode(rows []row) int32 {
	if len(rows) == 0 || len(rows) > m.rows {
		return badRows
	}
	m.batch.Clear()
	for _, r := range rows {
		if !m.vocab.has(r.token) || r.pos < 0 || r.pos >= m.cells || !m.valid(r.seq.slot) {
			return badRows
		}
		if m.batch.Add(llama.Token(r.token), llama.Pos(r.pos), []llama.SeqId{llama.SeqId(r.seq.slot)}, r.output) != nil {
			return badRows
		}
	}
	code, err := llama.Decode(m.ctx, m.batch)
	if err != nil {
		return badRows
	}
	return code
}

// valid says that a sequence may compute: llama.cpp has room for the output of as many as there are slots.
func (m *model) valid(slot int) bool { return slot >= 0 && slot < m.slots }

// holds says that a sequence may hold cells. A unified cache takes any of them.
func (m *model) holds(id int) bool { return id >= 0 && id < maxSequences }

// logits is what the last call computed for an output row, in native memory that the next call overwrites.
func (m *model) logits(i int) []float32 {
	if i < 0 || i >= m.rows {
		return nil
	}
	row, err := llama.GetLogitsIth(m.ctx, int32(i), m.vocab.size)
	if err != nil {
		return nil
	}
	return row
}

// share lets a sequence use the first n cells of another. It trusts no book: what llama.cpp holds of both must be what
// the caller believes, or a conversation might go on with another's beginning.
func (m *model) share(from, to, n int) bool {
	if !m.holds(from) || !m.holds(to) || from == to || n < 1 {
		return false
	}
	first, last := m.span(from)
	if _, end := m.span(to); first != 0 || last < n-1 || end >= 0 {
		m.remove(to, 0)
		return false
	}
	if llama.MemorySeqCp(m.mem, llama.SeqId(from), llama.SeqId(to), 0, llama.Pos(n)) != nil {
		return false
	}
	first, last = m.span(to)
	if first == 0 && last == n-1 {
		return true
	}
	m.remove(to, 0)
	return false
}

// span is the first and last position that llama.cpp holds of a sequence; -1 of an empty one.
func (m *model) span(id int) (first, last int) {
	a, err := llama.MemorySeqPosMin(m.mem, llama.SeqId(id))
	if err != nil {
		return -1, -1
	}
	b, err := llama.MemorySeqPosMax(m.mem, llama.SeqId(id))
	if err != nil {
		return -1, -1
	}
	return int(a), int(b)
}

// remove frees a sequence's cells from a position on. It says false where the model's memory can't drop a part.
func (m *model) remove(slot, from int) bool {
	if !m.holds(slot) || from < 0 {
		return false
	}
	ok, err := llama.MemorySeqRm(m.mem, llama.SeqId(slot), llama.Pos(from), -1)
	return ok && err == nil
}

// freeze copies what a sequence holds of [from, to) out, through the spare sequence: llama.cpp writes whole ones, and of
// those above NSeqMax nothing that could be read again.
func (m *model) freeze(id, from, to int) []byte {
	first, last := m.span(id)
	if !m.holds(id) || first != 0 || last < to-1 || from >= to {
		return nil
	}
	spare := llama.SeqId(m.slots)
	defer m.remove(m.slots, 0)
	if llama.MemorySeqCp(m.mem, llama.SeqId(id), spare, llama.Pos(from), llama.Pos(to)) != nil {
		return nil
	}
	state := make([]byte, llama.StateSeqGetSize(m.ctx, spare))
	if n := llama.StateSeqGetData(m.ctx, state, spare); n == 0 || n != uint64(len(state)) {
		return nil
	}
	return state
}

// thaw puts cells back through the spare sequence, and has the slot share them. As share, it trusts no book.
func (m *model) thaw(state []byte, slot, from, to int) bool {
	if _, last := m.span(slot); !m.valid(slot) || last != from-1 || from >= to {
		return false
	}
	defer m.remove(m.slots, 0)
	if llama.StateSeqSetData(m.ctx, state, llama.SeqId(m.slots)) != uint64(len(state)) {
		return false
	}
	if first, last := m.span(m.slots); first > from || last < to-1 {
		return false
	}
	if llama.MemorySeqCp(m.mem, llama.SeqId(m.slots), llama.SeqId(slot), llama.Pos(from), llama.Pos(to)) != nil {
		return false
	}
	if _, last := m.span(slot); last == to-1 {
		return true
	}
	m.remove(slot, from)
	return false
}

// why is what llama.cpp logged of its last failure.
func (m *model) why(code int32) string {
	return library.log.explain(fmt.Errorf("code %d", code)).Error()
}

// checkFile refuses what llama.cpp would only fail to load, and what it would end the process over.
func checkFile(path string) (head *gguf.File, err error) {
	if head, err = gguf.Open(path); err == nil {
		err = gguf.CheckModel(head)
	}
	if err != nil {
		return nil, fmt.Errorf("llama: model %s: %w", path, err)
	}
	return head, nil
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// Digest is the lower-case hex SHA-256 of a file, by which a base model is known. It reads the whole file: some
// tenths of a second for each 100 MB.
func Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("llama: digest model: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("llama: digest model: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// textDigest is the digest of a template; empty for none.
func textDigest(s string) string {
	if s == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
