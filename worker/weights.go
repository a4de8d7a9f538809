package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/engine"
)

// WeightsConfig says where models' or adapters' files come from, and where the engine reads them. Store and Dir are required.
type WeightsConfig struct {
	// What they are, for people: "adapter", which it is when empty, or "model".
	What string
	// Store holds all of the fleet.
	Store blob.Store
	// Dir is the engine's folder of them: each under its digest. Several workers of a host may share it. What was
	// fetched stays until Sweep finds it unused. Where the store is a folder of the same disk, files are linked, not copied.
	Dir string
	// Try, if not nil, looks at a file that nobody trusts yet before it comes into Dir: in a process of its own, for
	// llama.cpp may end the one that loads it. An *engine.Error of class Invalid refuses the file, and is remembered
	// for a while; after any other error it is tried again when it is needed next. What is in Dir was tried.
	Try func(ctx context.Context, file string) error
	// Timeout bounds a fetch. 0: 10 minutes.
	Timeout time.Duration
	Log     zerolog.Logger
}

// Weights are files that are fetched by their digests before an engine needs them. Its methods may be called from many
// goroutines.
type Weights struct {
	cfg WeightsConfig

	mu      sync.Mutex
	flights map[string]*flight
	refused map[string]refusal
}

// refusal is why Try refused a file, and when.
type refusal struct {
	err error
	at  time.Time
}

// refusedFor is how long a refusal stands. It costs a crash to find out again, and a machine that was short of memory may
// have refused a good one.
const refusedFor = time.Hour

func (r refusal) stands() bool { return time.Since(r.at) < refusedFor }

// flight is a fetch under way, that all who need the file wait for.
type flight struct {
	done chan struct{}
	err  error // read after done
}

// NewWeights makes the folder.
func NewWeights(c WeightsConfig) (*Weights, error) {
	c.Timeout, c.What = cmp.Or(c.Timeout, 10*time.Minute), cmp.Or(c.What, "adapter")
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("worker: make a folder for each %s: %w", c.What, err)
	}
	return &Weights{cfg: c, flights: map[string]*flight{}, refused: map[string]refusal{}}, nil
}

// Fetch returns when a file is in the folder. One that the store does not have is engine.NotFound, one that can't be
// used engine.Invalid; a store that does not answer is engine.Unavailable.
func (a *Weights) Fetch(ctx context.Context, digest string) error {
	if !blob.Valid(digest) {
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the %s %.80q is no digest", a.cfg.What, digest)
	}
	there, err := a.use(digest)
	if there || err != nil {
		return err
	}
	f := a.join(digest)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// need is Fetch for a request. Nil Weights need nothing: the engine has its own.
func (a *Weights) need(ctx context.Context, digest string) error {
	if a == nil || digest == "" {
		return nil
	}
	return a.Fetch(ctx, digest)
}

// join is the fetch that is under way, or a new one, or what refused the file lately. It goes on when the request that
// began it ends: others wait for it.
func (a *Weights) join(digest string) *flight {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flights[digest]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	if r, ok := a.refused[digest]; ok && r.stands() {
		f.err = r.err
		close(f.done)
		return f
	}
	a.flights[digest] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), a.cfg.Timeout)
		defer cancel()
		f.err = a.fetch(ctx, digest)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.flights, digest)
		delete(a.refused, digest)
		if errors.Is(f.err, engine.ErrInvalid) {
			a.refused[digest] = refusal{f.err, time.Now()}
		}
		maps.DeleteFunc(a.refused, func(_ string, r refusal) bool { return !r.stands() })
		close(f.done)
	}()
	return f
}

func (a *Weights) fetch(ctx context.Context, digest string) error {
	began, what := time.Now(), a.cfg.What
	err := a.bring(ctx, digest)
	switch {
	case errors.Is(err, engine.ErrInvalid):
		a.cfg.Log.Warn().Err(err).Str(what, digest).Str("stderr", engine.AsError(err).Stderr).Msg(what + " refused")
		return err
	case errors.Is(err, blob.ErrNotFound):
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the %s %s is not stored: push it again (lorry model push)", what, digest)
	case errors.Is(err, errDamaged):
		return engine.Errorf(engine.Internal, "", "", "%v: push it again (lorry model push)", err)
	case err != nil:
		a.cfg.Log.Warn().Err(err).Str(what, digest).Msg(what + " not fetched")
		return engine.Errorf(engine.Unavailable, "", "", "the %s %s can't be fetched: %v", what, digest, err)
	}
	a.cfg.Log.Info().Str(what, digest).Dur("took", time.Since(began)).Msg(what + " fetched")
	return nil
}

// fetching begins the name of a file that is not whole yet.
const fetching = ".fetch-"

// errDamaged is a blob with other bytes than its digest says.
var errDamaged = errors.New("the stored bytes are damaged")

// bring puts a blob into the folder by rename, once its bytes are on disk, are what the digest says, and were tried.
func (a *Weights) bring(ctx context.Context, digest string) error {
	file := filepath.Join(a.cfg.Dir, fetching+rand.Text())
	defer os.Remove(file) // gone already after success
	sum, err := a.link(digest, file)
	if err != nil {
		sum, err = a.copy(ctx, digest, file)
	}
	if err != nil {
		return err
	}
	if sum != digest {
		return fmt.Errorf("%w: %s", errDamaged, digest)
	}
	if a.cfg.Try != nil {
		if err := a.cfg.Try(ctx, file); err != nil {
			return err
		}
	}
	return os.Rename(file, filepath.Join(a.cfg.Dir, digest))
}

// linker is a store that can give a blob's file a second name.
type linker interface {
	Link(digest, path string) error
}

// link is copy without copying, and its digest; an error where that can't be done.
func (a *Weights) link(digest, path string) (sum string, err error) {
	store, ok := a.cfg.Store.(linker)
	if !ok {
		return "", errors.ErrUnsupported
	}
	if err := store.Link(digest, path); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		sum, err = a.read(f, io.Discard, digest, 0)
	}
	return sum, errors.Join(err, removeAfter(err, path))
}

// removeAfter makes room for another try.
func removeAfter(err error, path string) error {
	if err == nil {
		return nil
	}
	return os.Remove(path)
}

// copy copies a blob to disk, and says its digest.
func (a *Weights) copy(ctx context.Context, digest, path string) (sum string, err error) {
	from, err := a.cfg.Store.Open(ctx, digest)
	if err != nil {
		return "", err
	}
	defer from.Close()
	info, err := a.cfg.Store.Stat(ctx, digest)
	if err != nil {
		return "", err
	}
	if err := blob.Room(a.cfg.Dir, info.Size); err != nil {
		return "", err
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer to.Close()
	if sum, err = a.read(from, to, digest, info.Size); err != nil {
		return "", err
	}
	return sum, errors.Join(to.Sync(), to.Close())
}

// read copies, and tells the log now and then how far it is of a whole of so many bytes.
func (a *Weights) read(from io.Reader, to io.Writer, digest string, of int64) (string, error) {
	sum := sha256.New()
	p := &progress{say: func(done int64) {
		a.cfg.Log.Info().Str(a.cfg.What, digest).Int64("bytes", done).Int64("of", of).Msg("fetching a " + a.cfg.What)
	}, last: time.Now()}
	_, err := io.Copy(io.MultiWriter(to, sum, p), from)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// progress counts what is written, and says so each progressEvery.
type progress struct {
	say  func(done int64)
	done int64
	last time.Time
}

const progressEvery = 10 * time.Second

func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if now := time.Now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		p.say(p.done)
	}
	return len(b), nil
}
