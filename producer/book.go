package producer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/watch"
)

// book keeps what clients asked to be stored, and the answers of what somebody waited for, whose HTTP answer is else the
// only record; other answers are in RESULTS. It is the one owner of its bucket, whose keys are <tenant>.<id>.
type book[R record] struct {
	js       jetstream.JetStream
	replicas int
	bucket   string // the KV bucket's name, which says what it holds
	id       *regexp.Regexp
}

// record is what a bucket holds. A change of its bytes needs a new version, and a reader of the old one.
type record interface{ version() int }

// bookV is the version of the records that this program writes.
const bookV = 1

// storedFor is how long records can be read, from their last change: as long as RESULTS keeps its own.
const storedFor = 72 * time.Hour

// errNoRecord is a record that never was, is too old, was deleted, or is another tenant's.
var errNoRecord = errors.New("producer: no such record")

// setup makes the bucket. It is an admin step; doing it again changes nothing.
func (b book[R]) setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: b.bucket, Description: "stored " + b.bucket, Storage: jetstream.FileStorage, Replicas: cmp.Or(b.replicas, 1), TTL: storedFor}
	if _, err := b.js.CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("producer: set up bucket %s: %w", b.bucket, err)
	}
	return nil
}

func (b book[R]) open(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, b.bucket)
	if err != nil {
		return nil, fmt.Errorf("producer: bucket %s: %w", b.bucket, err)
	}
	return kv, nil
}

// put keeps a record. One that is there stays: a repetition under an idempotency key says the same.
func (b book[R]) put(ctx context.Context, tenant, id string, r R) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	if _, err := kv.Create(ctx, tenant+"."+id, must(json.Marshal(r))); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("producer: keep %s: %w", id, err)
	}
	return nil
}

// get is a tenant's record; errNoRecord where there is none.
func (b book[R]) get(ctx context.Context, tenant, id string) (R, error) {
	r, _, err := b.find(ctx, tenant, id)
	return r, err
}

func (b book[R]) find(ctx context.Context, tenant, id string) (r R, revision uint64, err error) {
	if !b.id.MatchString(id) {
		return r, 0, errNoRecord
	}
	kv, err := b.open(ctx)
	if err != nil {
		return r, 0, err
	}
	e, err := kv.Get(ctx, tenant+"."+id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return r, 0, errNoRecord
	}
	if err != nil {
		return r, 0, fmt.Errorf("producer: read %s: %w", id, err)
	}
	r, err = b.read(e)
	return r, e.Revision(), err
}

func (b book[R]) read(e jetstream.KeyValueEntry) (r R, err error) {
	if err = json.Unmarshal(e.Value(), &r); err == nil && r.version() > bookV {
		err = fmt.Errorf("version %d, this program reads %d", r.version(), bookV)
	}
	if err != nil {
		return r, fmt.Errorf("producer: read %s: %w", e.Key(), err)
	}
	return r, nil
}

// change changes a record by compare-and-set; change may be called again, with what somebody else has set meanwhile.
func (b book[R]) change(ctx context.Context, tenant, id string, change func(*R)) error {
	for {
		r, revision, err := b.find(ctx, tenant, id)
		if err != nil {
			return err
		}
		kv, err := b.open(ctx)
		if err != nil {
			return err
		}
		change(&r)
		_, err = kv.Update(ctx, tenant+"."+id, must(json.Marshal(r)), revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return fmt.Errorf("producer: change %s: %w", id, err)
		}
		return nil
	}
}

func (b book[R]) delete(ctx context.Context, tenant, id string) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	if err := kv.Purge(ctx, tenant+"."+id); err != nil {
		return fmt.Errorf("producer: delete %s: %w", id, err)
	}
	return nil
}

// ids are those of a tenant's records, the oldest first. With a match they cost the reading of all of them, without only
// that of their keys. Records that can't be read here match nothing.
func (b book[R]) ids(ctx context.Context, tenant string, match func(R) bool) (out []string, err error) {
	kv, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	opts := []jetstream.WatchOpt{jetstream.IgnoreDeletes()}
	if match == nil {
		opts = append(opts, jetstream.MetaOnly())
	}
	err = watch.Each(ctx, kv, tenant+".*", func(e jetstream.KeyValueEntry) {
		if match != nil {
			if r, err := b.read(e); err != nil || !match(r) {
				return
			}
		}
		_, id, _ := strings.Cut(e.Key(), ".")
		out = append(out, id)
	}, opts...)
	slices.Sort(out) // IDs are in the order of their making
	return out, err
}

// jobOf is the job behind an answer's ID, as result.AnswerID makes it.
func jobOf(answer string) string {
	return "job_" + answer[strings.IndexAny(answer, "_-")+1:]
}
