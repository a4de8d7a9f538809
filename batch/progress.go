package batch

import (
	"context"
	"time"

	"lorry/result"
)

// Hold is what keeps a batch from going faster.
type Hold string

const (
	// NoWorker serves the batch's model now.
	NoWorker Hold = "no_worker"
	// LaneShare: more urgent lanes have the slots.
	LaneShare Hold = "lane_share"
	// TenantCap: the tenant's bound of jobs in the window, or its fair share beside other tenants.
	TenantCap Hold = "tenant_cap"
	// AdapterTurn: another adapter of the same base has its turn.
	AdapterTurn Hold = "adapter_turn"
	// RateLimit: the tenant's rate is used up.
	RateLimit Hold = "rate_limit"
	// Backoff: what is left waits for its next attempt.
	Backoff Hold = "backoff"
	// Paused: the batch or its tenant is.
	Paused Hold = "paused"
)

// Progress is how far a batch is.
type Progress struct {
	Counts
	// Queued lines have neither ended nor begun; Running ones are claimed by workers.
	Queued, Running int
	// Cached lines were answered from the cache, Deduplicated ones by an equal line's run, Retried ones took more than one
	// attempt.
	Cached, Deduplicated, Retried int
	// Position counts the tenant's batches of the same model that go first; 0: its turn.
	Position int
	// TokensLeft is a guess from the lines that have ended. TokensPerSecond was measured on this batch lately.
	TokensLeft      int64
	TokensPerSecond float64
	// ETA is zero while nothing is known.
	ETA        time.Time
	HeldBackBy Hold
}

// Progress is how far a tenant's batch is.
func (bs *Batches) Progress(ctx context.Context, tenant, id string) (p Progress, err error) {
	b, err := bs.Get(ctx, tenant, id)
	if err != nil {
		return p, err
	}
	p.Counts = b.Counts
	if b.Status.Terminal() {
		return p, nil
	}
	c, err := bs.cfg.Results.BatchCounts(ctx, tenant, id)
	if err != nil {
		return p, err
	}
	p.Running, p.Cached, p.Deduplicated, p.Retried = c.Running, c.Cached, c.Deduplicated, c.Retried
	p.Queued = max(0, b.Counts.Total-c.Ended()-c.Running)
	if b.Lines != "" {
		p.forecast(b, c, bs.cfg.Now())
	}
	return p, nil
}

// forecast says how long the rest takes at the pace of late. Without a pace, or while something keeps the batch from
// running at all, nobody knows.
func (p *Progress) forecast(b Batch, c result.BatchCounts, now time.Time) {
	left := b.Counts.Total - c.Ended()
	if n := c.Ended(); n > 0 {
		p.TokensLeft = int64(float64(c.PromptTokens-c.CachedTokens+c.CompletionTokens) / float64(n) * float64(left))
	}
	r := c.Report
	if r == nil {
		return
	}
	p.Position, p.TokensPerSecond, p.HeldBackBy = r.Position, r.TokensPerSecond, Hold(r.HeldBackBy)
	if stands := p.HeldBackBy == Paused || p.HeldBackBy == NoWorker; !stands {
		p.ETA = ETA(now, left, r.LinesPerSecond)
	}
}

// ETA is when the lines that are left will have ended at a pace; zero where there is none.
func ETA(now time.Time, left int, linesPerSecond float64) time.Time {
	if linesPerSecond <= 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(float64(left) / linesPerSecond * float64(time.Second)))
}
