package scheduler

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"lorry/batch"
	"lorry/blob"
	"lorry/resent"
)

// gate is a store that keeps nothing more while it is shut: whoever writes a file waits at it.
type gate struct {
	blob.Store
	mu      sync.Mutex
	shut    chan struct{} // closed when it opens again; nil while it is open
	waiting int
}

// close shuts the gate until open.
func (g *gate) close() (open func()) {
	shut := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	var once sync.Once
	return func() {
		once.Do(func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.shut = nil
			close(shut)
		})
	}
}

func (g *gate) Put(ctx context.Context, r io.Reader, max int64, claim func(blob.Ref) error) (blob.Ref, error) {
	g.mu.Lock()
	shut := g.shut
	if shut != nil {
		g.waiting++
	}
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return blob.Ref{}, ctx.Err()
		}
	}
	return g.Store.Put(ctx, r, max, claim)
}

// waits says whether somebody has come to the gate since it was shut.
func (g *gate) waits() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting > 0
}

// TestCancelWhileFinalizing: it comes too late, as OpenAI has it, and the batch ends whole.
func TestCancelWhileFinalizing(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	p.schedule()
	p.work()
	b := p.create(inputOf(20))
	p.running(1) // the lines' offsets stand
	open := p.gate.close()
	t.Cleanup(open)
	release()
	eventually(t, "its files are being written", p.gate.waits)
	if got := p.get(b.ID); got.Status != batch.Finalizing {
		t.Fatalf("the batch is %s", got.Status)
	}
	_, err := p.batches.Cancel(t.Context(), "acme", b.ID)
	if e, is := errors.AsType[*batch.StatusError](err); !is || e.Do != "cancel" || e.Status != batch.Finalizing {
		t.Errorf("cancelled: %v", err)
	}
	open()
	if b = p.await(b.ID, batch.Completed); b.Counts.Completed != 20 || len(p.read(b.OutputFile)) != 20 {
		t.Errorf("counts %+v", b.Counts)
	}
}

// TestRetryAgain: a retry that is sent again is the batch that it made, and leaves no second input file.
func TestRetryAgain(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	old := p.await(p.create(inputLine(1, "bad", "")).ID, batch.Completed)
	retry := func(r resent.Repeat) batch.Batch {
		t.Helper()
		b, err := p.batches.Retry(t.Context(), "acme", old.ID, r)
		ok(t, err)
		return b
	}
	sdk, retried := resent.Repeat{Body: "d"}, resent.Repeat{Body: "d", Retried: true}
	first := retry(sdk)
	if b := retry(retried); b.ID != first.ID {
		t.Error("the SDK's second try made another batch")
	}
	second := retry(sdk)
	if second.ID == first.ID || retry(retried).ID != second.ID {
		t.Error("two retries that were meant are not two")
	}
	keyed := resent.Repeat{Body: "d", IdempotencyKey: "k"}
	third := retry(keyed)
	if third.ID == second.ID || retry(keyed).ID != third.ID {
		t.Error("one key did not make one batch of its own")
	}
	if _, err := p.batches.Retry(t.Context(), "acme", old.ID, resent.Repeat{Body: "other", IdempotencyKey: "k"}); !errors.Is(err, resent.ErrMismatch) {
		t.Errorf("the key with another body: %v", err)
	}
	files, _, err := p.files.List(t.Context(), "acme", batch.FileFilter{Limit: 10, Purpose: batch.PurposeBatch})
	ok(t, err)
	if len(files) != 4 { // the first batch's, and one for each retry
		t.Errorf("%d input files", len(files))
	}
	for _, b := range []batch.Batch{first, second, third} {
		p.await(b.ID, batch.Completed)
	}
}
