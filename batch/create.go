package batch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
)

// CreateBatch is a wish for a batch.
type CreateBatch struct {
	InputFile string
	Endpoint  queue.Endpoint
	// Window is how long it may take; 0 is DefaultWindow. WindowText is how the client put it, to be told so again.
	Window     time.Duration
	WindowText string
	Metadata   map[string]string
	// OutputExpiresAfter is how long its files stay; 0 is BatchExpiry.
	OutputExpiresAfter time.Duration
	Webhook            *queue.Webhook // its secret sealed
	Priority           int
	// RetryOf is set by Retry.
	RetryOf string

	Repeat
}

// Repeat is how a request that is sent again is known. The zero value knows none.
type Repeat struct {
	// Body is a digest of the request (hex). One that says it is Retried finds the batch that an equal one made lately.
	// One with an IdempotencyKey finds the batch made under it in the last 24 hours.
	Body           string
	Retried        bool
	IdempotencyKey string
}

const (
	// againTime is within which a create that is tried again is the same: SDKs give up far earlier.
	againTime = 15 * time.Minute
	// idemTime is how long an idempotency key binds.
	idemTime = 24 * time.Hour
)

// Create makes a batch with status validating; a scheduler reads its lines. A file that this tenant does not have is
// ErrNotFound, a wish that can't be an *InvalidError. Whatever is wrong inside the file shows later, as status failed.
func (bs *Batches) Create(ctx context.Context, tenant string, w CreateBatch) (Batch, error) {
	if err := w.check(); err != nil {
		return Batch{}, err
	}
	file, err := bs.cfg.Files.Get(ctx, tenant, w.InputFile)
	if err != nil {
		return Batch{}, err
	}
	id, err := bs.intend(ctx, tenant, w.Repeat)
	if err != nil {
		return Batch{}, err
	}
	if b, err := bs.get(ctx, tenant, id); !errors.Is(err, ErrNoBatch) {
		return b, err
	}
	return bs.make(ctx, tenant, id, file, w)
}

// make writes the batch of an ID down, and holds its file's bytes.
func (bs *Batches) make(ctx context.Context, tenant, id string, file File, w CreateBatch) (Batch, error) {
	held, err := bs.cfg.Files.hold(ctx, file, id)
	if err != nil {
		return Batch{}, err
	}
	return bs.write(ctx, w.batch(tenant, id, held, bs.cfg.Now()))
}

func (w *CreateBatch) check() error {
	switch {
	case !slices.Contains(Endpoints, w.Endpoint):
		return &InvalidError{"endpoint", fmt.Sprintf("batches for %q are not supported here; supported are: %v", w.Endpoint, Endpoints)}
	case w.Window != 0 && (w.Window < MinWindow || w.Window > MaxWindow):
		return &InvalidError{"completion_window", fmt.Sprintf("the completion window must be %s to 30 days", MinWindow)}
	}
	return checkPriority(w.Priority)
}

func (w *CreateBatch) batch(tenant, id string, held File, now time.Time) Batch {
	window := w.Window
	if window == 0 {
		window = DefaultWindow
	}
	return Batch{V: V, ID: id, Tenant: tenant, Endpoint: w.Endpoint, InputFile: w.InputFile, Window: Millis(window), WindowText: w.WindowText,
		Status: Validating, CreatedAt: now.Unix(), ExpiresAt: now.Add(window).Unix(), Metadata: w.Metadata, OutputExpiresAfter: Millis(w.OutputExpiresAfter),
		Webhook: w.Webhook, RetryOf: w.RetryOf, Priority: w.Priority, Input: held}
}

// write makes the batch be there. One of the same ID that was quicker is this one: they were meant to be the same.
func (bs *Batches) write(ctx context.Context, b Batch) (Batch, error) {
	kv, err := bs.bucket(ctx)
	if err != nil {
		return b, err
	}
	b.revision, err = kv.Create(ctx, b.key(), encode(b))
	if mismatch(err) {
		return bs.get(ctx, b.Tenant, b.ID)
	}
	if err != nil {
		return b, fmt.Errorf("batch: write %s: %w", b.ID, err)
	}
	return b, nil
}

// intent says which batch a request is to become, written before the batch: the same request finds it wherever the first
// one stopped.
type intent struct {
	V     int    `json:"v"`
	Batch string `json:"batch"`
	Body  string `json:"body"`
}

// Keys of intents; no tenant has "_" in its name.
func sameKey(tenant, body string) string { return "_same." + tenant + "." + shortSum(body) }
func idemKey(tenant, key string) string  { return "_idem." + tenant + "." + shortSum(key) }

func shortSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// intend is the ID that the request's batch has or gets.
func (bs *Batches) intend(ctx context.Context, tenant string, r Repeat) (string, error) {
	mine := intent{V, queue.NewID(batchPrefix), r.Body}
	switch {
	case r.IdempotencyKey != "":
		return bs.bind(ctx, idemKey(tenant, r.IdempotencyKey), mine, idemTime)
	case r.Body == "":
		return mine.Batch, nil
	case r.Retried:
		return bs.bind(ctx, sameKey(tenant, r.Body), mine, againTime)
	}
	kv, err := bs.bucket(ctx)
	if err != nil {
		return "", err
	}
	if _, err := kv.Put(ctx, sameKey(tenant, r.Body), encode(mine)); err != nil {
		return "", fmt.Errorf("batch: create: %w", err)
	}
	return mine.Batch, nil
}

// bind is the batch that stands under a key, or mine from now on.
func (bs *Batches) bind(ctx context.Context, key string, mine intent, ttl time.Duration) (string, error) {
	kv, err := bs.bucket(ctx)
	if err != nil {
		return "", err
	}
	for range tries {
		if _, err = kv.Create(ctx, key, encode(mine), jetstream.KeyTTL(idemTime)); err == nil {
			return mine.Batch, nil
		}
		e, gerr := kv.Get(ctx, key)
		switch {
		case !mismatch(err):
			return "", fmt.Errorf("batch: create: %w", err)
		case gerr != nil: // gone meanwhile
			continue
		}
		id, old, err := standing(e, mine, bs.cfg.Now().Sub(e.Created()) > ttl)
		if err != nil || !old {
			return id, err
		}
		if err := purgeKey(ctx, kv, key, e.Revision()); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("batch: create: %w", ErrContended)
}

func standing(e jetstream.KeyValueEntry, mine intent, old bool) (id string, _ bool, err error) {
	var there intent
	if err := json.Unmarshal(e.Value(), &there); err != nil {
		return "", false, fmt.Errorf("batch: read %s: %w", e.Key(), err)
	}
	if !old && there.Body != mine.Body {
		return "", false, fmt.Errorf("batch: %w", ErrMismatch)
	}
	return there.Batch, old, nil
}
