package result

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"lorry/queue"
)

// TestCompany: what comes while an exchange is under way shares the next one, and its outcome.
func TestCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c company
		gate := make(chan struct{})
		var sizes []int
		exchange := func(_ context.Context, jobs []*queue.Job) error {
			sizes = append(sizes, len(jobs))
			<-gate
			if len(sizes) == 2 {
				return errors.New("second")
			}
			return nil
		}
		var wg sync.WaitGroup
		errs := make([]error, 101)
		ask := func(i int) {
			wg.Go(func() { errs[i] = c.join(t.Context(), []*queue.Job{{ID: fmt.Sprint(i)}}, exchange) })
		}
		ask(0)
		synctest.Wait() // the first is alone
		for i := range 100 {
			ask(1 + i)
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if len(sizes) != 2 || sizes[0] != 1 || sizes[1] != 100 {
			t.Errorf("exchanges of %v", sizes)
		}
		for i, err := range errs {
			if (err != nil) != (i > 0) {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func TestCompanyIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c company
		gate := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- c.join(ctx, []*queue.Job{{}}, func(context.Context, []*queue.Job) error { <-gate; return nil })
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("left with %v", err)
		}
		close(gate)
	})
}
