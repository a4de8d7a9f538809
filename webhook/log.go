package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrLog is a Redis that does not answer.
var ErrLog = errors.New("the log of webhooks can't be reached")

// Log is the lists of attempts in Redis: what people look at. It is a view, and may be lost.
type Log struct{ rdb redis.UniversalClient }

// Bounds of each list.
const (
	keptAttempts = 200
	keptFor      = 7 * 24 * time.Hour
)

// NewLog makes a Log. It asks nobody anything.
func NewLog(rdb redis.UniversalClient) Log { return Log{rdb} }

// Keep puts an attempt on top of its tenant's list, and of its endpoint's.
func (l Log) Keep(ctx context.Context, tenant string, a Attempt) error {
	keys := []string{attemptsKey(tenant, "")}
	if a.Endpoint != "" {
		keys = append(keys, attemptsKey(tenant, a.Endpoint))
	}
	_, err := l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.LPush(ctx, key, encode(a))
			p.LTrim(ctx, key, 0, keptAttempts-1)
			p.Expire(ctx, key, keptFor)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("webhook: list attempt: %w: %w", ErrLog, err)
	}
	return nil
}

// Attempts are the latest of an endpoint, or without one of its tenant, the newest first.
func (l Log) Attempts(ctx context.Context, tenant, endpoint string) ([]Attempt, error) {
	all, err := l.rdb.LRange(ctx, attemptsKey(tenant, endpoint), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("webhook: read attempts: %w: %w", ErrLog, err)
	}
	out := make([]Attempt, 0, len(all))
	for _, s := range all {
		var a Attempt
		if json.Unmarshal([]byte(s), &a) == nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// Await is a delivery's first attempt, once the log has it; it is looked for as often as every says, until ctx ends.
func (l Log) Await(ctx context.Context, tenant, delivery string, every time.Duration) (Attempt, error) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		all, err := l.Deliveries(ctx, tenant, "")
		if err != nil {
			return Attempt{}, err
		}
		for _, s := range all {
			if s.ID == delivery {
				return s.Attempts[len(s.Attempts)-1], nil
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return Attempt{}, fmt.Errorf("webhook: await delivery %.80q: %w", delivery, context.Cause(ctx))
		}
	}
}

// Forget drops an endpoint's list.
func (l Log) Forget(ctx context.Context, tenant, endpoint string) error {
	return l.rdb.Del(ctx, attemptsKey(tenant, endpoint)).Err()
}

// Story is a delivery: its attempts, the newest first.
type Story struct {
	ID       string
	Attempts []Attempt
}

// Last is the latest attempt.
func (s *Story) Last() Attempt { return s.Attempts[0] }

// Status is how the delivery stands: "retrying", or the last attempt's result.
func (s *Story) Status() string {
	if a := s.Last(); a.NextIn == 0 {
		return a.Result
	}
	return "retrying"
}

// Deliveries are attempts put together, the delivery that was tried last first.
func (l Log) Deliveries(ctx context.Context, tenant, endpoint string) ([]Story, error) {
	as, err := l.Attempts(ctx, tenant, endpoint)
	if err != nil {
		return nil, err
	}
	var out []Story
	at := map[string]int{}
	for _, a := range as {
		i, ok := at[a.Delivery]
		if !ok {
			i = len(out)
			at[a.Delivery] = i
			out = append(out, Story{ID: a.Delivery})
		}
		out[i].Attempts = append(out[i].Attempts, a)
	}
	return out, nil
}

// attemptsKey is the Redis list of an endpoint's latest attempts, or of all of a tenant's.
func attemptsKey(tenant, endpoint string) string {
	if endpoint == "" {
		return "{" + tenant + "}:hooks"
	}
	return "{" + tenant + "}:hooks:" + endpoint
}
