package dashboard

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/nats-io/nats.go"

	"lorry/engine"
	"lorry/queue"
)

// peek answers for a worker until the test ends.
func (h *house) peek(worker string, p queue.Peek) {
	h.t.Helper()
	sub, err := h.q.Conn().Subscribe(queue.PeekSubject(worker), func(m *nats.Msg) {
		b, _ := json.Marshal(p)
		_ = m.Respond(b)
	})
	h.ok(err)
	h.t.Cleanup(func() { _ = sub.Unsubscribe() })
}

func loop() *engine.Snapshot {
	s := &engine.Snapshot{Slots: 8, Waiting: 5, Cells: engine.Cells{All: 8192, Busy: 1024, Idle: 512, Free: 6656},
		Running: []engine.Sequence{{ID: "job_01running", Scope: "acme", Slot: 2, Prompt: 200, Shared: 64, Drawn: 7, Most: 32, Rows: 1, Seconds: 1.5}}}
	s.Last = engine.Step{PromptRows: 55, AnswerRows: 8, Adapter: "abcdef0123456789", Parts: engine.Parts{Plan: 0.0001, Compute: 0.0305, Draw: 0.0004}}
	s.Totals.Count(s.Last)
	return s
}

func TestWorkerPage(t *testing.T) {
	h := newHouse(t, true)
	h.beat(heartbeat("w-1"))
	h.peek("w-1", queue.Peek{V: queue.V, Loop: loop()})
	contains(t, h.see("/", http.StatusOK), `href="/dashboard/workers/w-1"`)
	body := h.see("/dashboard/workers/w-1", http.StatusOK)
	contains(t, body, "31.0 ms", "1024 of 8192", "abcdef01", `data-part="Compute"`, "30.5 ms", `data-sequence="job_01running"`, "/dashboard/jobs/job_01running?tenant=acme",
		"55 of prompts, 8 of answers", "page=worker", "worker=w-1")
	if m := outside.FindString(body); m != "" {
		t.Errorf("the page has %q: nothing inline, nothing from elsewhere", m)
	}
	h.see("/dashboard/workers/nobody", http.StatusNotFound)
	h.see("/dashboard/workers/a%20b", http.StatusBadRequest)
	h.see("/dashboard/workers/w.1", http.StatusBadRequest)
	h.see("/dashboard/events?page=worker", http.StatusBadRequest)
}

// A worker without a loop of ours, or one that does not answer, is shown all the same.
func TestWorkerPageWithoutALoop(t *testing.T) {
	h := newHouse(t, true)
	h.beat(heartbeat("w-1"))
	contains(t, h.see("/dashboard/workers/w-1", http.StatusOK), "the worker does not answer", `data-loop="none"`)
	h.peek("w-1", queue.Peek{V: queue.V, Error: "this kind of engine has no loop of ours"})
	contains(t, h.see("/dashboard/workers/w-1", http.StatusOK), "has no loop of ours")
}

// Whose requests run on a worker is for those alone who may see every tenant.
func TestWorkerPageIsForAdmins(t *testing.T) {
	h := newHouse(t, false)
	h.beat(heartbeat("w-1"))
	h.peek("w-1", queue.Peek{V: queue.V, Loop: loop()})
	tenant, _ := h.key("acme", false)
	admin, _ := h.key("ops", true)
	lacks(t, h.see("/", http.StatusOK, "Authorization", "Bearer "+tenant), "/dashboard/workers/")
	h.see("/dashboard/workers/w-1", http.StatusForbidden, "Authorization", "Bearer "+tenant)
	h.see("/dashboard/events?page=worker&worker=w-1", http.StatusForbidden, "Authorization", "Bearer "+tenant)
	contains(t, h.see("/dashboard/workers/w-1", http.StatusOK, "Authorization", "Bearer "+admin), "job_01running")
}
