package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"lorry/access"
	"lorry/batch"
	"lorry/resent"
)

// batchRoutes are the pages of batches and files.
func (d *Dashboard) batchRoutes(mux *http.ServeMux) {
	mux.Handle("GET /dashboard/batches", d.guard(d.batches))
	mux.Handle("GET /dashboard/batches/{batch}", d.guard(d.batch))
	for name, step := range map[string]func(ctx context.Context, tenant, id string) (batch.Batch, error){
		"cancel": d.cfg.Batches.Cancel, "pause": d.cfg.Batches.Pause, "resume": d.cfg.Batches.Resume, "retry": d.retry} {
		mux.Handle("POST /dashboard/batches/{batch}/"+name, d.guard(d.stepBatch(name, step)))
	}
	mux.Handle("GET /dashboard/files", d.guard(d.files))
	mux.Handle("GET /dashboard/files/{file}", d.guard(d.file))
}

func (d *Dashboard) retry(ctx context.Context, tenant, id string) (batch.Batch, error) {
	return d.cfg.Batches.Retry(ctx, tenant, id, resent.Repeat{})
}

// batchView is one row of the list, and the head of a batch's page.
type batchView struct {
	batch.Batch
	Scope scope
	// Progress is known on a batch's own page, while it is not over.
	Progress *batch.Progress
	// Lines are a page of those that have ended, in that order; none once they are in the files alone.
	Lines []lineView
	More  bool
	Last  int // the next page's cursor
}

// Open says whether the batch can be cancelled.
func (b batchView) Open() bool { return b.Status == batch.Validating || b.Status == batch.InProgress }

// Retriable says whether lines of it can run again.
func (b batchView) Retriable() bool {
	return b.Status.Terminal() && b.Status != batch.Failed && b.Counts.Completed < b.Counts.Total
}

// State is the status, or that it is paused.
func (b batchView) State() string {
	if b.Paused && b.Open() {
		return "paused"
	}
	return string(b.Status)
}

// Ended is when it was over; 0 before.
func (b batchView) Ended() int64 {
	return max(b.CompletedAt, b.FailedAt, b.ExpiredAt, b.CancelledAt)
}

// Share is how much of it has ended.
func (b batchView) Share() float64 {
	return float64(b.Counts.Completed+b.Counts.Failed) / float64(max(b.Counts.Total, 1))
}

// Far is the share in words.
func (b batchView) Far() string {
	return fmt.Sprintf("%d of %d", b.Counts.Completed+b.Counts.Failed, b.Counts.Total)
}

// Left is how long the rest is expected to take; empty while nothing is known.
func (b batchView) Left() string {
	if b.Progress == nil || b.Progress.ETA.IsZero() {
		return ""
	}
	return duration(max(time.Until(b.Progress.ETA), 0))
}

// reasons are what holds a batch back, in words.
var reasons = map[batch.Hold]string{
	batch.NoWorker:    "No worker serves its model now.",
	batch.LaneShare:   "More urgent work has the slots; batches keep their share.",
	batch.TenantCap:   "This tenant's share of the fleet is in use.",
	batch.AdapterTurn: "Another adapter of the same base has its turn.",
	batch.RateLimit:   "This tenant's rate is used up for now.",
	batch.Backoff:     "What is left waits for its next attempt.",
	batch.Paused:      "It is paused.",
}

// Why is what holds it back, in words; empty if nothing does.
func (b batchView) Why() string {
	if b.Progress == nil {
		return ""
	}
	return reasons[b.Progress.HeldBackBy]
}

// lineView is a line that has ended.
type lineView struct {
	CustomID string `json:"custom_id"`
	Line     int    `json:"-"`
	Failed   bool   `json:"-"`
	Response *struct {
		Status int `json:"status_code"`
		Body   struct {
			Error *struct{ Message string }
		}
	} `json:"response"`
	Error *struct{ Message string } `json:"error"`
}

// Said is why the line has no answer.
func (l lineView) Said() string {
	switch {
	case l.Error != nil:
		return l.Error.Message
	case l.Response != nil && l.Response.Body.Error != nil:
		return l.Response.Body.Error.Message
	}
	return ""
}

// batchesView is a page of the list.
type batchesView struct {
	Scope   scope
	Batches []batchView
	More    bool
	Last    string
	Error   string
}

func (d *Dashboard) batchList(ctx context.Context, sc scope) batchesView {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	v := batchesView{Scope: sc}
	list, more, err := d.cfg.Batches.List(ctx, sc.tenant, batch.BatchFilter{After: sc.after, Limit: perPage})
	if err != nil {
		v.Error = d.explain(err)
		return v
	}
	for _, b := range list {
		v.Batches, v.Last = append(v.Batches, batchView{Batch: b, Scope: sc}), b.ID
	}
	v.More = more
	return v
}

// oneBatch reads all that a batch's page shows.
func (d *Dashboard) oneBatch(ctx context.Context, sc scope) (v batchView, err error) {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	v.Scope = sc
	if v.Batch, err = d.cfg.Batches.Get(ctx, sc.tenant, sc.batch); err != nil {
		return v, err
	}
	if v.Status.Terminal() {
		return v, nil
	}
	p, err := d.cfg.Batches.Progress(ctx, sc.tenant, sc.batch)
	if err == nil {
		v.Progress = &p
		d.readLines(ctx, sc, &v)
	}
	return v, err
}

// readLines reads the page of ended lines that the address names. Without them the page has all the rest.
func (d *Dashboard) readLines(ctx context.Context, sc scope, v *batchView) {
	after, _ := strconv.Atoi(sc.after) // its shape is checked
	ls, more, err := d.cfg.Batches.Results(ctx, sc.tenant, sc.batch, after, perPage)
	if err != nil {
		d.cfg.Log.Debug().Err(err).Str("batch", sc.batch).Msg("dashboard can't read a batch's lines")
		return
	}
	v.More = more
	for _, l := range ls {
		line := lineView{Line: l.Line, Failed: l.Failed}
		_ = json.Unmarshal(l.Raw, &line) // our own bytes
		v.Lines, v.Last = append(v.Lines, line), l.Cursor
	}
}

type batchesData struct {
	shell
	Status status
	List   batchesView
}

func (d *Dashboard) batches(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageBatches, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	s := d.fleet(r.Context())
	d.write(w, http.StatusOK, "batches", batchesData{d.shell("Batches", sc, p, s), d.status(r.Context(), s, sc), d.batchList(r.Context(), sc)})
}

type batchData struct {
	shell
	Status status
	Batch  batchView
}

func (d *Dashboard) batch(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageBatch, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	v, err := d.oneBatch(r.Context(), sc)
	if err != nil {
		d.problem(w, r, statusOf(err), d.explain(err))
		return
	}
	s := d.fleet(r.Context())
	d.write(w, http.StatusOK, "batch", batchData{d.shell("Batch "+shortID(sc.batch), sc, p, s), d.status(r.Context(), s, sc), v})
}

// renderPage is what a list that is none of jobs, or a batch's page, shows now.
func (d *Dashboard) renderPage(ctx context.Context, sc scope, out sections) {
	switch {
	case sc.page == pageHooks:
		d.put(out, "hook-list", d.hookList(ctx, sc))
	case d.cfg.Batches == nil || d.cfg.Files == nil:
	case sc.page == pageBatches:
		d.put(out, "batch-list", d.batchList(ctx, sc))
	case sc.page == pageFiles:
		d.put(out, "file-list", d.fileList(ctx, sc))
	default:
		v, err := d.oneBatch(ctx, sc)
		if err == nil {
			d.put(out, "one-batch", v)
		} else if !errors.Is(err, batch.ErrNoBatch) { // the status line says it
			d.cfg.Log.Debug().Err(err).Str("batch", sc.batch).Msg("dashboard can't read a batch")
		}
	}
}

// stepBatch does one thing to a batch. A page gets its news by the stream; a form without scripts is sent to the batch.
func (d *Dashboard) stepBatch(name string, step func(ctx context.Context, tenant, id string) (batch.Batch, error)) page {
	return func(w http.ResponseWriter, r *http.Request, p access.Principal) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		sc, err := on(pageBatch, r, p)
		if err != nil {
			d.badAddress(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 2*askRedis)
		defer cancel()
		b, err := step(ctx, sc.tenant, sc.batch)
		if err != nil {
			d.problem(w, r, statusOf(err), d.explain(err))
			return
		}
		d.cfg.Log.Info().Str("batch", sc.batch).Str("tenant", sc.tenant).Str("key", p.KeyID).Str("step", name).Str("status", string(b.Status)).Msg("batch changed from the dashboard")
		d.hub.hint(sc.tenant)
		at := "/dashboard/batches/" + b.ID + "?tenant=" + sc.tenant
		switch {
		case r.Header.Get("HX-Request") != "" && b.ID != sc.batch: // a new one
			w.Header().Set("HX-Redirect", at)
			w.WriteHeader(http.StatusNoContent)
		case r.Header.Get("HX-Request") != "":
			w.WriteHeader(http.StatusNoContent)
		default:
			http.Redirect(w, r, at, http.StatusSeeOther)
		}
	}
}

// batchStep is a button that does one thing to a batch; Confirm, if any, is asked first.
type batchStep struct{ ID, Tenant, Step, Label, Confirm string }

// batchFault is what people are told of an error of batches and files, and its status; "" of any other.
func batchFault(err error) (text string, status int) {
	if e, ok := errors.AsType[*batch.StatusError](err); ok {
		return fmt.Sprintf("Its status is %s: it is too late to %s it.", e.Status, e.Do), http.StatusConflict
	}
	switch {
	case errors.Is(err, batch.ErrNoBatch):
		return "There is no such batch here, or its record is gone.", http.StatusNotFound
	case errors.Is(err, batch.ErrNotFound):
		return "There is no such file here, or it has expired.", http.StatusNotFound
	case errors.Is(err, batch.ErrNothing):
		return "All of its lines succeeded: there is nothing to retry.", http.StatusConflict
	case errors.Is(err, batch.ErrContended):
		return "Others are changing it at this moment. Try again.", http.StatusServiceUnavailable
	}
	return "", 0
}
