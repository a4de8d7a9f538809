package batch

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/resent"
	"lorry/result"
	"lorry/result/resulttest"
)

// office is Batches over real servers, without a scheduler.
type office struct {
	*shelf
	batches *Batches
	q       *queue.Queue
}

func openOffice(t *testing.T) *office {
	s := open(t)
	q := queuetest.New(t, queue.Config{})
	o := &office{shelf: s, q: q}
	o.batches = NewBatches(BatchesConfig{Queue: q, Results: resulttest.New(t, result.Config{Queue: q}), Files: s.Files, Log: zerolog.Nop(), Now: s.now})
	ok(t, o.batches.Setup(t.Context()))
	ok(t, o.batches.Setup(t.Context()))
	return o
}

func (o *office) input(text string) File {
	return o.put("acme", text, CreateFile{Filename: "in.jsonl", Purpose: PurposeBatch})
}

func (o *office) create(w CreateBatch) Batch {
	o.t.Helper()
	b, err := o.batches.Create(o.t.Context(), "acme", w)
	ok(o.t, err)
	return b
}

func TestCreateAgain(t *testing.T) {
	o := openOffice(t)
	w := CreateBatch{InputFile: o.input(good(1)).ID, Endpoint: queue.Completions, Repeat: resent.Repeat{Body: "digest"}}
	first := o.create(w)
	if b := o.create(w); b.ID == first.ID {
		t.Error("two requests became one batch")
	} else {
		first = b
	}
	w.Retried = true
	if b := o.create(w); b.ID != first.ID {
		t.Error("a retry made another batch")
	}
	w.Body = "another"
	lost := o.create(w) // the first try never came
	if b := o.create(w); b.ID != lost.ID || b.ID == first.ID {
		t.Error("the second retry made another batch than the first")
	}
	if page, more, err := o.batches.List(t.Context(), "acme", BatchFilter{}); err != nil || more || len(page) != 3 {
		t.Errorf("%d batches, %v", len(page), err)
	}
}

func TestCreateUnderAKey(t *testing.T) {
	o := openOffice(t)
	w := CreateBatch{InputFile: o.input(good(1)).ID, Endpoint: queue.Completions, Repeat: resent.Repeat{Body: "digest", IdempotencyKey: "k"}}
	first := o.create(w)
	if b := o.create(w); b.ID != first.ID {
		t.Error("one key, two batches")
	}
	w.Body = "another"
	if _, err := o.batches.Create(t.Context(), "acme", w); !errors.Is(err, resent.ErrMismatch) {
		t.Errorf("another body: %v", err)
	}
}

func TestCreateIsRefused(t *testing.T) {
	o := openOffice(t)
	file := o.input(good(1)).ID
	for name, c := range map[string]struct {
		w     CreateBatch
		param string
	}{
		"endpoint": {CreateBatch{InputFile: file, Endpoint: "/v1/images/edits"}, "endpoint"},
		"window":   {CreateBatch{InputFile: file, Endpoint: queue.Chat, Window: MaxWindow + 1}, "completion_window"},
		"moment":   {CreateBatch{InputFile: file, Endpoint: queue.Chat, Window: time.Millisecond}, "completion_window"},
		"priority": {CreateBatch{InputFile: file, Endpoint: queue.Chat, Priority: 101}, "priority"},
	} {
		_, err := o.batches.Create(t.Context(), "acme", c.w)
		if e, is := errors.AsType[*InvalidError](err); !is || e.Param != c.param {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := o.batches.Create(t.Context(), "other", CreateBatch{InputFile: file, Endpoint: queue.Chat}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another tenant's file: %v", err)
	}
}

func TestListPages(t *testing.T) {
	o := openOffice(t)
	file := o.input(good(1)).ID
	var want []string
	for range 25 {
		want = append(want, o.create(CreateBatch{InputFile: file, Endpoint: queue.Chat}).ID)
	}
	var got []string
	q := BatchFilter{Limit: 10}
	for more := true; more; {
		page, left, err := o.batches.List(t.Context(), "acme", q)
		ok(t, err)
		for _, b := range page {
			got = append([]string{b.ID}, got...)
		}
		q.After, more = page[len(page)-1].ID, left
		o.create(CreateBatch{InputFile: file, Endpoint: queue.Chat}) // comes in between, newest first
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestHeldBytes: a batch keeps its file's bytes while it needs them, and a sweep knows of it.
func TestHeldBytes(t *testing.T) {
	o := openOffice(t)
	file := o.input(good(1))
	b := o.create(CreateBatch{InputFile: file.ID, Endpoint: queue.Completions})
	ok(t, o.Delete(t.Context(), "acme", file.ID))
	for range 3 {
		o.forward(2 * settleTime)
		ok(t, o.batches.Sweep(t.Context()))
		_, err := o.Sweep(t.Context())
		ok(t, err)
	}
	r, err := o.Open(t.Context(), b.Input)
	ok(t, err)
	ok(t, r.Close())
	ok(t, o.dropAll(t.Context(), b.ID))
	ok(t, o.dropAll(t.Context(), b.ID))
	if n := o.blobsThere(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

// TestHoldOfADeadCreate: the process died between the hold and the batch.
func TestHoldOfADeadCreate(t *testing.T) {
	o := openOffice(t)
	file := o.input(good(1))
	_, err := o.hold(t.Context(), file, queue.NewID(batchPrefix))
	ok(t, err)
	ok(t, o.Delete(t.Context(), "acme", file.ID))
	ok(t, o.batches.Sweep(t.Context()))
	if o.blobsThere() != 1 {
		t.Error("a batch may still come")
	}
	o.forward(2 * settleTime)
	ok(t, o.batches.Sweep(t.Context()))
	if o.blobsThere() != 0 {
		t.Error("the bytes are held for nobody")
	}
}

func TestChange(t *testing.T) {
	o := openOffice(t)
	b := o.create(CreateBatch{InputFile: o.input(good(1)).ID, Endpoint: queue.Completions})
	later, prio := o.now().Add(48*time.Hour), 7
	b, err := o.batches.Change(t.Context(), "acme", b.ID, Change{Deadline: &later, Priority: &prio})
	ok(t, err)
	if b.ExpiresAt != later.Unix() || b.Priority != 7 {
		t.Errorf("%+v", b)
	}
	past, far, high := o.now().Add(-time.Hour), o.now().Add(MaxWindow+time.Hour), 1000
	for name, c := range map[string]Change{"past": {Deadline: &past}, "too far": {Deadline: &far}, "too high": {Priority: &high}} {
		_, err := o.batches.Change(t.Context(), "acme", b.ID, c)
		if _, is := errors.AsType[*InvalidError](err); !is {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGraph: each status leads where the contract says, and nowhere else.
func TestGraph(t *testing.T) {
	all := []Status{Validating, InProgress, Finalizing, Cancelling, Completed, Failed, Expired, Cancelled}
	want := map[Status]string{Validating: "in_progress cancelling failed", InProgress: "finalizing cancelling expired", Finalizing: "completed", Cancelling: "cancelled"}
	for _, from := range all {
		var to []string
		for _, s := range all {
			b := Batch{Status: from}
			if b.move(s, "x", time.Unix(9, 0)) == nil {
				to = append(to, string(s))
				if *b.at(s) != 9 {
					t.Errorf("%s: no time", s)
				}
			}
		}
		if got := strings.Join(to, " "); got != want[from] || from.Terminal() != (got == "") {
			t.Errorf("%s leads to %s", from, got)
		}
	}
}

// TestWeights: a batch holds its model and its adapter from its validation to its end.
func TestWeights(t *testing.T) {
	o := openOffice(t)
	const digest = "an adapter's digest"
	resolve := func(context.Context, string) (engine.Model, error) {
		return engine.Model{Base: "0123456789ab", Adapter: digest}, nil
	}
	b, err := o.batches.Validate(t.Context(), o.create(CreateBatch{InputFile: o.input(good(1)).ID, Endpoint: queue.Completions}), resolve, nil)
	ok(t, err)
	holds := func() bool {
		named := map[string]bool{}
		ok(t, o.batches.Weights(t.Context(), named))
		return named[digest] && named["0123456789ab"]
	}
	if b.Status != InProgress || !holds() {
		t.Errorf("a batch that is %s does not hold it", b.Status)
	}
	_, err = o.batches.Cancel(t.Context(), "acme", b.ID)
	ok(t, err)
	if !holds() {
		t.Error("what runs while it is cancelled does not hold it")
	}
	_, err = o.batches.Finish(t.Context(), b, Cancelled)
	ok(t, err)
	if holds() {
		t.Error("a batch that is over holds it")
	}
}
