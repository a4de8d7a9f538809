package child

import (
	"context"
	"errors"
	"testing"

	"lorry/engine"
)

// The loop of the engine behind the pipe can be seen while it runs; an engine without one says so.
func TestSnapshot(t *testing.T) {
	e := start(t, config("echo"))
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := e.Run(ctx, request("job_1", "hold"), func(engine.Chunk) { close(begun) })
		ended <- err
	}()
	<-begun
	s, err := e.Snapshot(t.Context())
	if err != nil || s.Slots != 16 || len(s.Running) != 1 || s.Running[0].ID != "job_1" {
		t.Errorf("got %+v, %v", s, err)
	}
	cancel()
	<-ended
	if _, err := start(t, config("plain")).Snapshot(t.Context()); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("without a loop: %v", err)
	}
}
