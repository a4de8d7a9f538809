package scheduler

import (
	"context"
	"errors"
	"strings"
	"time"

	"lorry/registry"
)

// A base of which nothing is left, as of a deleted model, would cost a dispatcher and its consumers some questions to the
// server each second for ever. Whoever holds its lease retires it.

// retireEvery is Scheduler's, but in tests.
const retireEvery = 5 * time.Minute

// viewLag is more than what a registry's view lags behind.
const viewLag = 2 * time.Second

// awaitOrphan says when nothing is left of a base; false where ctx ends first.
func (s *Scheduler) awaitOrphan(ctx context.Context, b string) bool {
	if s.cfg.Models == nil {
		return false
	}
	for pause(ctx, s.retireEvery); ctx.Err() == nil; pause(ctx, s.retireEvery) {
		orphan, err := s.orphan(ctx, b)
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Str("base", b).Msg("no look at who needs the base")
		}
		if orphan {
			return true
		}
	}
	return false
}

// orphan says that no model has the base, no worker serves it, and no job or batch needs it. Jobs are only asked where it
// looks so.
func (s *Scheduler) orphan(ctx context.Context, b string) (bool, error) {
	if s.named(b) || s.fleet.Slots(b) > 0 {
		return false, nil
	}
	needed, err := s.weightsNeeded(ctx)
	if err != nil {
		return false, err
	}
	for digest := range needed {
		if strings.HasPrefix(digest, b) {
			return false, nil
		}
	}
	return true, nil
}

// named says whether models have the base, deleted ones that leave among them. As long as they are not known, all may.
func (s *Scheduler) named(b string) bool {
	select {
	case <-s.cfg.Models.Ready():
	default:
		return true
	}
	for _, models := range [][]registry.Model{s.cfg.Models.List(), s.cfg.Models.Leaving()} {
		for _, m := range models {
			if m.Engine().B() == b {
				return true
			}
		}
	}
	return false
}

// retire drops the consumers. Who needs the base after all gets them back: a model that was pushed at this moment, or a job
// that came behind the look. It ends what it began, whatever ends: nobody else would look at a base without consumers.
func (s *Scheduler) retire(ctx context.Context, b string) {
	ctx = context.WithoutCancel(ctx)
	if err := s.drop(ctx, b); err != nil {
		s.cfg.Log.Warn().Err(err).Str("base", b).Msg("base not retired")
	}
}

func (s *Scheduler) drop(ctx context.Context, b string) error {
	if err := s.cfg.Queue.DropBase(ctx, b); err != nil {
		return err
	}
	pause(ctx, viewLag)
	orphan, err := s.orphan(ctx, b)
	if !orphan { // or who knows
		return errors.Join(err, s.cfg.Queue.SetupBase(ctx, b))
	}
	s.cfg.Log.Info().Str("base", b).Msg("base retired: no model has it, no job needs it")
	return nil
}
