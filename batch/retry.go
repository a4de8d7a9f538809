package batch

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"lorry/queue"
	"lorry/resent"
)

// Retry makes a new batch of the lines that did not succeed: those that failed, and those that were cancelled or expired.
// The batch must be over (else a *StatusError), and its input and error files still there (else ErrNotFound). A Repeat of
// a retry is the batch that it made.
func (bs *Batches) Retry(ctx context.Context, tenant, id string, r resent.Repeat) (Batch, error) {
	b, err := bs.get(ctx, tenant, id)
	switch {
	case err != nil:
		return b, err
	case !b.Status.Terminal() || b.Status == Failed:
		return b, &StatusError{Do: "retry", Status: b.Status}
	case b.ErrorFile == "":
		return b, ErrNothing
	}
	next, err := bs.requests().Name(ctx, tenant, queue.NewID(batchPrefix), r)
	if err != nil {
		return b, err
	}
	if made, err := bs.get(ctx, tenant, next); !errors.Is(err, ErrNoBatch) {
		return made, err
	}
	file, err := bs.again(ctx, b, next)
	if err != nil {
		return b, err
	}
	return bs.make(ctx, tenant, next, file, CreateBatch{InputFile: file.ID, Endpoint: b.Endpoint, Window: b.Window.Duration(), WindowText: b.WindowText,
		Metadata: b.Metadata, OutputExpiresAfter: b.OutputExpiresAfter.Duration(), Webhook: b.Webhook, Priority: b.Priority, RetryOf: b.ID})
}

// again is a file of the lines that are in a batch's error file, as they were. It has the name of the batch that it is
// for: who makes it again finds it.
func (bs *Batches) again(ctx context.Context, b Batch, next string) (File, error) {
	wanted, err := bs.unsuccessful(ctx, b)
	if err != nil {
		return File{}, err
	}
	input, err := bs.cfg.Files.Get(ctx, b.Tenant, b.InputFile)
	if err != nil {
		return File{}, err
	}
	in, err := bs.cfg.Files.Open(ctx, input)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	r, w := io.Pipe()
	defer r.Close() // ends the copy where the file ended first
	go func() { _ = w.CloseWithError(copyLines(w, in, b.Endpoint, wanted)) }()
	id := filePrefix + strings.TrimPrefix(next, batchPrefix)
	file, err := bs.cfg.Files.Create(ctx, b.Tenant, r, MaxBatchFile, func() (CreateFile, error) {
		return CreateFile{ID: id, Filename: "retry_of_" + b.ID + ".jsonl", Purpose: PurposeBatch}, nil
	})
	if errors.Is(err, ErrExists) {
		return bs.cfg.Files.Get(ctx, b.Tenant, id)
	}
	return file, err
}

// names are custom IDs' digests.
type names map[[16]byte]struct{}

func nameOf(customID string) [16]byte {
	sum := sha256.Sum256([]byte(customID))
	return [16]byte(sum[:])
}

// unsuccessful are the lines in a batch's error file.
func (bs *Batches) unsuccessful(ctx context.Context, b Batch) (names, error) {
	file, err := bs.cfg.Files.Get(ctx, b.Tenant, b.ErrorFile)
	if err != nil {
		return nil, err
	}
	r, err := bs.cfg.Files.Open(ctx, file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := names{}
	for d := json.NewDecoder(bufio.NewReader(r)); ; {
		var l struct {
			CustomID string `json:"custom_id"`
		}
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out[nameOf(l.CustomID)] = struct{}{}
	}
}

func copyLines(w io.Writer, r io.Reader, endpoint queue.Endpoint, wanted names) error {
	out, lines := bufio.NewWriter(w), newLineReader(r)
	for {
		text, _, err := lines.next()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		l, _ := ParseLine(text, endpoint)
		if _, ok := wanted[nameOf(l.CustomID)]; !ok {
			continue
		}
		_, _ = out.Write(text) // the error is Flush's
		_ = out.WriteByte('\n')
	}
}
