package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
)

// Stored is a message as a stream holds it.
type Stored struct {
	Seq     uint64
	Subject string
	Data    []byte
}

// errNone is a direct get that found nothing.
var errNone = errors.New("no such message")

// Last is the newest message of a subject. ok is false where there is none.
func (q *Queue) Last(ctx context.Context, stream, subject string) (m Stored, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	r, err := q.cfg.Conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return m, false, fmt.Errorf("queue: get %s: %w", subject, away(err))
	}
	m, err = stored(r)
	if errors.Is(err, errNone) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("queue: get %s: %w", subject, err)
	}
	return m, true, nil
}

// maxLast is how many subjects one request may name: the server answers 1,024 at most.
const maxLast = 512

// LastOf is the newest message of each of many subjects; those that have none are left out.
func (q *Queue) LastOf(ctx context.Context, stream string, subjects []string) (out []Stored, err error) {
	for part := range slices.Chunk(subjects, maxLast) {
		ms, left, err := q.getMany(ctx, stream, map[string]any{"multi_last": part})
		if err == nil && left > 0 && len(part) > 1 { // it stopped at its bound of bytes: ask for halves
			half := len(part) / 2
			if ms, err = q.LastOf(ctx, stream, part[:half]); err == nil {
				rest, e := q.LastOf(ctx, stream, part[half:])
				ms, err = append(ms, rest...), e
			}
		}
		if err != nil {
			return out, err
		}
		out = append(out, ms...)
	}
	return out, nil
}

// readBytes ends a read that has come to this size: one message of BACKLOG may hold a hundred jobs.
const readBytes = 2 << 20

// Read is up to n messages of a stream, from seq on, of the subjects that match filter (">" for all), and whether the
// stream holds more behind them.
func (q *Queue) Read(ctx context.Context, stream, filter string, seq uint64, n int) (ms []Stored, more bool, err error) {
	ms, left, err := q.getMany(ctx, stream, map[string]any{"seq": max(seq, 1), "next_by_subj": filter, "batch": n, "max_bytes": readBytes})
	return ms, left > 0, err
}

// Count is how many messages of a stream match filter. It is far cheaper than their names.
func (q *Queue) Count(ctx context.Context, stream, filter string) (int, error) {
	ms, left, err := q.getMany(ctx, stream, map[string]any{"seq": 1, "next_by_subj": filter, "batch": 1})
	return len(ms) + left, err
}

// Pages reads a stream's messages of a filter in order, from seq on, as Read does n at a time. It ends with the first
// error.
func (q *Queue) Pages(ctx context.Context, stream, filter string, seq uint64, n int) iter.Seq2[[]Stored, error] {
	return func(yield func([]Stored, error) bool) {
		for more := true; more; {
			ms, left, err := q.Read(ctx, stream, filter, seq, n)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(ms) == 0 || !yield(ms, nil) {
				return
			}
			seq, more = ms[len(ms)-1].Seq+1, left
		}
	}
}

// getMany is a batched direct get (nats-server ADR-31): one request, an answer a message, an end mark that says how many
// are left (the server also stops at a size of its own).
func (q *Queue) getMany(ctx context.Context, stream string, req any) (out []Stored, left int, err error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	inbox := q.cfg.Conn.NewInbox()
	s, err := q.cfg.Conn.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, fmt.Errorf("queue: read %s: %w", stream, away(err))
	}
	defer func() { _ = s.Unsubscribe() }()
	body, _ := json.Marshal(req)
	if err := q.cfg.Conn.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return nil, 0, fmt.Errorf("queue: read %s: %w", stream, away(err))
	}
	for {
		r, err := s.NextMsgWithContext(ctx)
		if err != nil {
			return out, 0, fmt.Errorf("queue: read %s: %w", stream, away(err))
		}
		m, err := stored(r)
		switch {
		case errors.Is(err, errNone):
			left, _ := strconv.Atoi(r.Header.Get("Nats-Num-Pending"))
			return out, left, nil
		case err != nil:
			return out, 0, fmt.Errorf("queue: read %s: %w", stream, err)
		}
		out = append(out, m)
	}
}

// stored reads one answer. 204 ends a batch, 404 says that nothing matched.
func stored(r *nats.Msg) (Stored, error) {
	switch st := r.Header.Get("Status"); st {
	case "":
	case "204", "404":
		return Stored{}, errNone
	case "503":
		return Stored{}, ErrAway
	default:
		return Stored{}, fmt.Errorf("status %s %s", st, r.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(r.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Stored{}, fmt.Errorf("bad sequence: %w", err)
	}
	return Stored{Seq: seq, Subject: r.Header.Get("Nats-Subject"), Data: r.Data}, nil
}
