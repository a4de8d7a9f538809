package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// batchView shows how far a batch is: a bar on a terminal, else a line whenever the status or a tenth of it has changed.
type batchView struct {
	errs     io.Writer
	quiet    bool
	last     string
	progress *mpb.Progress
	bar      *mpb.Bar

	mu   sync.Mutex
	note string
}

func newBatchView(errs io.Writer, quiet bool) *batchView {
	v := &batchView{errs: errs, quiet: quiet}
	if quiet || !isTerminal(errs) {
		return v
	}
	v.progress = mpb.New(mpb.WithOutput(errs), mpb.WithWidth(40))
	v.bar = v.progress.AddBar(0, mpb.PrependDecorators(decor.CountersNoUnit("%d of %d ")), mpb.AppendDecorators(decor.Any(v.said)))
	return v
}

func (v *batchView) said(decor.Statistics) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.note
}

func (v *batchView) show(b *Batch) {
	ended := b.Counts.Completed + b.Counts.Failed
	if v.bar != nil {
		v.mu.Lock()
		v.note = " " + b.note(time.Now())
		v.mu.Unlock()
		v.bar.SetTotal(int64(b.Counts.Total)+1, false) // one more: the bar would end by itself
		v.bar.SetCurrent(int64(ended))
		return
	}
	mark := fmt.Sprint(b.state(), 10*ended/max(b.Counts.Total, 1), b.Lorry.HeldBackBy)
	if v.quiet || mark == v.last || b.over() {
		return
	}
	v.last = mark
	fmt.Fprintf(v.errs, "%s: %s%s\n", b.ID, b.lines(), prefixed(", ", b.note(time.Now())))
}

func prefixed(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

// note is what a person wants to know beside the counts.
func (b *Batch) note(now time.Time) string {
	parts := []string{b.state()}
	if b.Counts.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", b.Counts.Failed))
	}
	if s := b.speed(); s != "" {
		parts = append(parts, s)
	}
	if eta := time.Unix(b.Lorry.ETA, 0); b.Lorry.ETA > 0 && eta.After(now) {
		parts = append(parts, "ends in about "+eta.Sub(now).Round(time.Second).String())
	}
	if b.Lorry.HeldBackBy != "" {
		parts = append(parts, "held back by "+b.Lorry.HeldBackBy)
	}
	return strings.Join(parts, ", ")
}

// finish ends the bar as it stands; once more does nothing.
func (v *batchView) finish() {
	endBar(v.progress, v.bar)
	v.bar = nil
}
