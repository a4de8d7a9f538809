package result

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lua/accept.lua
	acceptLua string
	//go:embed lua/join.lua
	joinLua string
	//go:embed lua/claim.lua
	claimLua string
	//go:embed lua/renew.lua
	renewLua string
	//go:embed lua/release.lua
	releaseLua string
	//go:embed lua/project.lua
	projectLua string
	//go:embed lua/forget.lua
	forgetLua string
	//go:embed lua/rate.lua
	rateLua string

	acceptScript  = redis.NewScript(acceptLua)
	joinScript    = redis.NewScript(joinLua)
	claimScript   = redis.NewScript(claimLua)
	renewScript   = redis.NewScript(renewLua)
	releaseScript = redis.NewScript(releaseLua)
	projectScript = redis.NewScript(projectLua)
	forgetScript  = redis.NewScript(forgetLua)
	rateScript    = redis.NewScript(rateLua)

	scripts = []*redis.Script{acceptScript, joinScript, claimScript, renewScript, releaseScript, projectScript, forgetScript, rateScript}
)

// call is one run of a script.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
}

// epochKey stands while Redis holds what the streams say. A Redis that was lost lacks it.
const epochKey = "lorry:epoch"

// run sends calls in one pipeline and one round trip. A Redis that has restarted has forgotten the scripts, and a
// pipeline has no fallback of its own: they are loaded, and the whole pipeline is sent again, which every script
// allows. With guard, a Redis that was lost is ErrEpoch.
func (s *Store) run(ctx context.Context, guard bool, calls ...call) ([]*redis.Cmd, error) {
	if len(calls) == 0 {
		return nil, nil
	}
	out, err := s.send(ctx, guard, calls)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		for _, x := range scripts {
			if err := x.Load(ctx, s.rdb).Err(); err != nil {
				return nil, s.away(err)
			}
		}
		out, err = s.send(ctx, guard, calls)
	}
	if err != nil && !errors.Is(err, ErrEpoch) {
		err = s.away(err)
	}
	return out, err
}

func (s *Store) send(ctx context.Context, guard bool, calls []call) ([]*redis.Cmd, error) {
	p := s.rdb.Pipeline()
	var epoch *redis.IntCmd
	if guard {
		epoch = p.Exists(ctx, epochKey)
	}
	out := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		out[i] = c.script.EvalSha(ctx, p, c.keys, c.args...)
	}
	if _, err := p.Exec(ctx); err != nil {
		return nil, err
	}
	if guard && epoch.Val() == 0 {
		return nil, ErrEpoch
	}
	return out, nil
}

// away marks every failure of an exchange with Redis.
func (s *Store) away(err error) error {
	return fmt.Errorf("result: %w: %w", ErrAway, err)
}
