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
		s.sweepWeights(ctx)
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

// sweepModels removes deleted models as soon as no job needs them, also where the tasks of Redis don't run.
func (s *Scheduler) sweepModels(ctx context.Context) error {
	for ; ctx.Err() == nil; pause(ctx, modelsPeriod) {
		if s.cfg.Models.Due() {
			s.sweepWeights(ctx)
		}
	}
	return nil
}

// modelsPeriod is how often it looks: into memory.
const modelsPeriod = time.Second

func (s *Scheduler) sweepWeights(ctx context.Context) {
	if _, err := s.cfg.Models.Sweep(ctx, s.cfg.Weights, s.weightsNeeded); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn().Err(err).Msg("sweep of models and adapters failed")
	}
}

// weightsNeeded are the models and adapters of accepted jobs and of batches that are not over, by digest.
func (s *Scheduler) weightsNeeded(ctx context.Context) (map[string]bool, error) {
	named, err := s.cfg.Queue.Weights(ctx)
	if err == nil && s.cfg.Batches != nil {
		err = s.cfg.Batches.Weights(ctx, named)
	}
	return named, err
}
