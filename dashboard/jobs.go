package dashboard

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"lorry/access"
	"lorry/queue"
	"lorry/result"
)

// scope is what a page shows and to whom. Pages of one scope show the same.
type scope struct {
	tenant string // whose jobs
	admin  bool   // may see all tenants
	state  queue.State
	after  string // a later page of the list
	job    string // one job's page
	// page is a list that is none of jobs: pageBatches, pageFiles, pageBatch, one batch's page, or pageWorker, one worker's.
	page   string
	batch  string
	worker string
}

// Errors of a page's address.
var (
	errTenant = errors.New("this key may not see that tenant")
	errParam  = errors.New("the address is not valid")
)

// pages are the lists beside the overview, by the shape of the IDs that they list.
var pages = map[string]*regexp.Regexp{"": jobID, pageBatches: batchID, pageBatch: cursor, pageFiles: fileID, pageHooks: cursor, pageWorker: jobID}

const (
	pageBatches = "batches"
	pageBatch   = "batch"
	pageFiles   = "files"
	pageHooks   = "webhooks"
	pageWorker  = "worker"
)

// The shapes of IDs and names; jobID is that of a batch's lines too.
var (
	workerName = regexp.MustCompile(`^[!-)+\-/-~]{1,128}$`) // what a NATS subject's token may hold
	jobID      = regexp.MustCompile(`^job_[a-z0-9_-]{1,96}$`)
	batchID    = regexp.MustCompile(`^batch_[a-z0-9]{26}$`)
	fileID     = regexp.MustCompile(`^file-[a-z0-9]{26}$`)
	cursor     = regexp.MustCompile(`^[0-9]{1,18}$`) // behind a line that has ended
)

// scopeOf reads a page's address.
func scopeOf(r *http.Request, p access.Principal) (scope, error) {
	sc := scope{tenant: p.Tenant, admin: p.Admin, state: queue.State(r.FormValue("state")), after: r.FormValue("after")}
	if t := r.FormValue("tenant"); t != "" && t != p.Tenant {
		if !p.Admin {
			return sc, errTenant
		}
		if access.Slug(t) != nil {
			return sc, errParam
		}
		sc.tenant = t
	}
	if !slices.Contains(states, sc.state) {
		return sc, errParam
	}
	sc.job = r.PathValue("id")
	if sc.job == "" {
		sc.job = r.FormValue("job")
	}
	sc.page, sc.batch = r.FormValue("page"), cmp.Or(r.PathValue("batch"), r.FormValue("batch"))
	sc.worker = cmp.Or(r.PathValue("worker"), r.FormValue("worker"))
	return sc, sc.check()
}

func (sc scope) check() error {
	shape, known := pages[sc.page]
	switch {
	case !known, sc.after != "" && !shape.MatchString(sc.after):
		return errParam
	case sc.job != "" && !jobID.MatchString(sc.job), sc.batch != "" && !batchID.MatchString(sc.batch):
		return errParam
	case (sc.page == pageWorker) != (sc.worker != ""), sc.worker != "" && !workerName.MatchString(sc.worker):
		return errParam
	case sc.worker != "" && !sc.admin: // whose requests run there is not for every tenant
		return errTenant
	}
	return nil
}

// on is scopeOf for a list that is none of jobs.
func on(page string, r *http.Request, p access.Principal) (scope, error) {
	_ = r.ParseForm() // scopeOf reads what there is
	r.Form.Set("page", page)
	return scopeOf(r, p)
}

// states are the filters over the list of jobs.
var states = []queue.State{"", queue.Queued, queue.Running, queue.Succeeded, queue.Failed, queue.Cancelled, queue.Expired}

// query is the scope as an address has it.
func (sc scope) query() string {
	q := url.Values{"tenant": {sc.tenant}}
	if sc.state != "" {
		q.Set("state", string(sc.state))
	}
	if sc.after != "" {
		q.Set("after", sc.after)
	}
	for name, value := range map[string]string{"job": sc.job, "page": sc.page, "batch": sc.batch, "worker": sc.worker} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// What templates ask of a scope.

func (sc scope) Tenant() string     { return sc.tenant }
func (sc scope) Admin() bool        { return sc.admin }
func (sc scope) State() queue.State { return sc.state }
func (sc scope) After() string      { return sc.after }

// Overview is the tenant's first page.
func (sc scope) Overview() scope { return scope{tenant: sc.tenant, admin: sc.admin} }

// Of is another tenant's.
func (sc scope) Of(tenant string) scope { return scope{tenant: tenant, admin: sc.admin} }

// With is the list narrowed to a state, from its start.
func (sc scope) With(s queue.State) scope {
	sc.state, sc.after = s, ""
	return sc
}

// From is the page of the list behind a job.
func (sc scope) From(after string) scope {
	sc.after = after
	return sc
}

// perPage is how many jobs a page lists.
const perPage = 25

// askRedis bounds one look: a page that waits longer says so instead.
const askRedis = 2 * time.Second

// jobView is one row of the list, and the head of a job's page.
type jobView struct {
	result.Status
	Show bool // the worker's name
}

// Waited is how long the job waited before its last attempt; empty while it waits, and where it never ran.
func (j jobView) Waited() string {
	if j.Started == 0 {
		return ""
	}
	return duration(time.Duration(j.Started-j.Created) * time.Millisecond)
}

// Took is how long the last attempt ran; empty before its end.
func (j jobView) Took() string {
	if j.Started == 0 || j.Ended == 0 {
		return ""
	}
	return duration(time.Duration(j.Ended-j.Started) * time.Millisecond)
}

// Open says whether the job can be cancelled.
func (j jobView) Open() bool { return !j.State.Terminal() }

type jobsView struct {
	Scope  scope
	States []queue.State
	Jobs   []jobView
	More   bool
	Last   string
	Error  string
}

func (d *Dashboard) jobs(ctx context.Context, sc scope) jobsView {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	v := jobsView{Scope: sc, States: states}
	list, more, err := d.cfg.Results.List(ctx, sc.tenant, result.Filter{After: sc.after, Limit: perPage, State: sc.state})
	if err != nil {
		v.Error = d.explain(err)
		return v
	}
	for _, st := range list {
		v.Jobs, v.Last = append(v.Jobs, jobView{st, sc.admin}), st.Job
	}
	v.More = more
	return v
}

// explain says what went wrong to people; what it doesn't know goes to the log.
func (d *Dashboard) explain(err error) string {
	if text, _ := hookFault(err); text != "" {
		return text
	}
	if text, _ := batchFault(err); text != "" {
		return text
	}
	switch {
	case errors.Is(err, result.ErrNotFound):
		return "There is no such job here, or its record is gone."
	case errors.Is(err, result.ErrEpoch):
		return "Redis was lost and is being filled again from the streams. No job is lost; try again in a moment."
	case errors.Is(err, result.ErrAway), errors.Is(err, context.DeadlineExceeded):
		return "Redis does not answer. Accepted jobs are safe in the streams."
	case errors.Is(err, queue.ErrAway):
		return "NATS does not answer. Nothing can be accepted or cancelled until it does."
	}
	d.cfg.Log.Error().Err(err).Msg("dashboard can't read what it shows")
	return "This can't be read; the log says why."
}

// listen turns events of changed jobs into hints.
func (d *Dashboard) listen() (stop func(), err error) {
	s, err := d.cfg.Queue.Conn().Subscribe(queue.EventsSubject(">"), func(m *nats.Msg) {
		if tenant, ok := tenantOf(m.Subject); ok {
			d.hub.hint(tenant)
		}
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = s.Unsubscribe() }, nil
}

// tenantOf reads the subject of an event.
func tenantOf(subject string) (string, bool) {
	prefix := queue.EventsSubject("")
	if len(subject) <= len(prefix) || subject[:len(prefix)] != prefix {
		return "", false
	}
	t := subject[len(prefix):]
	return t, access.Slug(t) == nil
}

// cancel ends a job, if it is not over. A page gets its news by the stream; a form without scripts is sent back.
func (d *Dashboard) cancel(w http.ResponseWriter, r *http.Request, p access.Principal) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	sc, err := scopeOf(r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*askRedis)
	defer cancel()
	st, err := d.cfg.Results.Cancel(ctx, sc.tenant, sc.job)
	if err != nil {
		d.problem(w, r, statusOf(err), d.explain(err))
		return
	}
	d.cfg.Log.Info().Str("job", sc.job).Str("tenant", sc.tenant).Str("key", p.KeyID).Str("state", string(st.State)).Msg("cancelled from the dashboard")
	d.hub.hint(sc.tenant)
	switch {
	case r.Header.Get("HX-Request") != "":
		w.WriteHeader(http.StatusNoContent)
	case wantsHTML(r):
		http.Redirect(w, r, "/dashboard/jobs/"+sc.job+"?tenant="+sc.tenant, http.StatusSeeOther)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"id": st.Job, "object": "lorry.job", "status": st.State})
	}
}

func statusOf(err error) int {
	if _, status := batchFault(err); status != 0 {
		return status
	}
	if _, status := hookFault(err); status != 0 {
		return status
	}
	switch {
	case errors.Is(err, result.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, result.ErrEpoch), errors.Is(err, result.ErrAway), errors.Is(err, queue.ErrAway), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
