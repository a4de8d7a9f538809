package child

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func checkBy(role string) Check {
	return Check{Path: os.Args[0], Args: []string{"check"}, Env: []string{roleEnv + "=" + role}}
}

func TestCheck(t *testing.T) {
	var report struct {
		Kind   string
		Layers int
	}
	if err := checkBy("looks").Run(t.Context(), &report); err != nil || report.Kind != "model" || report.Layers != 30 {
		t.Errorf("got %+v, %v", report, err)
	}
	slow := checkBy("stares")
	slow.Limit = 4 * time.Second // in which even a slow machine has it say what it does
	for name, c := range map[string]struct {
		check   Check
		refused bool
		want    string
	}{
		"refused":       {checkBy("refuses"), true, "model.gguf: gguf: it is no GGUF file"},
		"deadly":        {checkBy("dies"), true, "check) ended: signal: killed: GGML_ASSERT(n_layer <= 512) failed"},
		"endless":       {slow, true, "check) took longer than 4s: loading"},
		"talkative":     {checkBy("rambles"), true, ""},
		"panics":        {checkBy("panics"), true, "check) ended: exit status 2: llama.cpp:12: no good; panic: oh"},
		"no executable": {Check{Path: "/nowhere/lorry-engine"}, false, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var report any
			err := c.check.Run(t.Context(), &report)
			if err == nil || errors.Is(err, ErrRefused) != c.refused || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "noise") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("nobody waits")
	cancel(why)
	if err := checkBy("stares").Run(ctx, nil); !errors.Is(err, why) || errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want the cause", err)
	}
}
