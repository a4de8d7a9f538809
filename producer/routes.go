package producer

import (
	"encoding/json"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"lorry/queue"
)

// Headers of ours.
const (
	headerRequest = "X-Request-Id"
	headerJob     = "X-Lorry-Job"
	headerCache   = "X-Lorry-Cache"
)

// handler answers a request, or says why not.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"POST /v1/chat/completions":        s.work(readChat),
		"POST /v1/completions":             s.work(readCompletions),
		"POST /v1/embeddings":              s.work(readEmbeddings),
		"POST /generate":                   s.work(readGenerate),
		"POST /lorry/v1/tokenize":          s.work(readTokenize),
		"POST /lorry/v1/detokenize":        s.work(readDetokenize),
		"GET /v1/models":                   s.listModels,
		"GET /v1/models/{id...}":           s.getModel,
		"DELETE /v1/models/{id...}":        s.deleteModel,
		"GET /v1/jobs":                     s.listJobs,
		"GET /v1/jobs/{id}":                s.getJob,
		"POST /v1/jobs/{id}/cancel":        s.cancelJob,
		"POST /lorry/v1/keys":              s.createKey,
		"GET /lorry/v1/keys":               s.listKeys,
		"DELETE /lorry/v1/keys/{id}":       s.revokeKey,
		"GET /lorry/v1/tenants":            s.listTenants,
		"PATCH /lorry/v1/tenants/{tenant}": s.changeTenant,
		"GET /healthz":                     s.healthz,
		"GET /readyz":                      s.readyz,
	} {
		mux.Handle(pattern, s.answer(h))
	}
	s.hookRoutes(mux)
	s.responseRoutes(mux)
	s.chatRoutes(mux)
	if s.cfg.Weights != nil {
		mux.Handle("POST /lorry/v1/models", s.answer(s.createModel))
	}
	if s.cfg.Files != nil {
		s.fileRoutes(mux)
	}
	if s.cfg.Batches != nil {
		s.batchRoutes(mux)
	}
	if !s.cfg.NoMetrics {
		mux.Handle("GET /metrics", promhttp.Handler())
	}
	return s.observe(jsonErrors(mux))
}

func (s *Server) fileRoutes(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"POST /v1/files":             s.createFile,
		"GET /v1/files":              s.listFiles,
		"GET /v1/files/{id}":         s.getFile,
		"DELETE /v1/files/{id}":      s.deleteFile,
		"GET /v1/files/{id}/content": s.fileContent,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// answer turns an error into OpenAI's body.
func (s *Server) answer(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := sameOrigin(r)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

var crossOrigin http.CrossOriginProtection

// sameOrigin refuses what may change something from a page elsewhere: it must not submit work through the browser of
// someone who is let in.
func sameOrigin(r *http.Request) error {
	if crossOrigin.Check(r) == nil {
		return nil
	}
	return &apiError{Status: http.StatusForbidden, Type: typePermission, Code: "cross_origin", Message: "Requests from pages of another origin are refused."}
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := asAPI(err)
	if e.Status >= http.StatusInternalServerError {
		s.cfg.Log.Error().Err(err).Str("request", w.Header().Get(headerRequest)).Str("path", r.URL.Path).Msg("request failed")
	}
	e.write(w)
}

// jsonErrors answers what no route takes with OpenAI's body instead of the mux's text: 404, or 405 with Allow.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		p := probe{header: http.Header{}}
		h.ServeHTTP(&p, r)
		e := &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeURL, Message: "Invalid URL (" + r.Method + " " + clip(r.URL.Path) + ")"}
		if p.status == http.StatusMethodNotAllowed {
			allow := p.header.Get("Allow")
			w.Header().Set("Allow", allow)
			e = &apiError{Status: p.status, Type: typeInvalid, Code: codeMethod, Message: "Not allowed to " + r.Method + " on " + clip(r.URL.Path) + " (allowed: " + allow + ")"}
		}
		e.write(w)
	})
}

// probe learns a handler's status and headers, and drops its text.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(status int)      { p.status = status }

// observe names the request, and tells log and metrics how it went. Bodies are never logged.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		o := &observed{ResponseWriter: w}
		w.Header().Set(headerRequest, queue.NewID("req_"))
		defer func() {
			if p := recover(); p != nil {
				s.panicked(o, r, p)
			}
			s.tell(o, r, time.Since(began))
		}()
		next.ServeHTTP(o, r)
	})
}

// panicked is a bug of ours: one request fails, not the server. A stream that began can only be cut.
func (s *Server) panicked(o *observed, r *http.Request, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.cfg.Log.Error().Any("panic", p).Bytes("stack", debug.Stack()).Str("request", o.Header().Get(headerRequest)).Str("path", r.URL.Path).Msg("request panicked")
	if o.status != 0 {
		panic(http.ErrAbortHandler)
	}
	internal().write(o)
}

func (s *Server) tell(o *observed, r *http.Request, took time.Duration) {
	route := r.Pattern // the mux writes it there
	if route == "" {
		route = "none"
	}
	status := o.status
	if status == 0 {
		status = 499 // the client had hung up
	}
	metricRequests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	metricSeconds.WithLabelValues(route).Observe(took.Seconds())
	h, level := o.Header(), zerolog.DebugLevel
	if status >= http.StatusBadRequest {
		level = zerolog.InfoLevel
	}
	s.cfg.Log.WithLevel(level).Str("method", r.Method).Str("path", r.URL.Path).Int("status", status).Dur("took", took).Int64("bytes", o.bytes).
		Str("request", h.Get(headerRequest)).Str("job", h.Get(headerJob)).Str("cache", h.Get(headerCache)).Str("from", r.RemoteAddr).Msg("request")
}

// observed remembers what was answered.
type observed struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (o *observed) WriteHeader(status int) {
	if o.status == 0 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	n, err := o.ResponseWriter.Write(b)
	o.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// writeJSON answers with a value of ours.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("producer: " + err.Error()) // our own types: a bug
	}
	writeBytes(w, status, b)
}

func writeBytes(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that hung up
}
