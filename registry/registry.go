package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// Bucket is the KV bucket's name.
const Bucket = "models"

// Config says where the models are. JS is required.
type Config struct {
	JS jetstream.JetStream
	// Replicas of the bucket; 0 is 1.
	Replicas int
	Log      zerolog.Logger
	// Now is the clock of Sweep; nil: time.Now.
	Now func() time.Time
}

// Registry is the models of a fleet. Its methods may be called from many goroutines.
type Registry struct {
	cfg   Config
	ready chan struct{} // closed once the bucket has been read

	mu      sync.RWMutex
	models  map[string]entry // by key
	leaving map[string]mark  // of models without a name, by digest
}

type entry struct {
	Model
	revision uint64
	gone     bool // deleted, or unreadable
}

// New makes a Registry. It asks the server nothing.
func New(c Config) *Registry {
	c.Replicas = cmp.Or(c.Replicas, 1)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Registry{cfg: c, ready: make(chan struct{}), models: map[string]entry{}, leaving: map[string]mark{}}
}

// Setup makes the bucket. It is an admin step; doing it again changes nothing.
func (r *Registry) Setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: Bucket, Description: "what models' names stand for", Storage: jetstream.FileStorage, Replicas: r.cfg.Replicas, LimitMarkerTTL: markerTTL}
	if _, err := r.cfg.JS.CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("registry: set up bucket %s: %w", Bucket, err)
	}
	return nil
}

// Ready is closed once Run has read the bucket: from then on Resolve and List answer.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

// Put registers a model, or changes what its name stands for. What a push told of the same base stays. A record that
// says the same already is left alone. When Put returns, Resolve here knows the model; elsewhere after the watch's delay. A
// pushed model that loses its last name so is [Registry.Leaving], as after Delete.
func (r *Registry) Put(ctx context.Context, m Model) error {
	var before Model
	err := r.update(ctx, m.Name, func(old Model) (Model, error) {
		if before = old; old.Stored && old.Base == m.Base && old.Adapter == m.Adapter {
			m.keep(old)
		}
		return m, nil
	})
	if err != nil || before.Base == m.Base {
		return err
	}
	return r.displaced(ctx, before)
}

// Serve is Put for a pushed model that a worker serves: what it found out is noted. A name that does not stand for it any
// more is left alone, for it may be leaving.
func (r *Registry) Serve(ctx context.Context, m Model) error {
	err := r.update(ctx, m.Name, func(old Model) (Model, error) {
		if !old.Pushed() || old.Base != m.Base {
			return m, ErrNotFound
		}
		m.keep(old)
		return m, nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// update has change make the next record of the name s of its last one, which is the zero Model where there is none. It may be
// called more than once.
func (r *Registry) update(ctx context.Context, s string, change func(old Model) (Model, error)) error {
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	for {
		old, err := get(ctx, kv, s)
		if err != nil {
			return err
		}
		m, err := change(old.there())
		if err == nil {
			err = m.check()
		}
		if err != nil {
			return err
		}
		m.V, m.Created = V, cmp.Or(old.Created, m.Created, time.Now().Unix())
		if old.revision != 0 && old.same(m) {
			n, _ := ParseName(m.Name)
			r.apply(n.key(), entry{Model: m, revision: old.revision})
			return nil
		}
		if err = r.write(ctx, kv, old, m); err == nil || overtaken(err) != nil {
			return err
		} // else someone else wrote it: look again
	}
}

// there is the record of a name that stands for something.
func (e entry) there() Model {
	if e.gone {
		return Model{}
	}
	return e.Model
}

// write replaces old, which is the zero entry where there is none.
func (r *Registry) write(ctx context.Context, kv jetstream.KeyValue, old entry, m Model) (err error) {
	n, _ := ParseName(m.Name)
	revision := old.revision
	if revision == 0 {
		revision, err = kv.Create(ctx, n.key(), encode(m))
	} else {
		revision, err = kv.Update(ctx, n.key(), encode(m), revision)
	}
	if err != nil {
		return fmt.Errorf("registry: write model %s: %w", m.Name, err)
	}
	if old.Base != "" && old.Base != m.Base {
		r.cfg.Log.Warn().Str("model", m.Name).Str("was", old.Base).Str("base", m.Base).Msg("model stands for another base now")
	}
	r.apply(n.key(), entry{Model: m, revision: revision})
	return nil
}

// Resolve is what a name (name, name:version or name@alias) stands for, from memory. ErrNotFound says that nothing is
// registered under it, ErrName that nothing can be, ErrNotReady that it isn't known yet.
func (r *Registry) Resolve(s string) (Model, error) {
	if m, ok := r.known(s); ok {
		return m, nil
	}
	n, err := ParseName(s)
	if err != nil {
		return Model{}, err
	}
	select {
	case <-r.ready:
	default:
		return Model{}, ErrNotReady
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.models[n.key()]
	if !ok || e.gone {
		return Model{}, fmt.Errorf("registry: model %s: %w", n, ErrNotFound)
	}
	return e.Model, nil
}

// known spares the usual name, without a version or an alias, the look at its form: what is in the view has a good one.
func (r *Registry) known(s string) (Model, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.models[keyPrefix+s]
	return e.Model, ok && !e.gone && e.Name == s
}

// List is all models, sorted by name, from memory.
func (r *Registry) List() []Model {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]Model, 0, len(r.models))
	for _, e := range r.models {
		if !e.gone {
			out = append(out, e.Model)
		}
	}
	slices.SortFunc(out, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (r *Registry) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := r.cfg.JS.KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("registry: bucket %s: %w", Bucket, err)
	}
	return kv, nil
}

// get is a model's record; the zero entry where there is none. One that can't be read is there to be replaced.
func get(ctx context.Context, kv jetstream.KeyValue, s string) (entry, error) {
	n, err := ParseName(s)
	if err != nil {
		return entry{}, err
	}
	e, err := kv.Get(ctx, n.key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, fmt.Errorf("registry: read model %s: %w", n, err)
	}
	return decode(e), nil
}

func decode(e jetstream.KeyValueEntry) entry {
	out := entry{revision: e.Revision()}
	out.gone = e.Operation() != jetstream.KeyValuePut || json.Unmarshal(e.Value(), &out.Model) != nil
	return out
}

func encode(m Model) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("registry: " + err.Error()) // our own type: a bug
	}
	return b
}
