package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"lorry/queue"
)

// sweepKind is asynq's type of the task that looks for what asynq lost.
const sweepKind = "sweep"

const (
	// defaultSweep is how often it looks.
	defaultSweep = 30 * time.Second
	// secondLook is how long behind the first look a second one decides: an event may just be on its way into asynq, or
	// out of OUTBOX.
	secondLook = hintTime
)

// sweeper hands in again every event of OUTBOX that asynq does not know any more: Redis was flushed or failed over, a
// hint was lost, or a task hangs. An event that is on its way is left alone.
type sweeper struct {
	q     *queue.Queue
	later *later
	log   zerolog.Logger
}

// sweep is a task. It never fails: the next one is half a minute away.
func (s *sweeper) sweep(ctx context.Context, _ []byte, _ int) error {
	n, err := s.look(ctx)
	if n > 0 {
		s.log.Warn().Int("events", n).Msg("asynq had lost events: handed in again")
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Msg("sweep of the outbox failed")
	}
	return nil
}

// look hands in what two looks found lost, and says how many that were.
func (s *sweeper) look(ctx context.Context) (n int, err error) {
	first, err := s.lost(ctx)
	if err != nil || len(first) == 0 {
		return 0, err
	}
	pause(ctx, secondLook)
	second, err := s.lost(ctx)
	if err != nil {
		return 0, err
	}
	for subject, f := range second {
		if first[subject] != f {
			continue
		}
		if err := s.again(ctx, subject, f); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// lost are the subjects of events that nobody will deliver, and what became of their tasks.
func (s *sweeper) lost(ctx context.Context) (map[string]fate, error) {
	there, err := s.q.Subjects(ctx, queue.StreamOutbox, "hook.>")
	if err != nil {
		return nil, err
	}
	var subjects, events []string
	for subject := range there {
		if _, event, ok := parseHook(subject); ok {
			subjects, events = append(subjects, subject), append(events, event)
		}
	}
	fates, err := s.later.fates(ctx, hooksQueue, events)
	if err != nil {
		return nil, err
	}
	out := map[string]fate{}
	for i, f := range fates {
		if f != kept {
			out[subjects[i]] = f
		}
	}
	return out, nil
}

func (s *sweeper) again(ctx context.Context, subject string, f fate) error {
	tenant, event, _ := parseHook(subject)
	if f == stuck {
		if err := s.later.free(ctx, hooksQueue, event); err != nil {
			return fmt.Errorf("scheduler: sweep: %w", err)
		}
	}
	return s.later.enqueueHook(ctx, tenant, event)
}

// parseHook takes a subject of OUTBOX apart.
func parseHook(subject string) (tenant, event string, ok bool) {
	p := strings.Split(subject, ".")
	if len(p) != 3 || p[0] != "hook" {
		return "", "", false
	}
	return p[1], p[2], true
}
