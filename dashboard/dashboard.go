// Package dashboard shows the fleet: workers with their devices, lanes, backlogs, jobs, batches, files, all of it live, and
// lets jobs and batches be cancelled, batches paused and retried. What it shows it asks anew; it keeps nothing but the last ten minutes of two curves.
//
// Who may look: with a key (as a bearer, or once in the login form, which sets a session cookie), or everybody who
// reaches a loopback listener while no key was ever made. A key sees its tenant's jobs and backlog and how busy the
// fleet is; an admin's key sees everything and asynqmon under /queues. Posts from other sites are refused.
package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
	"lorry/webhook"
)

// Config says what to show. Queue, Results, Access and Fleet are required.
type Config struct {
	Queue   *queue.Queue
	Results *result.Store
	// Registry knows the models' names, those too that no worker serves now. It may be nil.
	Registry *registry.Registry
	Access   *access.Store
	Fleet    *queue.Fleet
	// Batches and Files are what there is of each; nil leaves their pages out.
	Batches *batch.Batches
	Files   *batch.Files
	// Redis is asynq's, for asynqmon under /queues; nil leaves that page out.
	Redis asynq.RedisConnOpt
	Log   zerolog.Logger
	// Clients bounds the live pages that are open at the same moment. 0: 256.
	Clients int
}

// Dashboard is the pages. Its methods may be called from many goroutines.
type Dashboard struct {
	cfg      Config
	sessions *sessions
	hub      *hub
	monitor  *monitor // nil without Redis
	desk     *webhook.Desk
	book     *webhook.Book
	handler  http.Handler

	look  sync.Mutex // held while NATS is asked, so that readers share one answer
	facts snapshot

	curves series
	ticks  int // seconds that Run has seen; its goroutine's

	peaksMu sync.Mutex
	peaks   map[string]float64
}

// New makes the pages. It asks nobody anything.
func New(c Config) (*Dashboard, error) {
	if c.Queue == nil || c.Results == nil || c.Access == nil || c.Fleet == nil {
		return nil, errors.New("dashboard: Queue, Results, Access and Fleet are required")
	}
	if c.Clients == 0 {
		c.Clients = 256
	}
	d := &Dashboard{cfg: c, sessions: newSessions(time.Now)}
	d.desk = newDesk(c)
	d.book = webhook.NewBook(d.desk.Endpoints)
	d.hub = newHub(c.Clients, d.render)
	if c.Redis != nil {
		m, err := newMonitor(c.Redis)
		if err != nil {
			return nil, fmt.Errorf("dashboard: %w", err)
		}
		d.monitor = m
	}
	d.handler = d.routes()
	return d, nil
}

// Handler serves /, /dashboard/… and /queues.
func (d *Dashboard) Handler() http.Handler { return d.handler }

// Run keeps open pages live until ctx ends, and then ends them, so that a server can shut down.
func (d *Dashboard) Run(ctx context.Context) error {
	defer d.hub.stop()
	if d.monitor != nil {
		defer d.monitor.close()
	}
	stop, err := d.listen()
	if err != nil {
		return fmt.Errorf("dashboard: listen to events: %w", err)
	}
	defer stop()
	d.hub.run(ctx, d.tick)
	return nil
}

// routes is every page. http.CrossOriginProtection refuses what another site's page posts, on every path.
func (d *Dashboard) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", d.guard(d.overview))
	mux.Handle("GET /dashboard/jobs/{id}", d.guard(d.job))
	mux.Handle("POST /dashboard/jobs/{id}/cancel", d.guard(d.cancel))
	mux.Handle("GET /dashboard/workers/{worker}", d.guard(d.worker))
	if d.cfg.Batches != nil && d.cfg.Files != nil {
		d.batchRoutes(mux)
	}
	d.hookRoutes(mux)
	mux.Handle("GET /dashboard/events", d.guard(d.events))
	mux.Handle("GET /dashboard/series", d.guard(d.series))
	mux.HandleFunc("GET /dashboard/login", d.loginPage)
	mux.HandleFunc("POST /dashboard/login", d.login)
	mux.HandleFunc("POST /dashboard/logout", d.logout)
	mux.HandleFunc("GET /dashboard/static/{name}", serveAsset)
	mux.Handle("GET /dashboard", http.RedirectHandler("/", http.StatusSeeOther))
	mux.Handle("GET /dashboard/{$}", http.RedirectHandler("/", http.StatusSeeOther))
	mux.HandleFunc("/dashboard/", d.notFound)
	mux.Handle("/queues", d.guard(d.queues))
	mux.Handle("/queues/", d.guard(d.queues))
	mux.HandleFunc("/", jsonNotFound)
	return secure(http.NewCrossOriginProtection().Handler(mux))
}
