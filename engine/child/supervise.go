package child

import "time"

const (
	maxBackoff = 10 * time.Second
	stableFor  = time.Minute
)

// nextBackoff is the wait before a restart, given the one before (0: none) and how long the child was up.
func nextBackoff(first, before, up time.Duration) time.Duration {
	if before == 0 || up >= stableFor {
		return first
	}
	return min(2*before, max(first, maxBackoff))
}

// supervise keeps a child running until the engine is closed.
func (e *Engine) supervise(p *process) {
	defer close(e.done)
	defer e.cancel()
	e.logStart(p)
	for wait := time.Duration(0); p != nil; {
		if !e.watch(p) {
			return
		}
		p, wait = e.restart(wait, time.Since(p.began))
	}
}

// watch returns when the child has ended: true if that was a crash, false if it was closed.
func (e *Engine) watch(p *process) bool {
	select {
	case <-p.gone:
	case <-e.ctx.Done():
	}
	if e.ctx.Err() != nil {
		p.stop()
		p.reap(e.cfg.Grace)
		e.set(nil, errClosed)
		return false
	}
	e.set(nil, errRestarting)
	p.reap(briefly)
	c := p.crash()
	e.set(nil, c.Err)
	e.report(c)
	return true
}

// report tells of a crash once: to OnCrash, or to the log where nobody asked.
func (e *Engine) report(c Crash) {
	if e.cfg.OnCrash != nil {
		e.cfg.OnCrash(c)
		return
	}
	e.cfg.Log.Error().Err(c.Err).Str("engine", e.cfg.Name).Int("pid", c.PID).Strs("suspects", c.Suspects).
		Dur("uptime", c.Uptime).Str("stderr", c.Stderr).Msg("engine crashed")
}

// restart tries until a child is ready, or the engine is closed: then there is none.
func (e *Engine) restart(wait, up time.Duration) (*process, time.Duration) {
	for {
		wait = nextBackoff(e.cfg.Backoff, wait, up)
		if !e.sleep(wait) {
			return nil, wait
		}
		p, err := launch(e.ctx, e.cfg)
		if err == nil {
			e.set(p, nil)
			e.logStart(p)
			return p, wait
		}
		up = 0
		if e.ctx.Err() == nil {
			e.set(nil, err)
			e.cfg.Log.Error().Err(err).Str("engine", e.cfg.Name).Dur("again_in", nextBackoff(e.cfg.Backoff, wait, 0)).
				Msg("engine can't be started")
		}
	}
}

// sleep says whether the engine is still open after d.
func (e *Engine) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.ctx.Done():
		return false
	}
}

func (e *Engine) logStart(p *process) {
	e.cfg.Log.Info().Str("engine", e.cfg.Name).Int("pid", p.cmd.Process.Pid).Dur("took", time.Since(p.began)).Msg("engine started")
}
