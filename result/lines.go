package result

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

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
	// Report is the dispatcher's last word on the batch; nil where there is none lately.
	Report *BatchReport
}

// BatchReport is how a batch fares, by its dispatcher. It is a view: a lost one comes again within a second.
type BatchReport struct {
	Tenant string `json:"-"`
	Batch  string `json:"-"`
	At     int64  `json:"at"` // unix milliseconds
	// LinesPerSecond and TokensPerSecond were measured over the last minutes.
	LinesPerSecond  float64 `json:"lines_per_second,omitempty"`
	TokensPerSecond float64 `json:"tokens_per_second,omitempty"`
	// Position counts the tenant's batches that go first.
	Position   int    `json:"position,omitempty"`
	HeldBackBy string `json:"held_back_by,omitempty"`
}

// reportTime is how long a report is believed.
const reportTime = 10 * time.Second

// ReportBatches writes reports over those before, in one round trip.
func (s *Store) ReportBatches(ctx context.Context, rs ...BatchReport) error {
	return s.pipe(ctx, len(rs), func(p redis.Pipeliner, i int) {
		key := batchKey(rs[i].Tenant, rs[i].Batch)
		p.HSet(ctx, key, "report", must(json.Marshal(rs[i])))
		p.Expire(ctx, key, batchTTL)
	})
}

func (s *Store) report(raw string) *BatchReport {
	var r BatchReport
	if json.Unmarshal([]byte(raw), &r) != nil || s.now().Sub(time.UnixMilli(r.At)) > reportTime {
		return nil
	}
	return &r
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
		Retried: num("retried"), PromptTokens: num("prompt_tokens"), CachedTokens: num("cached_tokens"), CompletionTokens: num("completion_tokens"), Report: s.report(all.Val()["report"])}, nil
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
