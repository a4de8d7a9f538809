package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// tally counts what has ended, and shows it as a bar on a terminal.
type tally struct {
	began    time.Time
	progress *mpb.Progress
	bar      *mpb.Bar
	grows    bool // how many there are is not known

	mu                   sync.Mutex
	done, failed, tokens int
}

// newTally shows a bar for total prompts (0: not known) where errs is a terminal and quiet is not asked for.
func newTally(errs io.Writer, total int, quiet bool) *tally {
	t := &tally{began: time.Now(), grows: total == 0}
	if quiet || errs == nil || !isTerminal(errs) {
		return t
	}
	t.progress = mpb.New(mpb.WithOutput(errs), mpb.WithWidth(48))
	t.bar = t.progress.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return t.rate() }), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), "")))
	return t
}

func (t *tally) count(o *outcome) {
	if errors.Is(o.err, context.Canceled) {
		return
	}
	t.mu.Lock()
	if o.err != nil {
		t.failed++
	} else {
		t.done++
	}
	t.tokens += o.tokens
	n := t.done + t.failed
	t.mu.Unlock()
	if t.bar == nil {
		return
	}
	if t.grows {
		t.bar.SetTotal(int64(n)+1, false)
	}
	t.bar.Increment()
}

// finish ends the bar as it stands.
func (t *tally) finish() { endBar(t.progress, t.bar) }

func (t *tally) rate() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := time.Since(t.began).Seconds()
	if t.tokens == 0 || s <= 0 {
		return ""
	}
	return fmt.Sprintf(" %.1f tokens/s ", float64(t.tokens)/s)
}

// summary is one line at the end.
func (t *tally) summary(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := time.Since(t.began)
	fmt.Fprintf(w, "%d done, %d failed in %.1f s", t.done, t.failed, d.Seconds())
	if t.tokens > 0 {
		fmt.Fprintf(w, ": %d tokens, %.1f tokens/s", t.tokens, float64(t.tokens)/d.Seconds())
	}
	fmt.Fprintln(w)
}

// newKey makes an idempotency key: a submission that is sent again after a lost answer is the same job.
func newKey() string { return "cli-" + rand.Text() }
