package llama

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
	"lorry/engine/gguf"
)

// adapter is a LoRA adapter: a file that was checked, and what llama.cpp holds of it while it is loaded. The loop alone
// touches what is below digest, path, bytes, wider and pinned.
type adapter struct {
	digest string
	path   string
	bytes  int64 // that it takes in memory
	wider  int64 // how many times its rank it is given in memory; 0: its own
	pinned bool

	handle llama.AdapterLora // 0: not loaded
	runs   int               // begun and not ended
	used   uint64            // when last
}

// adapters are the files of all adapters that were asked for. Its methods may be called from many goroutines.
type adapters struct {
	dir    string
	most   int64
	widen  bool // small ranks, see wideRank
	pinned []string
	base   func() (*gguf.File, error)

	mu    sync.Mutex
	known map[string]*adapter
}

func newAdapters(c Config) *adapters {
	base := sync.OnceValues(func() (*gguf.File, error) { return gguf.Open(c.File) })
	return &adapters{dir: c.Adapters, most: c.AdapterBytes, widen: c.apart, pinned: c.Pinned, base: base, known: map[string]*adapter{}}
}

// find is the adapter of a digest; nil, which is the base, for none. It reads all of a file the first time, on its
// caller's goroutine: to check it, and so that loading it later waits for no disk.
func (s *adapters) find(digest string) (*adapter, error) {
	if digest == "" {
		return nil, nil
	}
	if s.dir == "" {
		return nil, noAdapter("this engine serves no adapters")
	}
	if !isDigest(digest) {
		return nil, noAdapter("the adapter %.80q is no digest", digest)
	}
	if a := s.keep(digest, nil); a != nil {
		return a, nil
	}
	a, err := s.read(digest)
	if err != nil {
		return nil, err
	}
	return s.keep(digest, a), nil
}

// keep is what is known under a digest: the first that was read, or else a.
func (s *adapters) keep(digest string, a *adapter) *adapter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.known[digest]; known != nil || a == nil {
		return known
	}
	s.known[digest] = a
	return a
}

func (s *adapters) read(digest string) (*adapter, error) {
	a := &adapter{digest: digest, path: filepath.Join(s.dir, digest), pinned: slices.Contains(s.pinned, digest)}
	err := s.check(a)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, noAdapter("the adapter %s is not in %s", digest, s.dir)
	case errors.Is(err, gguf.ErrInvalid):
		return nil, badAdapter(digest, err)
	case err != nil:
		return nil, engine.Errorf(engine.Internal, "", "", "the adapter %s can't be read: %v", digest, err)
	case a.bytes > s.most:
		return nil, badAdapter(digest, fmt.Errorf("it takes %d bytes, and all adapters together may take %d: allow more (adapter_memory)", a.bytes, s.most))
	}
	return a, nil
}

// check reads all of a file. llama.cpp would end the process over some of what it refuses.
func (s *adapters) check(a *adapter) error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err != nil {
		return err
	}
	head, err := gguf.Open(a.path)
	if err != nil {
		return err
	}
	base, err := s.base()
	if err != nil {
		return err
	}
	for _, t := range head.Tensors {
		a.bytes += t.Bytes()
	}
	if err := gguf.CheckAdapter(head, base); err != nil {
		return err
	}
	a.wider = s.wider(head.Rank(), a.bytes)
	a.bytes *= max(1, a.wider)
	return gguf.Finite(head, f)
}

// wider is how many times its rank an adapter is given; 0: it stays as it is. Several of that size have to fit.
func (s *adapters) wider(rank, bytes int64) int64 {
	if !s.widen || rank == 0 || rank >= wideRank || wideRank%rank != 0 || bytes*(wideRank/rank) > s.most/8 {
		return 0
	}
	return wideRank / rank
}

// wideRank is the least rank that a CPU is given. llama.cpp multiplies rows of fewer numbers one by one: a prompt's token
// took a tenth longer with the rank 8 than without an adapter, and with 32 no longer than that (BenchmarkRank).
const wideRank = 32

// widened is a file to load an adapter from, and what to do with it afterwards. It is the adapter's own where no other can
// be written: that computes the same, only slower.
func (a *adapter) widened() (path string, remove func()) {
	none := func() {}
	if a.wider == 0 {
		return a.path, none
	}
	path, done, err := temporary(a.widen)
	if err != nil {
		return a.path, none
	}
	return path, done
}

func (a *adapter) widen(w io.Writer) error {
	head, err := gguf.OpenWhole(a.path)
	if err != nil {
		return err
	}
	r, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer r.Close()
	return gguf.Widen(w, head, r, a.wider)
}

func noAdapter(format string, args ...any) error {
	return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", format, args...)
}

// badAdapter is a file that never can be used here: no retry helps.
func badAdapter(digest string, err error) error {
	return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "model", "the adapter %s can't be used: %s", digest, strings.TrimPrefix(err.Error(), "gguf: "))
}

// isDigest keeps paths out of file names.
func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// rack is the adapters that are loaded, as the loop keeps them: within a bound of bytes, those that were not used for
// the longest time go first. It never gives up one that a run has begun with, nor a pinned one.
type rack struct {
	dev     decoder
	most    int64
	held    int64 // bytes
	loaded  []*adapter
	clock   uint64
	loads   int
	evicted int
	texts   *embedder // nil: none are embedded
}

// room says whether a may be loaded now, of which it makes sure: idle ones are freed unless keep wants them. never is
// when no end of a run will make room.
func (r *rack) room(a *adapter, keep func(*adapter) bool) (ok, never bool) {
	for r.held+a.bytes > r.most {
		x := r.stalest(keep)
		if x == nil {
			return false, r.pinnedBytes()+a.bytes > r.most
		}
		r.free(x)
		r.evicted++
	}
	return true, false
}

func (r *rack) stalest(keep func(*adapter) bool) (old *adapter) {
	for _, a := range r.loaded {
		if a.runs == 0 && !a.pinned && !keep(a) && (old == nil || a.used < old.used) {
			old = a
		}
	}
	return old
}

func (r *rack) pinnedBytes() (n int64) {
	for _, a := range r.loaded {
		if a.pinned {
			n += a.bytes
		}
	}
	return n
}

func (r *rack) add(a *adapter, handle llama.AdapterLora) {
	a.handle = handle
	r.held += a.bytes
	r.loads++
	r.loaded = append(r.loaded, a)
	r.touch(a)
}

func (r *rack) touch(a *adapter) {
	r.clock++
	a.used = r.clock
}

func (r *rack) free(a *adapter) {
	r.texts.forget(a)
	r.dev.unload(a.handle)
	a.handle = 0
	r.held -= a.bytes
	r.loaded = without(r.loaded, a)
}

// begin and end count the runs that hold an adapter.
func (r *rack) begin(a *adapter) {
	if a != nil {
		a.runs++
		r.touch(a)
	}
}

func (r *rack) end(a *adapter) {
	if a != nil {
		a.runs--
		r.touch(a)
	}
}

// there says that those of an adapter may compute.
func (a *adapter) there() bool { return a == nil || a.handle != 0 }

// load reads an adapter's file into memory. It may run beside calls of other methods, but for those that read
// llama.cpp's list of a model's adapters, which has no lock: unload, and the first decode after use has changed
// anything. llama.cpp checks names and shapes, and says what is wrong.
func (m *model) load(a *adapter) (llama.AdapterLora, error) {
	path, remove := a.widened()
	defer remove()
	m.listing.Lock()
	handle, err := llama.AdapterLoraInit(m.handle, path)
	m.listing.Unlock()
	if err == nil && handle == 0 {
		err = library.log.explain(errors.New("llama.cpp does not say why"))
	}
	switch {
	case err == nil:
		return handle, nil
	case strings.Contains(err.Error(), "failed to allocate"):
		return 0, engine.Errorf(engine.Internal, "", "", "no memory for the adapter %s: %v", a.digest, err)
	}
	return 0, badAdapter(a.digest, err)
}

// unload frees an adapter, which the context must not compute with afterwards: llama.cpp would read freed memory.
func (m *model) unload(handle llama.AdapterLora) {
	if m.adapter == handle {
		m.use(0)
	}
	_ = llama.AdapterLoraFree(handle) // fails for 0 only
}

// use has the calls from now on compute with an adapter, or with none for 0.
func (m *model) use(handle llama.AdapterLora) bool {
	if handle == m.adapter {
		return true
	}
	if !m.compute(m.ctx, handle, m.adapter) {
		return false
	}
	m.adapter = handle
	return true
}

// compute has a context compute with an adapter, or with none for 0, where it did with the one before.
func (m *model) compute(ctx llama.Context, handle, before llama.AdapterLora) bool {
	var list []llama.AdapterLora
	var scales []float32
	add := func(a llama.AdapterLora, scale float32) { list, scales = append(list, a), append(scales, scale) }
	if m.offsets != 0 {
		add(m.offsets, 1)
	}
	switch {
	case handle != 0:
		add(handle, 1)
	case m.offsets == 0:
		add(before, 0) // llama.cpp takes no empty list: none is named by the scale 0
	}
	return llama.SetAdaptersLora(ctx, list, scales) == 0
}
