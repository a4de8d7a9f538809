package batch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"lorry/queue"
	"lorry/result"
)

// BatchesConfig says where batches are. All but Replicas, KeepLines, Now and Log are required.
type BatchesConfig struct {
	Queue   *queue.Queue
	Results *result.Store
	Files   *Files
	// Replicas of the bucket; 0 is 1.
	Replicas int
	// KeepLines is how long the lines' results can be read one by one after the end. 0: 10 minutes.
	KeepLines time.Duration
	Log       zerolog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Batches are the batches of all tenants. Its methods may be called from many goroutines and processes: records change
// by compare-and-set.
type Batches struct{ cfg BatchesConfig }

// NewBatches makes a Batches. It asks nobody anything.
func NewBatches(c BatchesConfig) *Batches {
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.KeepLines = cmp.Or(c.KeepLines, 10*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Batches{cfg: c}
}

// Setup makes the bucket. It is an admin step; doing it again changes nothing.
func (bs *Batches) Setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: Bucket, Description: "batches' records", Storage: jetstream.FileStorage, Replicas: bs.cfg.Replicas, LimitMarkerTTL: markerTTL}
	if _, err := bs.cfg.Queue.JS().CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("batch: set up bucket %s: %w", Bucket, err)
	}
	return nil
}

func (bs *Batches) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := bs.cfg.Queue.JS().KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("batch: bucket %s: %w", Bucket, err)
	}
	return kv, nil
}

// Get is a tenant's batch, with what is known of its counts at this moment. ErrNoBatch says that this tenant has none of
// that ID.
func (bs *Batches) Get(ctx context.Context, tenant, id string) (Batch, error) {
	b, err := bs.get(ctx, tenant, id)
	if err == nil {
		bs.count(ctx, &b)
	}
	return b, err
}

func (bs *Batches) get(ctx context.Context, tenant, id string) (b Batch, err error) {
	missing := fmt.Errorf("batch: %.80q: %w", id, ErrNoBatch)
	if !validBatchID(id) {
		return b, missing
	}
	kv, err := bs.bucket(ctx)
	if err != nil {
		return b, err
	}
	e, err := kv.Get(ctx, (&Batch{Tenant: tenant, ID: id}).key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return b, missing
	}
	if err != nil {
		return b, fmt.Errorf("batch: read %s: %w", id, err)
	}
	return readBatch(e)
}

func readBatch(e jetstream.KeyValueEntry) (b Batch, err error) {
	if err := json.Unmarshal(e.Value(), &b); err != nil {
		return b, fmt.Errorf("batch: read %s: %w", e.Key(), err)
	}
	if b.V > V || b.V < V-1 {
		return b, fmt.Errorf("batch: read %s: version %d, this program reads %d", e.Key(), b.V, V)
	}
	b.revision = e.Revision()
	return b, nil
}

// BatchFilter says which batches List shows.
type BatchFilter struct {
	// After is the last ID of the page before; empty: the first page. It need not exist any more.
	After string
	// Limit is how many to return; 0 is 20.
	Limit int
}

// List is a page of a tenant's batches, the newest first, and whether there are more. Pages neither repeat nor miss a
// batch that is there all the time; a record that can't be read is left out, never the page.
func (bs *Batches) List(ctx context.Context, tenant string, q BatchFilter) (page []Batch, more bool, err error) {
	if q.After != "" && !validBatchID(q.After) {
		return nil, false, fmt.Errorf("batch: after %.80q: %w", q.After, ErrNoBatch)
	}
	page, err = bs.All(ctx, tenant)
	if err != nil {
		return nil, false, err
	}
	page = slices.DeleteFunc(page, func(b Batch) bool { return q.After != "" && b.ID >= q.After })
	slices.SortFunc(page, func(a, b Batch) int { return strings.Compare(b.ID, a.ID) })
	if limit := cmp.Or(q.Limit, 20); len(page) > limit {
		page, more = page[:limit], true
	}
	for i := range page {
		bs.count(ctx, &page[i])
	}
	return page, more, nil
}

// All are a tenant's batches as they are now, in no order, without what only Redis knows. Records that can't be read are
// left out.
func (bs *Batches) All(ctx context.Context, tenant string) (all []Batch, err error) {
	kv, err := bs.bucket(ctx)
	if err != nil {
		return nil, err
	}
	err = scan(ctx, kv, tenant+".*", func(e jetstream.KeyValueEntry) {
		if b, err := readBatch(e); err == nil {
			all = append(all, b)
		}
	})
	return all, err
}

// tries is how often a change is begun anew because somebody else was quicker.
const tries = 16

// update changes a record by compare-and-set. An error of change is update's, and leaves the record as it was.
func (bs *Batches) update(ctx context.Context, tenant, id string, change func(*Batch) error) (b Batch, err error) {
	kv, err := bs.bucket(ctx)
	if err != nil {
		return b, err
	}
	for range tries {
		if b, err = bs.get(ctx, tenant, id); err != nil {
			return b, err
		}
		if err := change(&b); err != nil {
			return b, err
		}
		if b.revision, err = kv.Update(ctx, b.key(), encode(b), b.revision); err == nil {
			return b, nil
		}
		if !mismatch(err) {
			return b, fmt.Errorf("batch: write %s: %w", id, err)
		}
	}
	return b, fmt.Errorf("batch: write %s: %w", id, ErrContended)
}

// errAsItIs ends an update that has nothing to change.
var errAsItIs = errors.New("as it is")

func settled(b Batch, err error) (Batch, error) {
	if errors.Is(err, errAsItIs) {
		err = nil
	}
	return b, err
}

// Cancel begins to end a batch: lines that run are stopped, those that have ended stay. Cancelling twice is fine; of a
// batch that is over, or nearly, it is a StatusError.
func (bs *Batches) Cancel(ctx context.Context, tenant, id string) (Batch, error) {
	b, err := settled(bs.update(ctx, tenant, id, func(b *Batch) error {
		if b.Status == Cancelling || b.Status == Cancelled {
			return errAsItIs
		}
		return b.move(Cancelling, "cancel", bs.cfg.Now())
	}))
	if err != nil {
		return b, err
	}
	if b.Status == Cancelling { // at once; the scheduler does so again
		_ = bs.cfg.Results.StopBatch(ctx, tenant, id, string(queue.Cancelled))
	}
	bs.count(ctx, &b)
	return b, nil
}

// Pause keeps a batch's lines from being fed; those that are in the workers' hands go on. Its deadline stands.
func (bs *Batches) Pause(ctx context.Context, tenant, id string) (Batch, error) {
	return bs.setPaused(ctx, tenant, id, "pause", true)
}

// Resume undoes Pause.
func (bs *Batches) Resume(ctx context.Context, tenant, id string) (Batch, error) {
	return bs.setPaused(ctx, tenant, id, "resume", false)
}

func (bs *Batches) setPaused(ctx context.Context, tenant, id, do string, paused bool) (Batch, error) {
	b, err := settled(bs.update(ctx, tenant, id, func(b *Batch) error {
		switch {
		case b.Status != Validating && b.Status != InProgress:
			return &StatusError{Do: do, Status: b.Status}
		case b.Paused == paused:
			return errAsItIs
		}
		b.Paused = paused
		return nil
	}))
	if err == nil {
		bs.count(ctx, &b)
	}
	return b, err
}

// Change says what is to be different; nil leaves it.
type Change struct {
	// Deadline is when the batch expires. It must lie ahead, and within MaxWindow of now.
	Deadline *time.Time
	Priority *int
}

// Change moves a running batch's deadline or priority.
func (bs *Batches) Change(ctx context.Context, tenant, id string, c Change) (Batch, error) {
	if err := c.check(bs.cfg.Now()); err != nil {
		return Batch{}, err
	}
	b, err := bs.update(ctx, tenant, id, func(b *Batch) error {
		if b.Status != Validating && b.Status != InProgress {
			return &StatusError{Do: "change", Status: b.Status}
		}
		if c.Deadline != nil {
			b.ExpiresAt = c.Deadline.Unix()
		}
		if c.Priority != nil {
			b.Priority = *c.Priority
		}
		return nil
	})
	if err == nil {
		bs.count(ctx, &b)
	}
	return b, err
}

func (c Change) check(now time.Time) error {
	if d := c.Deadline; d != nil && (!d.After(now) || d.Sub(now) > MaxWindow) {
		return &InvalidError{"deadline", "the deadline must lie ahead, and within 30 days"}
	}
	if c.Priority != nil {
		return checkPriority(*c.Priority)
	}
	return nil
}

func checkPriority(p int) error {
	if p < MinPriority || p > MaxPriority {
		return &InvalidError{"priority", fmt.Sprintf("the priority must be %d to %d", MinPriority, MaxPriority)}
	}
	return nil
}

// count fills in what is known of a batch that is not over. Without Redis that is nothing: the count says so by its zeros.
func (bs *Batches) count(ctx context.Context, b *Batch) {
	if b.Status.Terminal() || b.Lines == "" {
		return
	}
	c, err := bs.Counts(ctx, *b)
	if err != nil {
		return
	}
	b.Counts.Completed, b.Counts.Failed = min(c.Completed, b.Counts.Total), min(c.Failed, b.Counts.Total)
	b.Usage = Usage{c.PromptTokens, c.CachedTokens, c.CompletionTokens}
}

// Counts are what Redis knows of a batch's lines.
func (bs *Batches) Counts(ctx context.Context, b Batch) (result.BatchCounts, error) {
	return bs.cfg.Results.BatchCounts(ctx, b.Tenant, b.ID)
}
