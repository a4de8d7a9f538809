package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/blob"
	"lorry/watch"
)

// KeptFor is how long a pushed file stays after a sweep found that no name stands for it any more. Whoever resolved a
// name from a view that lags behind has published its job long before.
const KeptFor = 24 * time.Hour

// markerTTL is how long the mark of a purged record stands.
const markerTTL = time.Hour

// ErrGoing is a pushed file that is being removed at this moment: the same push does a moment later.
var ErrGoing = errors.New("the same file, pushed long ago, is being removed: push it again in a moment")

// mark is a record about a pushed file that no model's record may hold. Who wants to remove the file, and who pushes
// it, both write the mark first, by compare-and-set: so one of them sees the other.
type mark struct {
	V int `json:"v"`
	// Since is when a sweep found that nothing names the file, in unix seconds. 0: it was pushed, and may be named soon.
	Since int64 `json:"since,omitempty"`
	// Going files are being removed. Only who does that, or the next sweep in its place, changes such a mark.
	Going bool `json:"going,omitempty"`
	// Model is a pushed one whose last name was deleted, and Left when, in unix seconds. Workers serve it as long as its
	// mark stands.
	Model *Model `json:"model,omitempty"`
	Left  int64  `json:"left,omitempty"`

	revision uint64
}

const markPrefix = "file."

// leavingFor is how soon after its last name was deleted a sweep asks whether jobs need a pushed model. A view lags behind by
// less, and a model takes more room than an adapter. Where some do, it asks again after a quarter of the time so far,
// leavingFor to KeptFor: asking costs a look at all jobs that wait.
const leavingFor = 15 * time.Second

// due says whether a file may be removed if no job needs it.
func (m mark) due(now time.Time) bool {
	kept := KeptFor
	if m.Model != nil {
		kept = min(max(leavingFor, time.Duration(m.Since-m.Left)*time.Second/4), KeptFor)
	}
	return m.Going || m.Since != 0 && now.Sub(time.Unix(m.Since, 0)) >= kept
}

// Sweep removes from store the files of models and adapters that nothing needs, and says how many these were: no name
// stands for them for a day or longer (of a deleted model: some seconds), and needed, which is asked at most once, does
// not hold them for jobs that were accepted. It may run in several processes at once.
func (r *Registry) Sweep(ctx context.Context, store blob.Store, needed func(context.Context) (map[string]bool, error)) (removed int, err error) {
	kv, err := r.bucket(ctx)
	if err != nil {
		return 0, err
	}
	marks, err := r.marks(ctx, kv, store)
	if err != nil {
		return 0, err
	}
	var old []string
	var errs []error
	for digest, m := range marks {
		switch {
		case m.due(r.cfg.Now()):
			old = append(old, digest)
		case m.Since == 0:
			errs = append(errs, r.found(ctx, kv, digest, m))
		}
	}
	if len(old) == 0 {
		return 0, errors.Join(errs...)
	}
	held, err := needed(ctx)
	if err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	for _, digest := range old {
		if held[digest] && !marks[digest].Going {
			errs = append(errs, r.found(ctx, kv, digest, marks[digest]))
			continue
		}
		gone, err := r.remove(ctx, kv, store, digest, marks[digest])
		if gone {
			removed++
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// marks are those of the files that no name stands for, also of files that have none yet. Marks of others it takes away.
func (r *Registry) marks(ctx context.Context, kv jetstream.KeyValue, store blob.Store) (map[string]mark, error) {
	named, marks, err := records(ctx, kv)
	if err != nil {
		return nil, err
	}
	for digest, m := range marks {
		if named[digest] && !m.Going {
			delete(marks, digest)
			if err := purge(ctx, kv, digest, m.revision); err != nil {
				return nil, err
			}
		}
	}
	for b, err := range store.List(ctx) {
		if err != nil {
			return nil, fmt.Errorf("registry: sweep: %w", err)
		}
		if _, marked := marks[b.Digest]; !marked && !named[b.Digest] {
			marks[b.Digest] = mark{}
		}
	}
	return marks, nil
}

// records is the bucket as it is now: the files in the store that have names, and the marks.
func records(ctx context.Context, kv jetstream.KeyValue) (named map[string]bool, marks map[string]mark, err error) {
	named, marks = map[string]bool{}, map[string]mark{}
	err = watch.Each(ctx, kv, ">", func(e jetstream.KeyValueEntry) {
		if digest, ok := strings.CutPrefix(e.Key(), markPrefix); ok {
			marks[digest] = decodeMark(e)
			return
		}
		if m := decode(e).there(); m.Adapter != "" {
			named[m.Adapter] = true
		} else if m.Stored {
			named[m.Base] = true
		}
	}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, nil, fmt.Errorf("registry: sweep: %w", err)
	}
	return named, marks, nil
}

// found notes that nothing names a file now. Somebody else's newer word stands.
func (r *Registry) found(ctx context.Context, kv jetstream.KeyValue, digest string, m mark) error {
	m.Since, m.Going = r.cfg.Now().Unix(), false
	_, err := setMark(ctx, kv, digest, m)
	return overtaken(err)
}

// remove deletes a file, unless its mark has changed, or a name stands for it after all.
func (r *Registry) remove(ctx context.Context, kv jetstream.KeyValue, store blob.Store, digest string, m mark) (gone bool, err error) {
	m.Going = true
	if m.revision, err = setMark(ctx, kv, digest, m); err != nil {
		return false, overtaken(err)
	}
	named, _, err := records(ctx, kv)
	if err != nil {
		return false, err
	}
	if gone = !named[digest]; gone {
		if err := store.Delete(ctx, digest); err != nil {
			return false, fmt.Errorf("registry: sweep: %w", err)
		}
		r.cfg.Log.Info().Str("file", digest).Msg("pushed file removed: nothing names it, no job needs it")
	}
	return gone, purge(ctx, kv, digest, m.revision)
}

// claim marks a file that is being pushed, before its bytes can be seen. ErrGoing says that it is being removed.
func claim(ctx context.Context, kv jetstream.KeyValue, digest string) (m mark, err error) {
	for {
		if m, err = getMark(ctx, kv, digest); err != nil {
			return m, err
		}
		if m.Going {
			return m, ErrGoing
		}
		m.Since = 0
		if m.revision, err = setMark(ctx, kv, digest, m); err == nil || overtaken(err) != nil {
			return m, err
		}
	}
}

// getMark is a file's mark; the zero mark where there is none.
func getMark(ctx context.Context, kv jetstream.KeyValue, digest string) (mark, error) {
	e, err := kv.Get(ctx, markPrefix+digest)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, fmt.Errorf("registry: file %s: %w", digest, err)
	}
	return decodeMark(e), nil
}

func setMark(ctx context.Context, kv jetstream.KeyValue, digest string, m mark) (revision uint64, err error) {
	m.V = V
	b, err := json.Marshal(m)
	if err != nil {
		return 0, err
	}
	if m.revision == 0 {
		revision, err = kv.Create(ctx, markPrefix+digest, b)
	} else {
		revision, err = kv.Update(ctx, markPrefix+digest, b, m.revision)
	}
	if err != nil {
		return 0, fmt.Errorf("registry: mark file %s: %w", digest, err)
	}
	return revision, nil
}

// decodeMark takes a mark that can't be read for a new one: its file stays for longer.
func decodeMark(e jetstream.KeyValueEntry) (m mark) {
	_ = json.Unmarshal(e.Value(), &m)
	m.revision = e.Revision()
	return m
}

func purge(ctx context.Context, kv jetstream.KeyValue, digest string, revision uint64) error {
	err := kv.Purge(ctx, markPrefix+digest, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL))
	return overtaken(err)
}

// overtaken passes over that somebody else was quicker.
func overtaken(err error) error {
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) || errors.Is(err, jetstream.ErrKeyExists) {
		return nil
	}
	return err
}
