package worker

import (
	"context"
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

// AdaptersConfig says where adapters come from, and where the engine reads them. Store and Dir are required.
type AdaptersConfig struct {
	// Store holds all adapters of the fleet.
	Store blob.Store
	// Dir is the engine's folder of them: each under its digest. Several workers of a host may share it. What was
	// fetched stays until Sweep finds it unused.
	Dir string
	// Try, if not nil, looks at a file that nobody trusts yet before it comes into Dir: in a process of its own, for
	// llama.cpp may end the one that loads it. An *engine.Error of class Invalid refuses the adapter, and is remembered
	// for a while; after any other error it is tried again when it is needed next. What is in Dir was tried.
	Try func(ctx context.Context, file string) error
	// Timeout bounds a fetch. 0: 10 minutes.
	Timeout time.Duration
	Log     zerolog.Logger
}

// Adapters are fetched by their digests before an engine needs them. Its methods may be called from many goroutines.
type Adapters struct {
	cfg AdaptersConfig

	mu      sync.Mutex
	flights map[string]*flight
	refused map[string]refusal
}

// refusal is why Try refused an adapter, and when.
type refusal struct {
	err error
	at  time.Time
}

// refusedFor is how long a refusal stands. It costs a crash to find out again, and a machine that was short of memory may
// have refused a good one.
const refusedFor = time.Hour

func (r refusal) stands() bool { return time.Since(r.at) < refusedFor }

// flight is a fetch under way, that all who need the adapter wait for.
type flight struct {
	done chan struct{}
	err  error // read after done
}

// NewAdapters makes the folder.
func NewAdapters(c AdaptersConfig) (*Adapters, error) {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Minute
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("worker: make the adapters' folder: %w", err)
	}
	return &Adapters{cfg: c, flights: map[string]*flight{}, refused: map[string]refusal{}}, nil
}

// Fetch returns when an adapter is in the folder. One that the store does not have is engine.NotFound, one that can't be
// used engine.Invalid; a store that does not answer is engine.Unavailable.
func (a *Adapters) Fetch(ctx context.Context, digest string) error {
	if !blob.Valid(digest) {
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the adapter %.80q is no digest", digest)
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

// need is Fetch for a request. Nil Adapters need nothing: the engine has its own.
func (a *Adapters) need(ctx context.Context, digest string) error {
	if a == nil || digest == "" {
		return nil
	}
	return a.Fetch(ctx, digest)
}

// join is the fetch that is under way, or a new one, or what refused the adapter lately. It goes on when the request that
// began it ends: others wait for it.
func (a *Adapters) join(digest string) *flight {
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

func (a *Adapters) fetch(ctx context.Context, digest string) error {
	began := time.Now()
	err := a.copy(ctx, digest)
	switch {
	case errors.Is(err, engine.ErrInvalid):
		a.cfg.Log.Warn().Err(err).Str("adapter", digest).Str("stderr", engine.AsError(err).Stderr).Msg("adapter refused")
		return err
	case errors.Is(err, blob.ErrNotFound):
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the adapter %s is not stored: push it again (lorry model push)", digest)
	case errors.Is(err, errDamaged):
		return engine.Errorf(engine.Internal, "", "", "%v: push it again (lorry model push)", err)
	case err != nil:
		a.cfg.Log.Warn().Err(err).Str("adapter", digest).Msg("adapter not fetched")
		return engine.Errorf(engine.Unavailable, "", "", "the adapter %s can't be fetched: %v", digest, err)
	}
	a.cfg.Log.Info().Str("adapter", digest).Dur("took", time.Since(began)).Msg("adapter fetched")
	return nil
}

// fetching begins the name of a file that is not whole yet.
const fetching = ".fetch-"

// errDamaged is a blob with other bytes than its digest says.
var errDamaged = errors.New("the stored bytes of the adapter are damaged")

// copy puts a blob into the folder by rename, once its bytes are on disk, are what the digest says, and were tried.
func (a *Adapters) copy(ctx context.Context, digest string) error {
	from, err := a.cfg.Store.Open(ctx, digest)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(a.cfg.Dir, fetching+"*")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name()) // gone already after success
	defer to.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, sum), from); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != digest {
		return fmt.Errorf("%w: %s", errDamaged, digest)
	}
	if err := to.Sync(); err != nil {
		return err
	}
	if a.cfg.Try != nil {
		if err := a.cfg.Try(ctx, to.Name()); err != nil {
			return err
		}
	}
	return os.Rename(to.Name(), filepath.Join(a.cfg.Dir, digest))
}
