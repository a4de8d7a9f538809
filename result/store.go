package result

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
)

// Sentinels for errors.Is.
var (
	// ErrNotFound is a job that is not there: never accepted, another tenant's, or older than its record is kept.
	ErrNotFound = errors.New("no such job")
	// ErrAway is a Redis that does not answer. It may have done what it was asked.
	ErrAway = errors.New("redis does not answer")
	// ErrEpoch is a Redis that was lost and is being filled again from the streams: try again in a moment.
	ErrEpoch = errors.New("the job store is being rebuilt")
	// ErrIdemMismatch is an idempotency key used again with another body.
	ErrIdemMismatch = errors.New("the idempotency key was used with another body")
)

// Config says where results live. Queue and Redis are required.
type Config struct {
	Queue *queue.Queue
	Redis redis.UniversalClient
	Log   zerolog.Logger
	// ResultTTL is how long an answer can be read. 0: 72 h, as long as RESULTS keeps it.
	ResultTTL time.Duration
	// CacheTTL and CacheBytes bound a tenant's response cache. 0: 24 h, 64 MiB.
	CacheTTL   time.Duration
	CacheBytes int64
}

// Store commits verdicts and answers questions about jobs. Its methods may be called from many goroutines.
type Store struct {
	cfg Config
	q   *queue.Queue
	rdb redis.UniversalClient
	now func() time.Time

	accepting company
}

// New makes a Store. It asks nobody anything.
func New(c Config) *Store {
	c.ResultTTL = cmp.Or(c.ResultTTL, 72*time.Hour)
	c.CacheTTL = cmp.Or(c.CacheTTL, 24*time.Hour)
	c.CacheBytes = cmp.Or(c.CacheBytes, 64<<20)
	return &Store{cfg: c, q: c.Queue, rdb: c.Redis, now: time.Now}
}

// Redis is the client, for keys that other packages own.
func (s *Store) Redis() redis.UniversalClient { return s.rdb }

// facts is what a job's hash says of it from the start: the job without its prompt.
type facts struct {
	Lane     queue.Lane        `json:"lane"`
	Endpoint queue.Endpoint    `json:"endpoint"`
	Encoding string            `json:"encoding,omitempty"`
	Model    engine.Model      `json:"model"`
	Created  int64             `json:"created"`
	Deadline int64             `json:"deadline,omitempty"`
	Waited   bool              `json:"waited,omitempty"`
	CacheKey string            `json:"cache_key,omitempty"`
	Webhook  *queue.Webhook    `json:"webhook,omitempty"`
	Idem     *queue.Idem       `json:"idem,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	ReplayOf string            `json:"replay_of,omitempty"`
	Batch    string            `json:"batch,omitempty"`
	Line     int               `json:"line,omitempty"`
	CustomID string            `json:"custom_id,omitempty"`
}

func factsOf(j *queue.Job) facts {
	return facts{j.Lane, j.Endpoint, j.Encoding, j.Request.Model, j.Created, j.Deadline, j.Waited, j.CacheKey, j.Webhook, j.Idem, j.Metadata, j.ReplayOf, j.Batch, j.Line, j.CustomID}
}

func (v *Verdict) facts() facts {
	return facts{v.Lane, v.Endpoint, v.Encoding, v.Model, v.Created, 0, v.Waited, v.CacheKey, v.Webhook, v.Idem, v.Metadata, v.ReplayOf, v.Batch, v.Line, v.CustomID}
}

// verdict starts one of a job of which the facts are known.
func (f facts) verdict(tenant, id string, st queue.State, ended int64) *Verdict {
	return &Verdict{V: V, Job: id, Tenant: tenant, Lane: f.Lane, State: st, Endpoint: f.Endpoint, Encoding: f.Encoding, Model: f.Model, Created: f.Created,
		Ended: ended, CacheKey: f.CacheKey, Webhook: f.Webhook, Idem: f.Idem, Metadata: f.Metadata, Batch: f.Batch, Line: f.Line, CustomID: f.CustomID,
		ReplayOf: f.ReplayOf, Waited: f.Waited}
}

func (f facts) encode() []byte { return must(json.Marshal(f)) }

// known is what a job's hash says of it: nothing for a batch's line, of which only its batch is told.
func known(j *queue.Job) []byte {
	if j.Batch != "" {
		return nil
	}
	return factsOf(j).encode()
}

// job is what the subject of a verdict is made of.
func (v *Verdict) job() *queue.Job {
	return &queue.Job{ID: v.Job, Tenant: v.Tenant, Batch: v.Batch, Line: v.Line}
}

// Keys of a tenant. All have the hash tag {T}, so that one script may touch them in a cluster.
func jobsKey(t string) string       { return "{" + t + "}:jobs" }
func jobKey(t, id string) string    { return "{" + t + "}:job:" + id }
func cacheKey(t, sha string) string { return named(t, "cache", sha) }

// flightKey has flights of their own for batches' lines: nobody who waits is to follow one that may wait for hours.
func flightKey(t, sha, batch string) string {
	if batch != "" {
		return named(t, "lineflight", sha)
	}
	return named(t, "flight", sha)
}

// batchKey counts a batch's lines.
func batchKey(t, batch string) string { return named(t, "batch", batch) }
func cacheIndex(t string) string      { return "{" + t + "}:cacheidx" }
func cacheBytes(t string) string      { return "{" + t + "}:cachebytes" }
func usageKey(t string, at time.Time) string {
	return "{" + t + "}:usage:" + at.UTC().Format(time.DateOnly)
}

// named is {T}:kind:sha, or a key that never exists where there is no sha: scripts need the tag.
func named(t, kind, sha string) string {
	if sha == "" {
		return "{" + t + "}:none"
	}
	return "{" + t + "}:" + kind + ":" + sha
}

// Ready is nil when Redis answers and holds what the streams say.
func (s *Store) Ready(ctx context.Context) error {
	n, err := s.rdb.Exists(ctx, epochKey).Result()
	if err != nil {
		return s.away(err)
	}
	if n == 0 {
		return fmt.Errorf("result: %w", ErrEpoch)
	}
	return nil
}

// publish tells of changes, as a hint.
func (s *Store) publish(tenant string, cs ...Change) {
	if len(cs) > 0 {
		_ = s.q.Conn().Publish(queue.EventsSubject(tenant), must(json.Marshal(Event{V: V, Jobs: cs})))
	}
}
