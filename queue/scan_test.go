package queue_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"lorry/queue"
	"lorry/queue/queuetest"
)

// lines puts n records of a batch's lines into RESULTS, which have their number and so many bytes more, and one of another
// batch.
func lines(t *testing.T, q *queue.Queue, n, more int) {
	t.Helper()
	rest := strings.Repeat(" ", more)
	ms := []*nats.Msg{{Subject: "results.line.t.other.1", Data: []byte("other")}}
	for i := range n {
		ms = append(ms, &nats.Msg{Subject: fmt.Sprintf("results.line.t.b.%d", i+1), Data: []byte(strconv.Itoa(i+1) + rest)})
	}
	_, errs := q.PublishAll(t.Context(), ms)
	for _, err := range errs {
		ok(t, err)
	}
}

func TestScan(t *testing.T) {
	for name, n := range map[string]int{"none": 0, "one": 1, "a page": 512, "many pages": 1300} {
		t.Run(name, func(t *testing.T) {
			q := queuetest.New(t, queue.Config{})
			lines(t, q, n, 0)
			seen := 0
			for ms, err := range q.Scan(t.Context(), queue.StreamResults, queue.LinesSubject("t", "b")) {
				ok(t, err)
				for _, m := range ms {
					if seen++; string(m.Data) != strconv.Itoa(seen) || queue.LineOf(m.Subject) != seen {
						t.Fatalf("message %d is %s of %s", seen, m.Data, m.Subject)
					}
				}
			}
			count, err := q.Count(t.Context(), queue.StreamResults, queue.LinesSubject("t", "b"))
			ok(t, err)
			if seen != n || count != n {
				t.Errorf("%d scanned, %d counted of %d", seen, count, n)
			}
			if left := consumers(t, q); left != 0 {
				t.Errorf("%d consumers stay", left)
			}
		})
	}
}

// TestScanCutOff: what can't be read to its end is an error, not an end.
func TestScanCutOff(t *testing.T) {
	q := queuetest.New(t, queue.Config{Timeout: 2 * time.Second})
	lines(t, q, 600, 16<<10) // more than is sent ahead
	var ended error
	pages := 0
	for _, err := range q.Scan(t.Context(), queue.StreamResults, queue.LinesSubject("t", "b")) {
		if err != nil {
			ended = err
			break
		}
		if pages++; pages == 1 {
			ok(t, q.JS().DeleteStream(context.WithoutCancel(t.Context()), queue.StreamResults))
		}
	}
	if ended == nil {
		t.Errorf("%d pages, and no error", pages)
	}
}

func consumers(t *testing.T, q *queue.Queue) (n int) {
	t.Helper()
	s, err := q.JS().Stream(t.Context(), queue.StreamResults)
	ok(t, err)
	i, err := s.Info(t.Context())
	ok(t, err)
	return i.State.Consumers
}
