package scheduler

import (
	"context"
	"time"
)

// filesKind is asynq's type of the task that deletes files that expired.
const filesKind = "files"

// filesPeriod is how often it looks. Expired files are hidden at once; this is about their room.
const filesPeriod = 5 * time.Minute

// sweepFiles is a task: adapters, files, and batches, which hold both. It never fails: the next one is minutes away.
func (s *Scheduler) sweepFiles(ctx context.Context, _ []byte, _ int) error {
	if s.cfg.Weights != nil {
		if _, err := s.cfg.Models.Sweep(ctx, s.cfg.Weights, s.adaptersNeeded); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("sweep of the adapters failed")
		}
	}
	if s.cfg.Files == nil {
		return nil // another scheduler's, that has files
	}
	if s.cfg.Batches != nil {
		if err := s.cfg.Batches.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("sweep of the batches failed")
		}
	}
	done, err := s.cfg.Files.Sweep(ctx)
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn().Err(err).Msg("sweep of the files failed")
	}
	if done.Expired > 0 || done.Mended > 0 {
		s.cfg.Log.Info().Int("expired", done.Expired).Int("mended", done.Mended).Msg("files swept")
	}
	return nil
}

// adaptersNeeded are those of accepted jobs and of batches that are not over, by digest.
func (s *Scheduler) adaptersNeeded(ctx context.Context) (map[string]bool, error) {
	named, err := s.cfg.Queue.Adapters(ctx)
	if err == nil && s.cfg.Batches != nil {
		err = s.cfg.Batches.Adapters(ctx, named)
	}
	return named, err
}
