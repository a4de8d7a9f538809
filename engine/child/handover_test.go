package child

import (
	"context"
	"errors"
	"strings"
	"testing"

	"lorry/engine"
)

// TestHandOver: what was drawn until the child heard of it comes back, to the last token, and another child goes on.
func TestHandOver(t *testing.T) {
	text := strings.TrimSpace(strings.Repeat("word ", 200))
	slow, quick := start(t, config("echo", "LORRY_TEST_DELAY=2ms")), start(t, config("echo"))
	r := request("long", text)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var last *engine.Resume
	var said strings.Builder
	r.Save = func(r *engine.Resume) { last = r }
	_, err := slow.Run(ctx, r, func(c engine.Chunk) {
		if said.WriteString(c.Text); len(strings.Fields(said.String())) == 40 {
			cancel(engine.ErrHandOver)
		}
	})
	if n := len(strings.Fields(said.String())); !errors.Is(err, engine.ErrHandOver) || last.Tokens() != n || n < 40 || n == 200 {
		t.Fatalf("got %v, %d words were said and %d saved", err, n, last.Tokens())
	}
	next := request("long", text)
	next.Resume = last
	c, err := quick.Run(t.Context(), next, nil)
	if err != nil || c.Choices[0].Text != text || c.Usage.ResumedTokens != last.Tokens() {
		t.Errorf("got %+v, %v", c, err)
	}
}
