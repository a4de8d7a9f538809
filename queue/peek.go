package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"lorry/engine"
)

// PeekSubject is where a worker answers who wants to see its engine's loop.
func PeekSubject(worker string) string { return "peek." + worker }

// Peek is a worker's answer: its engine's loop, or why there is none.
type Peek struct {
	V     int              `json:"v"`
	Loop  *engine.Snapshot `json:"loop,omitempty"`
	Error string           `json:"error,omitempty"`
}

// ErrNoLoop is a worker whose engine shows nothing, and says why.
var ErrNoLoop = errors.New("the engine shows no loop")

// PeekAt asks a worker for its engine's loop. It waits for the step under way, or for ctx.
func PeekAt(ctx context.Context, nc *nats.Conn, worker string) (*engine.Snapshot, error) {
	m, err := nc.RequestWithContext(ctx, PeekSubject(worker), nil)
	if err != nil {
		return nil, fmt.Errorf("queue: peek at %s: %w", worker, err)
	}
	var p Peek
	if err := json.Unmarshal(m.Data, &p); err != nil {
		return nil, fmt.Errorf("queue: peek at %s: %w", worker, err)
	}
	if p.Loop == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoLoop, p.Error)
	}
	return p.Loop, nil
}
