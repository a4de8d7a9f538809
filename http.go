package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// web is the listener.
type web struct {
	listener net.Listener
	opened   chan struct{}
}

// url is where it is reached from this machine.
func (w *web) url() string { return "http://" + w.listener.Addr().String() }

// open begins to serve. Before that, connections wait.
func (w *web) open() { close(w.opened) }

// startHTTP listens, and adds the server to the crew; handler is asked once it is opened. It is started before the
// handlers' own parts, so that these end first: they refuse new work, finish what waits, and end open pages.
func startHTTP(c *crew, cfg *Config, log logger, handler func() http.Handler) (*web, error) {
	return startWeb(c, cfg, log, cfg.Listen, "--listen", handler)
}

// startMetrics adds what a role without an API says of itself, where that is asked for; state is what /readyz tells.
func startMetrics(c *crew, cfg *Config, log logger, state func() (string, error)) error {
	if cfg.MetricsListen == "" {
		return nil
	}
	w, err := startWeb(c, cfg, log, cfg.MetricsListen, "--metrics-listen", func() http.Handler { return withHealth(http.NotFoundHandler(), true, state) })
	if err == nil {
		w.open()
	}
	return err
}

func startWeb(c *crew, cfg *Config, log logger, at, flag string, handler func() http.Handler) (*web, error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w (choose another address with %s)", at, err, flag)
	}
	w := &web{listener: l, opened: make(chan struct{})}
	c.start("http", func(ctx context.Context) error { return w.serve(ctx, cfg, log, handler) })
	return w, nil
}

func (w *web) serve(ctx context.Context, cfg *Config, log logger, handler func() http.Handler) error {
	defer w.listener.Close()
	select {
	case <-w.opened:
	case <-ctx.Done():
		return nil
	}
	// No read or write timeout: an answer may take minutes. Headers and idle connections are bounded.
	s := &http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	s.ErrorLog = quietLog(log)
	done := make(chan error, 1)
	go func() { done <- s.Serve(w.listener) }()
	log.Info().Str("url", w.url()).Msg("listening")
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), cfg.Grace)
	defer cancel()
	err := s.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		_ = s.Close()
		err = errors.New("connections were cut at the end of the grace")
	}
	return err
}

// oneListener serves the API and the dashboard together: pages have the roots of their own, all else is the API's.
func oneListener(api, pages http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, p := range []string{"/{$}", "/dashboard", "/dashboard/", "/queues", "/queues/"} {
		mux.Handle(p, pages)
	}
	mux.Handle("/", api)
	return mux
}

// withHealth adds what probes and Prometheus ask for to a role that has no API.
func withHealth(rest http.Handler, metrics bool, state func() (string, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeStatus(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status, err := state()
		if err != nil {
			writeStatus(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		writeStatus(w, http.StatusOK, status)
	})
	if metrics {
		mux.Handle("GET /metrics", promhttp.Handler())
	}
	mux.Handle("/", rest)
	return mux
}

func writeStatus(w http.ResponseWriter, code int, status string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, "{\"status\":%q}\n", status)
}

// alwaysReady is the state of a role that takes work from its start on.
func alwaysReady() (string, error) { return "ok", nil }

// quietLog takes net/http's own messages, as of a TLS client at a plain port.
func quietLog(l logger) *stdlog.Logger { return stdlog.New(debugWriter{l}, "", 0) }

type debugWriter struct{ log logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug().Msg(strings.TrimSpace(string(b)))
	return len(b), nil
}
