package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lorry/access"
	"lorry/result"
)

// shell is what every page has around its own.
type shell struct {
	Title   string
	Reader  access.Principal
	Scope   scope
	Tenants []string // to choose from; empty for those who see one
	Signed  bool     // by a session that can be ended
	Monitor bool     // asynqmon is there
	Batches bool     // batches and files are there
	In      bool     // someone looks, not the login form
}

func (d *Dashboard) shell(title string, sc scope, p access.Principal, s snapshot) shell {
	sh := shell{Title: title, Reader: p, Scope: sc, Signed: p.KeyID != "", Monitor: p.Admin && d.monitor != nil, Batches: d.cfg.Batches != nil && d.cfg.Files != nil, In: true}
	if p.Admin {
		sh.Tenants = d.tenants(sc, s)
	}
	return sh
}

// tenants are those that access knows, and those that have something waiting.
func (d *Dashboard) tenants(sc scope, s snapshot) []string {
	ts := append(d.cfg.Access.Tenants(), sc.tenant)
	for _, b := range s.depths.Backlog {
		ts = append(ts, b.Tenant)
	}
	slices.Sort(ts)
	return slices.Compact(ts)
}

// status is the line that says whether all is well.
type status struct {
	Problems []string
	Workers  int
	Slots    int
}

func (d *Dashboard) status(ctx context.Context, s snapshot, sc scope) status {
	t := s.tiles(sc)
	st := status{Workers: t.Workers, Slots: t.Slots}
	if s.err != nil {
		st.Problems = append(st.Problems, "NATS does not answer: nothing can be accepted, and the figures are old.")
	}
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	if err := d.cfg.Results.Ready(ctx); err != nil {
		st.Problems = append(st.Problems, d.explain(err))
	}
	if len(s.workers) == 0 {
		st.Problems = append(st.Problems, "No worker is connected: accepted jobs wait until one is.")
	}
	for _, w := range s.workers {
		for _, dev := range w.Devices {
			if dev.Error != "" {
				st.Problems = append(st.Problems, fmt.Sprintf("%s, device %d (%s): %s", w.Worker, dev.Index, dev.Name, dev.Error))
			}
		}
	}
	st.Problems = append(st.Problems, d.hookProblems(ctx, sc.tenant)...)
	return st
}

type overviewData struct {
	shell
	Status  status
	Tiles   tiles
	Workers []workerView
	Models  []modelView
	Lanes   []laneView
	Backlog backlogData
	Jobs    jobsView
}

// backlogData is the table of backlogs.
type backlogData struct {
	Scope scope
	Rows  []tenantView
	More  int
}

func (s snapshot) backlogData(sc scope) backlogData {
	rows, more := s.tenants()
	return backlogData{sc, rows, more}
}

// lanesData is the table of lanes.
type lanesData struct {
	Tiles tiles
	Lanes []laneView
}

func (d *Dashboard) overview(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := scopeOf(r, p)
	if err != nil || sc.job+sc.page != "" {
		d.badAddress(w, r, err)
		return
	}
	s := d.fleet(r.Context())
	d.write(w, http.StatusOK, "overview", overviewData{shell: d.shell("Overview", sc, p, s), Status: d.status(r.Context(), s, sc),
		Tiles: s.tiles(sc), Workers: d.workers(s, sc), Models: d.models(s), Lanes: s.lanes(sc), Backlog: s.backlogData(sc), Jobs: d.jobs(r.Context(), sc)})
}

type jobData struct {
	shell
	Status status
	Job    jobView
}

func (d *Dashboard) job(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := scopeOf(r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askRedis)
	defer cancel()
	st, err := d.cfg.Results.Get(ctx, sc.tenant, sc.job)
	if err != nil {
		d.problem(w, r, statusOf(err), d.explain(err))
		return
	}
	s := d.fleet(ctx)
	d.write(w, http.StatusOK, "job", jobData{shell: d.shell("Job "+shortID(sc.job), sc, p, s), Status: d.status(ctx, s, sc), Job: jobView{*st, sc.admin}})
}

// render is what a scope's pages show now, by event name; with jobsOnly only what a change of jobs can have touched.
func (d *Dashboard) render(ctx context.Context, sc scope, jobsOnly bool) sections {
	out := sections{}
	switch {
	case sc.page == pageWorker && jobsOnly:
	case sc.page == pageWorker:
		d.renderWorker(ctx, sc, out)
	case sc.page != "":
		d.renderPage(ctx, sc, out)
	case sc.job != "":
		d.renderJob(ctx, sc, out)
	default:
		d.put(out, "jobs", d.jobs(ctx, sc))
	}
	if jobsOnly {
		return out
	}
	s := d.fleet(ctx)
	d.put(out, "status", d.status(ctx, s, sc))
	if sc.job+sc.page != "" {
		return out
	}
	d.put(out, "tiles", s.tiles(sc))
	d.put(out, "workers", d.workers(s, sc))
	d.put(out, "models", d.models(s))
	d.put(out, "lanes", lanesData{s.tiles(sc), s.lanes(sc)})
	if sc.admin {
		d.put(out, "backlog", s.backlogData(sc))
	}
	if b := d.tickEvent(sc.admin); b != nil {
		out["tick"] = b
	}
	return out
}

func (d *Dashboard) renderJob(ctx context.Context, sc scope, out sections) {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	st, err := d.cfg.Results.Get(ctx, sc.tenant, sc.job)
	if err != nil {
		if !errors.Is(err, result.ErrNotFound) { // the status line says it
			d.cfg.Log.Debug().Err(err).Str("job", sc.job).Msg("dashboard can't read a job")
		}
		return
	}
	d.put(out, "job", jobView{*st, sc.admin})
}

// events is the stream that keeps a page live.
func (d *Dashboard) events(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := scopeOf(r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	c, err := d.hub.join(sc, p.KeyID)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		d.problem(w, r, http.StatusServiceUnavailable, "Too many live pages are open. This one shows what was so when it was loaded.")
		return
	}
	defer d.hub.leave(c)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	d.hub.serve(w, r, c, func() bool {
		now, err := d.reader(r)
		return err == nil && now == p
	})
}

func (d *Dashboard) badAddress(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errTenant) {
		d.problem(w, r, http.StatusForbidden, "This key may not see that tenant.")
		return
	}
	d.problem(w, r, http.StatusBadRequest, "That address is not valid.")
}

func (d *Dashboard) notFound(w http.ResponseWriter, r *http.Request) {
	d.problem(w, r, http.StatusNotFound, "There is no such page.")
}

// now is the time on a page, for what counts up from it.
func now() int64 { return time.Now().UnixMilli() }
