package batch

import (
	"cmp"
	"context"
	"errors"

	"lorry/queue"
)

// errLater is what is not built yet.
var errLater = errors.New("batch: not built yet")

// Retry makes a new batch of the lines that did not succeed: those that failed, and those that were cancelled or expired.
// The batch must be over (else a *StatusError), and its input file still there (else ErrNotFound).
func (bs *Batches) Retry(ctx context.Context, tenant, id string) (Batch, error) {
	return Batch{}, errLater
}

// Results are up to limit (0: 1000) lines that have ended, behind a cursor (0: from the first), and whether there are more
// at this moment. They can be read while the batch runs and for a while after its end (BatchesConfig.KeepLines); then they
// are in the batch's files, and this is a *StatusError.
func (bs *Batches) Results(ctx context.Context, tenant, id string, after, limit int) (lines []ResultLine, more bool, err error) {
	b, err := bs.get(ctx, tenant, id)
	if err != nil {
		return nil, false, err
	}
	if b.Purged {
		return nil, false, &StatusError{Do: "read single lines of", Status: b.Status}
	}
	seq := uint64(max(after, 0)) + 1
	ms, more, err := bs.cfg.Queue.Read(ctx, queue.StreamResults, queue.LinesSubject(tenant, id), seq, cmp.Or(limit, 1000))
	for _, m := range ms {
		l, err := ended(b, m)
		if err != nil {
			return nil, false, err
		}
		lines = append(lines, l)
	}
	return lines, more, err
}

// Sweep forgets batches that ended long ago, and lets go of what dead processes left. It is to run now and then, in any
// process, also in two at once.
func (bs *Batches) Sweep(ctx context.Context) error { return errLater }
