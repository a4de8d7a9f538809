package cli

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bytesBar shows how many bytes have passed, on a terminal.
type bytesBar struct {
	progress *mpb.Progress
	bar      *mpb.Bar
}

// newBytesBar shows a bar for total bytes (0 or less: not known) where errs is a terminal and quiet is not asked for.
func newBytesBar(errs io.Writer, name string, total int64, quiet bool) *bytesBar {
	if quiet || errs == nil || !isTerminal(errs) {
		return &bytesBar{}
	}
	p := mpb.New(mpb.WithOutput(errs), mpb.WithWidth(48))
	return &bytesBar{p, p.AddBar(max(total, 0), mpb.PrependDecorators(decor.Name(name+" "), decor.CountersKibiByte("% .1f of % .1f ")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1024(0), " % .1f")))}
}

// reader counts what is read.
func (b *bytesBar) reader(r io.Reader) io.Reader {
	if b.bar == nil {
		return r
	}
	p, err := b.bar.ProxyReader(r)
	if err != nil { // the bar has ended
		return r
	}
	return p
}

// finish ends the bar as it stands.
func (b *bytesBar) finish() { endBar(b.progress, b.bar) }

func endBar(p *mpb.Progress, b *mpb.Bar) {
	if b == nil {
		return
	}
	if b.SetTotal(-1, true); !b.Completed() {
		b.Abort(false)
	}
	p.Wait()
}
