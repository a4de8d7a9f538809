package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lorry/queue"
	"lorry/resent"
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

	resent.Repeat
}

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
	id, err := bs.requests().Name(ctx, tenant, queue.NewID(batchPrefix), w.Repeat)
	if err != nil {
		return Batch{}, err
	}
	if b, err := bs.get(ctx, tenant, id); !errors.Is(err, ErrNoBatch) {
		return b, err
	}
	return bs.make(ctx, tenant, id, file, w)
}

// requests are known by what they are to make: the same one finds its batch wherever the first one stopped.
func (bs *Batches) requests() resent.Names {
	return resent.Names{JS: bs.cfg.Queue.JS(), Bucket: Bucket}
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
