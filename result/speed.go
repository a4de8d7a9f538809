package result

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Speed is how fast a base's workers have run batches' lines lately. It is a view: a lost one is measured anew.
type Speed struct {
	V  int   `json:"v"`
	At int64 `json:"at"` // unix milliseconds
	// Work is in tokens a second, as queue.Job.Cost counts them, over the time in which there were lines to run.
	Work float64 `json:"work"`
}

// speedTime is how long a speed is believed.
const speedTime = 7 * 24 * time.Hour

func speedKey(base string) string { return "lorry:speed:" + base }

// PutSpeed writes a base's speed over the one before.
func (s *Store) PutSpeed(ctx context.Context, base string, v Speed) error {
	v.V = V
	if err := s.rdb.Set(ctx, speedKey(base), must(json.Marshal(v)), speedTime).Err(); err != nil {
		return s.away(err)
	}
	return nil
}

// Speed is a base's; zero where none was measured.
func (s *Store) Speed(ctx context.Context, base string) (v Speed, err error) {
	raw, err := s.rdb.Get(ctx, speedKey(base)).Bytes()
	if errors.Is(err, redis.Nil) {
		return v, nil
	}
	if err != nil {
		return v, s.away(err)
	}
	if json.Unmarshal(raw, &v) != nil || v.V > V || v.V < V-1 {
		return Speed{}, nil // another version's: measured anew
	}
	return v, nil
}
