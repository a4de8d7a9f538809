package result

import (
	"context"
	"slices"
	"strconv"
	"time"

	"lorry/queue"
)

// BatchCounts are a batch's lines, by what is known of them at this moment.
type BatchCounts struct {
	// Completed, Failed, Cancelled and Expired lines have ended; Running ones are claimed.
	Completed, Failed, Cancelled, Expired, Running int
	// Cached lines were answered from the cache, Deduplicated ones by an equal line's run. Retried ones took more than
	// one attempt.
	Cached, Deduplicated, Retried int
	// Tokens of all answers.
	PromptTokens, CachedTokens, CompletionTokens int
}

// Ended is how many lines have a verdict.
func (c BatchCounts) Ended() int { return c.Completed + c.Failed + c.Cancelled + c.Expired }

// BatchCounts are exact while Redis holds what the streams say; ErrEpoch says that it does not.
func (s *Store) BatchCounts(ctx context.Context, tenant, batch string) (c BatchCounts, err error) {
	p := s.rdb.Pipeline()
	epoch, all := p.Exists(ctx, epochKey), p.HGetAll(ctx, batchKey(tenant, batch))
	if _, err := p.Exec(ctx); err != nil {
		return c, s.away(err)
	}
	if epoch.Val() == 0 {
		return c, ErrEpoch
	}
	num := func(k string) int { n, _ := strconv.Atoi(all.Val()[k]); return n }
	return BatchCounts{Completed: num(string(queue.Succeeded)), Failed: num(string(queue.Failed)), Cancelled: num(string(queue.Cancelled)),
		Expired: num(string(queue.Expired)), Running: max(0, num("running")), Cached: num("cached"), Deduplicated: num("deduplicated"),
		Retried: num("retried"), PromptTokens: num("prompt_tokens"), CachedTokens: num("cached_tokens"), CompletionTokens: num("completion_tokens")}, nil
}

// batchTTL is how long a batch's counters stay: longer than a batch may run.
const batchTTL = 40 * 24 * time.Hour

// StopBatch makes claims of the batch's lines be refused from now on, and hints at workers to look at those that they
// hold. how is the state that such lines are left in.
func (s *Store) StopBatch(ctx context.Context, tenant, batch, how string) error {
	p := s.rdb.TxPipeline()
	p.HSet(ctx, batchKey(tenant, batch), "stop", how)
	p.Expire(ctx, batchKey(tenant, batch), batchTTL)
	if _, err := p.Exec(ctx); err != nil {
		return s.away(err)
	}
	_ = s.q.Conn().Publish(queue.CancelSubject(batch), nil)
	return nil
}

// forgetAtOnce bounds one command: Redis serves nobody else meanwhile.
const forgetAtOnce = 1000

// ForgetLines lets go of what is known of a batch's lines. That it was stopped stays, for deliveries still on their way.
func (s *Store) ForgetLines(ctx context.Context, tenant, batch string, total int) error {
	keys := make([]string, total)
	for i := range keys {
		keys[i] = jobKey(tenant, queue.LineID(batch, i+1))
	}
	for part := range slices.Chunk(keys, forgetAtOnce) {
		if err := s.rdb.Unlink(ctx, part...).Err(); err != nil {
			return s.away(err)
		}
	}
	return nil
}
