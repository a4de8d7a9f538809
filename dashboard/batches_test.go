package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/batch"
	"lorry/blob"
	"lorry/queue"
)

// shelves are files and batches. Nobody reads batches' lines here, so that all stay in validating.
func (h *house) shelves() (*batch.Files, *batch.Batches) {
	h.t.Helper()
	blobs, err := blob.OpenDir(blob.DirConfig{Dir: h.t.TempDir(), MinFree: 1})
	h.ok(err)
	h.t.Cleanup(func() { _ = blobs.Close() })
	files := batch.NewFiles(batch.FilesConfig{JS: h.q.JS(), Blobs: blobs, Log: zerolog.Nop()})
	batches := batch.NewBatches(batch.BatchesConfig{Queue: h.q, Results: h.results, Files: files, Log: zerolog.Nop()})
	h.ok(files.Setup(h.t.Context()))
	h.ok(batches.Setup(h.t.Context()))
	return files, batches
}

func (h *house) upload(tenant, name, text string) batch.File {
	h.t.Helper()
	f, err := h.d.cfg.Files.Create(h.t.Context(), tenant, strings.NewReader(text), 0, func() (batch.CreateFile, error) {
		return batch.CreateFile{Filename: name, Purpose: batch.PurposeBatch}, nil
	})
	h.ok(err)
	return f
}

func (h *house) newBatch(tenant string, metadata map[string]string) batch.Batch {
	h.t.Helper()
	b, err := h.d.cfg.Batches.Create(h.t.Context(), tenant, batch.CreateBatch{InputFile: h.upload(tenant, "in.jsonl", "{}").ID, Endpoint: queue.Chat, Metadata: metadata})
	h.ok(err)
	return b
}

func TestBatchPages(t *testing.T) {
	h := newHouse(t, true)
	contains(t, h.see("/dashboard/batches", http.StatusOK), "No batches yet", `href="/dashboard/files?tenant=default"`)
	b := h.newBatch("default", map[string]string{"team": `<script>alert("x")</script>`})
	theirs := h.newBatch("acme", nil)
	list := h.see("/dashboard/batches", http.StatusOK)
	contains(t, list, b.ID, "validating", "Cancel batch")
	lacks(t, list, theirs.ID)
	contains(t, h.see("/dashboard/batches?tenant=acme", http.StatusOK), theirs.ID)
	body := h.see("/dashboard/batches/"+b.ID, http.StatusOK)
	contains(t, body, b.ID, "/v1/chat/completions", b.InputFile, "Pause", "Expires", "team", "Lines appear here as they end.")
	lacks(t, body, "<script>alert")
	if m := outside.FindString(body); m != "" {
		t.Errorf("the page has %q: nothing inline, nothing from elsewhere", m)
	}
	h.see("/dashboard/batches/"+theirs.ID, http.StatusNotFound)
	for _, at := range []string{"/dashboard/batches/nonsense", "/dashboard/batches?after=job_1", "/dashboard/batches/batch_*", "/?page=batches", "/dashboard/events?page=nonsense", "/dashboard/batches/" + b.ID + "?after=x"} {
		h.see(at, http.StatusBadRequest)
	}
}

// What a batch's page shows beyond its record is decided here, not in the template.
func TestBatchView(t *testing.T) {
	v := batchView{Batch: batch.Batch{Status: batch.InProgress, Counts: batch.Counts{Total: 10, Completed: 4, Failed: 1}},
		Progress: &batch.Progress{ETA: time.Now().Add(90 * time.Second), HeldBackBy: batch.NoWorker}}
	if v.Share() != .5 || v.Far() != "5 of 10" || !v.Open() || v.Retriable() || v.State() != "in_progress" || v.Why() != "No worker serves its model now." || v.Left() == "" {
		t.Errorf("got %v %v %v %v %v %v %q", v.Share(), v.Far(), v.Open(), v.Retriable(), v.State(), v.Why(), v.Left())
	}
	v.Paused = true
	if v.State() != "paused" {
		t.Errorf("paused: %s", v.State())
	}
	v.Status, v.Progress = batch.Completed, nil
	if v.Open() || !v.Retriable() || v.State() != "completed" || v.Why()+v.Left() != "" {
		t.Errorf("completed: %v %v %v", v.Open(), v.Retriable(), v.State())
	}
	for _, hold := range []batch.Hold{batch.NoWorker, batch.LaneShare, batch.TenantCap, batch.AdapterTurn, batch.RateLimit, batch.Backoff, batch.Paused} {
		if reasons[hold] == "" {
			t.Errorf("%s is not explained", hold)
		}
	}
}

func TestBatchButtons(t *testing.T) {
	h := newHouse(t, true)
	b := h.newBatch("default", nil)
	at := "/dashboard/batches/" + b.ID
	post := func(step string, headers ...string) *http.Response {
		t.Helper()
		r, _ := h.ask(http.MethodPost, at+"/"+step, url.Values{"tenant": {"default"}}, headers...)
		return r
	}
	for _, step := range []struct{ do, shows string }{{"pause", "Resume"}, {"resume", "Pause"}} {
		if r := post(step.do, "HX-Request", "true"); r.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: %d", step.do, r.StatusCode)
		}
		contains(t, h.see(at, http.StatusOK), ">"+step.shows+"<")
	}
	if r := post("cancel", "Sec-Fetch-Site", "cross-site"); r.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %d", r.StatusCode)
	}
	if r := post("cancel", "Accept", "text/html"); r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != at+"?tenant=default" {
		t.Errorf("without scripts: %d, to %s", r.StatusCode, r.Header.Get("Location"))
	}
	if got, err := h.d.cfg.Batches.Get(t.Context(), "default", b.ID); err != nil || got.Status != batch.Cancelling {
		t.Errorf("%s, %v", got.Status, err)
	}
	if r := post("pause", "HX-Request", "true"); r.StatusCode != http.StatusConflict {
		t.Errorf("too late: %d", r.StatusCode)
	}
}

// A batch's own page and the list are live.
func TestBatchEvents(t *testing.T) {
	h := newHouse(t, true)
	b := h.newBatch("default", nil)
	for path, event := range map[string]string{"page=batch&batch=" + b.ID: "one-batch", "page=batches": "batch-list", "page=files": "file-list"} {
		h.stream("/dashboard/events?"+path, func(got, _ string) bool { return got == event })
	}
	_, err := h.d.cfg.Batches.Pause(context.Background(), "default", b.ID)
	h.ok(err)
	h.stream("/dashboard/events?page=batch&batch="+b.ID, func(event, data string) bool { return event == "one-batch" && strings.Contains(data, "Resume") })
}

func TestFilePages(t *testing.T) {
	h := newHouse(t, true)
	mine, theirs := h.upload("default", `"><b>.jsonl`, "line\n"), h.upload("acme", "secret.jsonl", "x")
	body := h.see("/dashboard/files", http.StatusOK)
	contains(t, body, mine.ID, "&gt;&lt;b&gt;.jsonl", "5 B")
	lacks(t, body, theirs.ID, "<b>.jsonl")
	resp, text := h.ask(http.MethodGet, "/dashboard/files/"+mine.ID, nil)
	if text != "line\n" || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%q, %v", text, resp.Header)
	}
	h.see("/dashboard/files/"+theirs.ID, http.StatusNotFound)
	h.see("/dashboard/files/nonsense", http.StatusNotFound)
	if got := wholeSize(3 << 19); got != "1.5 MiB" {
		t.Errorf("got %s", got)
	}
}
