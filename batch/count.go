package batch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// stepTime bounds what is done between two writes that belong together. Who has not ended by then does not go on.
	stepTime = 10 * time.Second
	// settleTime is when a step that was begun has ended, or its process has died: others may put right what it left.
	// It is far above stepTime, since clocks of two hosts differ.
	settleTime = time.Minute
	// busyTime is how long an upload waits for an equal file's deletion, which takes milliseconds unless its process died.
	busyTime = 5 * time.Second
	busyPoll = 20 * time.Millisecond
)

// count is how many files have the digest of its key. Zero is a mark: the bytes are being deleted.
type count struct {
	V     int `json:"v"`
	Files int `json:"files"`
	// Doubted is set by a sweep that counted otherwise, and gone with the next file that comes or goes.
	Doubted bool `json:"doubted,omitempty"`

	revision uint64
	written  time.Time
}

const countKeys = "_blob." // no tenant has "_" in its name

// step is a context for what is not given up halfway because a client hung up.
func step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), stepTime)
}

func getCount(ctx context.Context, kv jetstream.KeyValue, digest string) (c count, err error) {
	e, err := kv.Get(ctx, countKeys+digest)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("batch: count of %s: %w", digest, err)
	}
	return readCount(e)
}

func readCount(e jetstream.KeyValueEntry) (c count, err error) {
	if err := json.Unmarshal(e.Value(), &c); err != nil {
		return c, fmt.Errorf("batch: read %s: %w", e.Key(), err)
	}
	c.revision, c.written = e.Revision(), e.Created()
	return c, nil
}

// put writes a count where nobody else has meanwhile.
func (c count) put(ctx context.Context, kv jetstream.KeyValue, digest string) (_ count, err error) {
	c.V = V
	if c.revision == 0 {
		c.revision, err = kv.Create(ctx, countKeys+digest, encode(c))
	} else {
		c.revision, err = kv.Update(ctx, countKeys+digest, encode(c), c.revision)
	}
	if err != nil {
		return c, fmt.Errorf("batch: count of %s: %w", digest, err)
	}
	return c, nil
}

// claim counts a file in, before its bytes are seen. ErrBusy says that an equal one's deletion does not end.
func (f *Files) claim(ctx context.Context, kv jetstream.KeyValue, digest string) error {
	ctx, cancel := step(ctx)
	defer cancel()
	for give := time.Now().Add(busyTime); ; {
		c, err := getCount(ctx, kv, digest)
		if err != nil {
			return err
		}
		if c.revision != 0 && c.Files == 0 && f.cfg.Now().Sub(c.written) < settleTime {
			if time.Now().After(give) {
				return fmt.Errorf("batch: %s: %w", digest, ErrBusy)
			}
			pause(ctx)
			continue
		}
		c.Files, c.Doubted = c.Files+1, false
		if _, err = c.put(ctx, kv, digest); !mismatch(err) {
			return err
		}
	}
}

func pause(ctx context.Context) {
	select {
	case <-time.After(busyPoll):
	case <-ctx.Done():
	}
}

// release counts a file out that is gone already. The last one takes the bytes along.
func (f *Files) release(ctx context.Context, kv jetstream.KeyValue, digest string) error {
	ctx, cancel := step(ctx)
	defer cancel()
	for {
		c, err := getCount(ctx, kv, digest)
		if err != nil || c.Files == 0 {
			return err
		}
		c.Files, c.Doubted = c.Files-1, false
		c, err = c.put(ctx, kv, digest)
		if mismatch(err) {
			continue
		}
		if err != nil || c.Files > 0 {
			return err
		}
		return f.erase(ctx, kv, digest, c.revision)
	}
}

// erase deletes bytes whose count is zero, as of a revision, and then the count.
func (f *Files) erase(ctx context.Context, kv jetstream.KeyValue, digest string, revision uint64) error {
	if err := f.cfg.Blobs.Delete(ctx, digest); err != nil {
		return fmt.Errorf("batch: delete bytes: %w", err)
	}
	err := kv.Purge(ctx, countKeys+digest, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL))
	if err != nil && !mismatch(err) {
		return fmt.Errorf("batch: count of %s: %w", digest, err)
	}
	return nil
}

// Swept is what a sweep did.
type Swept struct {
	// Expired files were deleted, Mended counts were wrong.
	Expired, Mended int
}

// Sweep deletes expired files of all tenants, and puts right what processes that died left. It is to run now and then, in
// any process, also in two at once. It reads all records.
func (f *Files) Sweep(ctx context.Context) (done Swept, err error) {
	kv, err := f.bucket(ctx)
	if err != nil {
		return done, err
	}
	files, counts, expired := map[string]int{}, map[string]count{}, map[uint64]File{}
	err = scan(ctx, kv, ">", func(e jetstream.KeyValueEntry) {
		if digest, ok := strings.CutPrefix(e.Key(), countKeys); ok {
			counts[digest], _ = readCount(e)
			return
		}
		var file File
		if json.Unmarshal(e.Value(), &file) == nil {
			files[file.Digest]++
			if file.expired(f.cfg.Now()) {
				expired[e.Revision()] = file
			}
		}
	})
	if err != nil {
		return done, err
	}
	var errs []error
	for digest, c := range counts {
		mended, err := f.mend(ctx, kv, digest, c, files[digest])
		done.Mended += mended
		errs = append(errs, err)
	}
	for revision, file := range expired {
		if err := f.remove(ctx, file, revision); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
			continue
		}
		done.Expired++
	}
	return done, errors.Join(errs...)
}

// mend looks at one count. A count that differs is only doubted at first: a file may be on its way in, or one that went
// may be counted out at this moment. It is wrong if it still differs, untouched, when both would long have ended.
func (f *Files) mend(ctx context.Context, kv jetstream.KeyValue, digest string, c count, files int) (mended int, err error) {
	settled := f.cfg.Now().Sub(c.written) >= settleTime
	erasing := c.Files == 0 && files == 0
	switch {
	case c.revision == 0 || c.Files == files && !erasing:
		return 0, nil
	case erasing && !settled, c.Doubted && !settled:
		return 0, nil
	case !c.Doubted && !erasing:
		c.Doubted = true
	default:
		c.Files, c.Doubted, mended = files, false, 1
	}
	ctx, cancel := step(ctx)
	defer cancel()
	c, err = c.put(ctx, kv, digest)
	if mismatch(err) {
		return 0, nil // it was touched
	}
	if err == nil && c.Files == 0 && mended == 1 {
		err = f.erase(ctx, kv, digest, c.revision)
	}
	return mended, err
}
