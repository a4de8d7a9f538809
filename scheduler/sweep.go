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

// defaultSweep is how often it looks.
const defaultSweep = 30 * time.Second

// sweeper hands in again every event of OUTBOX that asynq does not know any more: Redis was flushed or failed over, a
// hint was lost, or a task hangs. An event that is on its way is left alone.
type sweeper struct {
	q     *queue.Queue
	later *later
	log   zerolog.Logger
}

// sweep is a task. It never fails: the next one is half a minute away.
func (s *sweeper) sweep(ctx context.Context, _ []byte, _ int) error {
	found, err := s.look(ctx)
	switch {
	case err != nil:
		s.log.Warn().Err(err).Msg("sweep of the outbox failed")
	case found > 0:
		s.log.Warn().Int("events", found).Msg("asynq had lost events: handed in again")
	}
	return nil
}

func (s *sweeper) look(ctx context.Context) (found int, err error) {
	subjects, err := s.q.Subjects(ctx, queue.StreamOutbox, "hook.>")
	if err != nil {
		return 0, err
	}
	tenants, events := parseHooks(subjects)
	fates, err := s.later.fates(ctx, hooksQueue, events)
	if err != nil {
		return 0, err
	}
	for i, f := range fates {
		if f == kept {
			continue
		}
		if err := s.again(ctx, tenants[i], events[i], f); err != nil {
			return found, err
		}
		found++
	}
	return found, nil
}

func (s *sweeper) again(ctx context.Context, tenant, event string, f fate) error {
	if f == stuck {
		if err := s.later.free(ctx, hooksQueue, event); err != nil {
			return fmt.Errorf("scheduler: sweep: %w", err)
		}
	}
	return s.later.enqueueHook(ctx, tenant, event)
}

// parseHooks takes the subjects of OUTBOX apart.
func parseHooks(subjects map[string]uint64) (tenants, events []string) {
	for s := range subjects {
		if p := strings.Split(s, "."); len(p) == 3 {
			tenants, events = append(tenants, p[1]), append(events, p[2])
		}
	}
	return tenants, events
}
