package llama

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// workload is 32 requests for 32 tokens each, of prompts of 200 tokens and a few.
type workload func(i int) []int32

// words is n tokens that differ by seed from the first on, all of them ordinary ones.
func words(e *Engine, seed, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(1000 + (seed*7919+i*104729)%(e.model.vocab.size-2000))
	}
	return ids
}

// serve runs n requests, all submitted at once.
func serve(b *testing.B, e *Engine, n, tokens int, prompt workload) {
	var wg sync.WaitGroup
	for i := range n {
		r := ask("", tokens)
		r.Tokens, r.Sampling.IgnoreEOS = prompt(i), true
		wg.Go(func() {
			if _, err := e.Run(context.Background(), r, nil); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkPrefix shows what sharing brings where prompts begin alike, and what its book costs where they do not.
func BenchmarkPrefix(b *testing.B) {
	const requests, tokens = 32, 32
	round := 0
	for _, work := range []struct {
		name   string
		groups int
	}{{"shared", 1}, {"8groups", 8}, {"unique", requests}} {
		for _, off := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/noshare=%v", work.name, off), func(b *testing.B) {
				c := config(b)
				c.Context, c.NoShare = 8192, off
				e := open(b, c)
				before := cpu(b)
				for b.Loop() {
					round++
					serve(b, e, requests, tokens, func(i int) []int32 {
						return append(words(e, round*100+i%work.groups, 200), words(e, i, 8)...)
					})
				}
				s, made := e.Stats(), float64(b.N*requests*tokens)
				b.ReportMetric(made/b.Elapsed().Seconds(), "tokens/s")
				b.ReportMetric(made/(cpu(b)-before), "tokens/cpu-s") // a busy neighbour changes it less
				b.ReportMetric(float64(s.Rows-s.Drawn)/float64(b.N*requests*208), "prefilled")
			})
		}
	}
}

// cpu is how many seconds this process has computed.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkAdapters compares turns in one context with a context for each adapter, which is measured at its best: each
// has all slots and cells, and computes when no other does. Both have full calls; turns cost changes of the adapter,
// contexts a KV cache each. `make bench-engine` runs it, and BenchmarkSameAnswers, after the comparison with other engines.
func BenchmarkAdapters(b *testing.B) {
	const requests, tokens = 32, 32
	for _, n := range []int{1, 2, 8} {
		seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8}[:n]
		b.Run(fmt.Sprintf("%d/turns", n), func(b *testing.B) {
			c, digests := adapted(b, seeds...)
			c.Context = 8192
			e := open(b, c)
			for b.Loop() {
				serveAdapters(b, e, requests, tokens, digests)
			}
			s := e.Stats()
			b.ReportMetric(float64(b.N*requests*tokens)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(float64(s.Changes)/float64(b.N), "changes/op")
			b.ReportMetric(float64(s.ChangeCost.Microseconds())/1000, "ms/change")
		})
		b.Run(fmt.Sprintf("%d/contexts", n), func(b *testing.B) {
			c, digests := adapted(b, seeds...)
			c.Context = 8192
			var engines []*Engine
			for range digests {
				engines = append(engines, open(b, c))
			}
			for b.Loop() {
				for i, e := range engines {
					serveAdapters(b, e, requests/n, tokens, digests[i:i+1])
				}
			}
			b.ReportMetric(float64(b.N*requests*tokens)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// serveAdapters runs n requests, all submitted at once, with each adapter in turn.
func serveAdapters(b *testing.B, e *Engine, n, tokens int, digests []string) {
	var wg sync.WaitGroup
	for i := range n {
		r := ask("", tokens)
		r.Tokens, r.Sampling.IgnoreEOS = words(e, i, 60), true
		r.Model.Adapter = digests[i%len(digests)]
		wg.Go(func() {
			if _, err := e.Run(context.Background(), r, nil); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkRank: a prompt of 128 tokens without an adapter, with one of rank 8 as its file has it, and with the same one as
// a CPU is given it.
func BenchmarkRank(b *testing.B) {
	c, digests := adapted(b, 1)
	for _, x := range []struct {
		name, adapter string
		widen         bool
	}{{"none", "", false}, {"8", digests[0], false}, {"wide", digests[0], true}} {
		b.Run(x.name, func(b *testing.B) {
			e := open(b, c)
			e.adapters.widen = x.widen
			for i := 0; b.Loop(); i++ {
				q := ask("", 1)
				q.Tokens, q.Model.Adapter = words(e, i, 128), x.adapter
				if _, err := e.Run(b.Context(), q, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSymmetric: a model of Q4_1 with its weights split against the same as its file has it: how many times as fast
// it computes a prompt of 200 tokens and makes 1, 4 and 8 answers, and how much higher its perplexity is.
func BenchmarkSymmetric(b *testing.B) {
	for b.Loop() {
		var split, whole [5]float64
		for asIs, out := range map[bool]*[5]float64{false: &split, true: &whole} {
			c := config(b)
			c.Threads, c.Context, c.asIs = 2, benchCells, asIs
			x, err := OpenBench(c)
			if err != nil {
				b.Fatal(err)
			}
			speeds := []func() (float64, error){func() (float64, error) { return x.Prompt(200) }}
			for _, n := range []int{1, 4, 8} {
				speeds = append(speeds, func() (float64, error) { return x.Answers(n) })
			}
			for i, f := range speeds {
				if out[i], err = f(); err != nil {
					b.Fatal(err)
				}
			}
			if out[4], _, err = x.Perplexity(func(int, int) {}); err != nil {
				b.Fatal(err)
			}
			x.Close()
		}
		for i, name := range []string{"prompt", "1answer", "4answers", "8answers", "perplexity"} {
			b.ReportMetric(split[i]/whole[i], name)
		}
	}
}

// BenchmarkPause is how long an answer pauses at most between two tokens while a prompt of 1,500 tokens is computed.
func BenchmarkPause(b *testing.B) {
	for _, target := range []time.Duration{-1, 0} {
		b.Run(fmt.Sprint("target=", target), func(b *testing.B) {
			c := config(b)
			c.Context, c.StepTarget = 8192, target
			e := open(b, c)
			for b.Loop() {
				worst, took := pause(b, e)
				b.ReportMetric(float64(worst.Milliseconds()), "ms/worst")
				b.ReportMetric(took.Seconds(), "s/prompt")
			}
		})
	}
}

// pause has four answers made, one of them watched, while a long prompt is computed.
func pause(b *testing.B, e *Engine) (worst, took time.Duration) {
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	begun := make(chan struct{})
	var mu sync.Mutex
	var last time.Time
	for i := range 4 {
		r := ask("", 1000)
		r.Tokens, r.Sampling.IgnoreEOS = words(e, 77+i, 5), true
		emit := func(engine.Chunk) {
			mu.Lock()
			defer mu.Unlock()
			if last.IsZero() {
				close(begun)
			} else {
				worst = max(worst, time.Since(last))
			}
			last = time.Now()
		}
		if i > 0 {
			emit = func(engine.Chunk) {}
		}
		wg.Go(func() { e.Run(ctx, r, emit) })
	}
	<-begun
	start := time.Now()
	serve(b, e, 1, 1, func(int) []int32 { return words(e, 5, 1500) })
	mu.Lock()
	defer mu.Unlock()
	return worst, time.Since(start)
}

// BenchmarkSameAnswers counts how many answers at temperature 0 differ from those given alone, in an engine that shares
// nothing: eight at a time; then again, when their beginnings rest in cells; and deterministic ones in the crowd.
//
//	go test -run '^$' -bench 'SameAnswers|Adapters' -benchtime 1x ./engine/llama
func BenchmarkSameAnswers(b *testing.B) {
	const system = "You are a helpful assistant who answers in one or two clear sentences, and never makes anything up. "
	subjects := []string{"rivers", "bread", "the moon", "trains", "paper", "bees", "the sea", "clocks", "salt", "bridges", "glass", "wool"}
	var asked []*engine.Request
	for _, q := range []string{"What are %s good for?", "Where do %s come from?", "Tell a short story about %s.", "Why do people like %s?"} {
		for _, s := range subjects {
			r := ask(system+"\nQuestion: "+fmt.Sprintf(q, s)+"\nAnswer:", 48)
			r.Sampling.IgnoreEOS = true
			asked = append(asked, r)
		}
	}
	lonely := config(b)
	lonely.NoShare = true
	for b.Loop() {
		alone := texts(b, open(b, lonely), asked, 1, false)
		e := open(b, config(b))
		b.ReportMetric(differing(alone, texts(b, e, asked, 8, false)), "crowd-%")
		b.ReportMetric(differing(alone, texts(b, e, asked, 8, false)), "cached-%")
		exact := texts(b, open(b, lonely), asked[:8], 1, true)
		b.ReportMetric(differing(exact, texts(b, e, asked[:8], 8, true)), "deterministic-%")
	}
}

// texts are the answers, so many at a time.
func texts(b *testing.B, e *Engine, asked []*engine.Request, width int, exact bool) []string {
	out := make([]string, len(asked))
	places := make(chan struct{}, width)
	var all sync.WaitGroup
	for i, r := range asked {
		q := *r
		q.ID, q.Deterministic = fmt.Sprint("r", i), exact
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			c, err := e.Run(context.Background(), &q, nil)
			if err != nil {
				b.Errorf("%s: %v", q.ID, err)
				return
			}
			out[i] = c.Choices[0].Text
		})
	}
	all.Wait()
	return out
}

// differing is how many of all, in percent.
func differing(want, got []string) float64 {
	n := 0
	for i := range want {
		if want[i] != got[i] {
			n++
		}
	}
	return 100 * float64(n) / float64(len(want))
}

// BenchmarkPool: answers with threads that stay, and with new ones for each call, by turns in one context.
func BenchmarkPool(b *testing.B) {
	for _, slots := range []int{1, 4, 8} {
		b.Run(fmt.Sprint(slots, "slots"), func(b *testing.B) {
			c := quickly(b)
			c.Slots, c.Threads = slots, 2
			e := open(b, c)
			timed := func() float64 {
				begun := time.Now()
				serve(b, e, slots, 64, func(i int) []int32 { return words(e, i, 8) })
				return time.Since(begun).Seconds()
			}
			timed() // warm
			var ratios []float64
			for b.Loop() {
				e.gate.Lock()
				llama.DetachThreadpool(e.model.ctx)
				e.gate.Unlock()
				without := timed()
				e.gate.Lock()
				attach(e.model.ctx, e.model.pool)
				e.gate.Unlock()
				ratios = append(ratios, without/timed())
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "pool/none")
		})
	}
}
