package dashboard

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/access"
	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/registry"
	"lorry/result"
	"lorry/result/resulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a dashboard over real servers.
type house struct {
	t       *testing.T
	q       *queue.Queue
	results *result.Store
	access  *access.Store
	models  *registry.Registry
	d       *Dashboard
	srv     *httptest.Server
	client  *http.Client
}

func newHouse(t *testing.T, open bool) *house {
	t.Helper()
	h := &house{t: t, q: queuetest.New(t, queue.Config{})}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	socket := resulttest.Server(t)
	h.results = resulttest.New(t, result.Config{Queue: h.q, Redis: resulttest.Client(t, socket)})
	h.access = access.New(access.Config{JS: h.q.JS(), Open: open, Log: log})
	h.models = registry.New(registry.Config{JS: h.q.JS(), Log: log})
	h.ok(h.access.Setup(t.Context()))
	h.ok(h.models.Setup(t.Context()))
	h.run("access", h.access.Run)
	h.run("registry", h.models.Run)
	<-h.access.Ready()
	fleet, err := queue.WatchFleet(t.Context(), h.q.Conn())
	h.ok(err)
	files, batches := h.shelves()
	h.d, err = New(Config{Queue: h.q, Results: h.results, Registry: h.models, Access: h.access, Fleet: fleet, Files: files, Batches: batches,
		Redis: asynq.RedisClientOpt{Network: "unix", Addr: socket}, Log: log})
	h.ok(err)
	h.run("dashboard", h.d.Run)
	h.srv = httptest.NewServer(h.d.Handler())
	t.Cleanup(h.srv.CloseClientConnections)
	jar, _ := cookiejar.New(nil)
	h.client = &http.Client{Jar: jar, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() { h.client.CloseIdleConnections(); h.srv.CloseClientConnections(); h.srv.Close() })
	return h
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// run ends a part before the servers below it end.
func (h *house) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("%s: %v", name, err)
		}
	})
}

func (h *house) key(tenant string, admin bool) (secret, id string) {
	h.t.Helper()
	secret, k, err := h.access.CreateKey(h.t.Context(), access.CreateKey{Tenant: tenant, Admin: admin})
	h.ok(err)
	return secret, k.ID
}

// job is accepted, and waits.
func (h *house) job(tenant, id string, change func(*queue.Job)) *queue.Job {
	h.t.Helper()
	j := &queue.Job{V: queue.V, ID: id, Tenant: tenant, Lane: queue.Flex, Endpoint: queue.Chat, Created: time.Now().UnixMilli(),
		Request: engine.Request{Kind: engine.Chat, Model: engine.Model{Name: "echo", Base: strings.Repeat("ab", 32)}}}
	if change != nil {
		change(j)
	}
	h.ok(h.results.Accept(h.t.Context(), j))
	return j
}

func (h *house) state(j *queue.Job) queue.State {
	h.t.Helper()
	st, err := h.results.Get(h.t.Context(), j.Tenant, j.ID)
	h.ok(err)
	return st.State
}

// ask sends a request; headers come in pairs.
func (h *house) ask(method, path string, form url.Values, headers ...string) (*http.Response, string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.srv.URL+path, strings.NewReader(form.Encode()))
	h.ok(err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := h.client.Do(r)
	h.ok(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	h.ok(err)
	return resp, string(b)
}

// see fails unless a GET answers so, and returns the body.
func (h *house) see(path string, status int, headers ...string) string {
	h.t.Helper()
	resp, body := h.ask(http.MethodGet, path, nil, headers...)
	if resp.StatusCode != status {
		h.t.Fatalf("GET %s: status %d, want %d\n%s", path, resp.StatusCode, status, body)
	}
	return body
}

func contains(t *testing.T, body string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(body, w) {
			t.Errorf("the page lacks %q", w)
		}
	}
}

func lacks(t *testing.T, body string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(body, s) {
			t.Errorf("the page has %q", s)
		}
	}
}

func heartbeat(worker string) queue.Heartbeat {
	return queue.Heartbeat{V: 1, Worker: worker, Host: "secret-host", PID: 4242, Started: time.Now(), Models: []string{"echo"}, Engine: "echo v1 · cpu",
		Slots: 8, Busy: 3, Held: 4, TokensPerSecond: 1234.5, JobsPerSecond: 2, QueueWait: 80 * time.Millisecond,
		Devices: []queue.Device{{Index: 0, UUID: "GPU-1", Name: "NVIDIA H100", Utilization: .42, MemoryUsed: 40 << 30, MemoryTotal: 80 << 30, PowerWatts: 512, Celsius: 61},
			{Index: 1, UUID: "GPU-2", Name: "NVIDIA H100", Error: "the GPU is lost"}}}
}

// beat publishes a heartbeat and waits until the fleet has heard it.
func (h *house) beat(b queue.Heartbeat) {
	h.t.Helper()
	body, _ := json.Marshal(b)
	h.ok(h.q.Conn().Publish(queue.FleetSubject(b.Worker), body))
	for len(h.d.cfg.Fleet.Workers()) == 0 {
		h.ok(h.q.Conn().FlushTimeout(5 * time.Second))
	}
}

// outside matches what a browser would fetch from elsewhere, inline scripts, styles and handlers.
var outside = regexp.MustCompile(`(?i)(src|href|action)="(https?:)?//|<script>|<style|\sstyle="|\son[a-z]+="|javascript:`)

func TestOverview(t *testing.T) {
	h := newHouse(t, true)
	h.beat(heartbeat("w-1"))
	h.ok(h.models.Put(t.Context(), registry.Model{Name: "echo", Base: strings.Repeat("ab", 32), Context: 4096, Runtime: "echo"}))
	j := h.job("default", "job_01queued", nil)
	h.ok(h.q.Submit(t.Context(), h.job("acme", "job_01acme", nil)))
	evil := h.job("default", "job_01evil", func(j *queue.Job) { j.Request.Model.Name = `<script>alert("x")</script>` })
	resp, body := h.ask(http.MethodGet, "/", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d\n%s", resp.StatusCode, body)
	}
	contains(t, body, "w-1", "secret-host", "42 %", "40 / 80 GiB", "512 W", "highest seen: 512 W", "61 °C", "the GPU is lost", "1\u202f235", "80 ms", j.ID, evil.ID, `<option>acme`, "4096")
	lacks(t, body, "<script>alert")
	if m := outside.FindString(body); m != "" {
		t.Errorf("the page has %q: nothing inline, nothing from elsewhere", m)
	}
	want := map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
	for k, v := range want {
		if got := resp.Header.Get(k); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	contains(t, h.see("/?state=running", http.StatusOK), "No job is running.")
	h.see("/?state=nonsense", http.StatusBadRequest)
	h.see("/?tenant=A%20B", http.StatusBadRequest)
	h.see("/dashboard/nothing", http.StatusNotFound)
	contains(t, h.see("/nothing", http.StatusNotFound), `"error"`)
}

func TestJobPage(t *testing.T) {
	h := newHouse(t, true)
	j := h.job("default", "job_01done", func(j *queue.Job) { j.Metadata = map[string]string{"team": "blue"} })
	contains(t, h.see("/dashboard/jobs/"+j.ID, http.StatusOK), "Waiting", "Cancel job", "blue")
	v := result.For(j, queue.Succeeded, time.Now().UnixMilli())
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: "Hello\n  <b>there</b>", Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 2}}
	_, err := h.results.Settle(t.Context(), v)
	h.ok(err)
	body := h.see("/dashboard/jobs/"+j.ID, http.StatusOK)
	contains(t, body, "succeeded", "Hello\n  &lt;b&gt;there&lt;/b&gt;", "3 tokens", "2 tokens")
	lacks(t, body, "Cancel job", "<b>there")
	f := h.job("default", "job_01bad", nil)
	v = result.For(f, queue.Failed, time.Now().UnixMilli())
	v.Error = engine.Errorf(engine.Invalid, engine.CodeContextLength, "messages", "too long")
	_, err = h.results.Settle(t.Context(), v)
	h.ok(err)
	contains(t, h.see("/dashboard/jobs/"+f.ID, http.StatusOK), "too long", "context_length_exceeded", "messages")
	for _, id := range []string{"job_none", "nonsense", "job_%2e%2e%2f", strings.Repeat("a", 500)} {
		if resp, _ := h.ask(http.MethodGet, "/dashboard/jobs/"+id, nil); resp.StatusCode != 404 && resp.StatusCode != 400 {
			t.Errorf("job %.20q: status %d", id, resp.StatusCode)
		}
	}
}

func TestWhoMayLook(t *testing.T) {
	h := newHouse(t, true)
	admin, _ := h.key("ops", true)
	acme, acmeID := h.key("acme", false)
	h.beat(heartbeat("w-1"))
	mine, theirs := h.job("acme", "job_01mine", nil), h.job("globex", "job_01theirs", nil)
	bearer := func(k string) []string { return []string{"Authorization", "Bearer " + k} }
	tests := map[string]struct {
		path    string
		headers []string
		status  int
	}{
		"nobody, a person":                    {"/", []string{"Accept", "text/html"}, 303},
		"nobody, a program":                   {"/", nil, 401},
		"nobody, the stream":                  {"/dashboard/events", []string{"Accept", "text/event-stream"}, 401},
		"nobody, the curves":                  {"/dashboard/series", nil, 401},
		"nobody, asynqmon":                    {"/queues", nil, 401},
		"nobody, asynqmon's API":              {"/queues/api/queues", nil, 401},
		"a wrong key":                         {"/", bearer("lorry_x_y"), 401},
		"a tenant":                            {"/", bearer(acme), 200},
		"a tenant's own job":                  {"/dashboard/jobs/" + mine.ID, bearer(acme), 200},
		"another's job":                       {"/dashboard/jobs/" + theirs.ID, bearer(acme), 404},
		"another's job by its tenant":         {"/dashboard/jobs/" + theirs.ID + "?tenant=globex", bearer(acme), 403},
		"another's list":                      {"/?tenant=globex", bearer(acme), 403},
		"another's stream":                    {"/dashboard/events?tenant=globex", bearer(acme), 403},
		"a tenant at asynqmon":                {"/queues", bearer(acme), 403},
		"a tenant at asynqmon's API":          {"/queues/api/queues", bearer(acme), 403},
		"an admin":                            {"/", bearer(admin), 200},
		"an admin at another tenant's":        {"/?tenant=globex", bearer(admin), 200},
		"an admin at another tenant's job":    {"/dashboard/jobs/" + theirs.ID + "?tenant=globex", bearer(admin), 200},
		"an admin at asynqmon":                {"/queues", bearer(admin), 200},
		"an admin at asynqmon's API":          {"/queues/api/queues", bearer(admin), 200},
		"static files need no key":            {"/dashboard/static/app.css", nil, 200},
		"no other files":                      {"/dashboard/static/README.md", nil, 404},
		"no way out of the folder":            {"/dashboard/static/..%2fdashboard.go", nil, 404},
		"a session that we did not sign":      {"/", []string{"Cookie", "lorry_session_" + port(h) + "=" + acmeID + ".9999999999.AAAA"}, 401},
		"a session that another process made": {"/", []string{"Cookie", "lorry_session_" + port(h) + "=" + newSessions(time.Now).seal(acmeID)}, 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if resp, body := h.ask(http.MethodGet, tt.path, nil, tt.headers...); resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d\n%.300s", resp.StatusCode, tt.status, body)
			}
		})
	}
	body := h.see("/", http.StatusOK, bearer(acme)...)
	contains(t, body, mine.ID, "w-1")
	lacks(t, body, theirs.ID, "globex", "secret-host", "4242", "Dead letters", `href="/queues"`)
	contains(t, h.see("/?tenant=globex", http.StatusOK, bearer(admin)...), theirs.ID, "secret-host")
}

func port(h *house) string { u, _ := url.Parse(h.srv.URL); return u.Port() }

func TestSession(t *testing.T) {
	h := newHouse(t, false)
	secret, id := h.key("acme", false)
	if resp, _ := h.ask(http.MethodPost, "/dashboard/login", url.Values{"key": {"lorry_bad"}}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key: status %d", resp.StatusCode)
	}
	resp, _ := h.ask(http.MethodPost, "/dashboard/login", url.Values{"key": {" " + secret + "\n"}, "next": {"/dashboard/jobs/job_1?tenant=acme"}})
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/dashboard/jobs/job_1?tenant=acme" {
		t.Fatalf("login: status %d, to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || strings.Contains(c.Value, secret) {
		t.Errorf("cookie %+v", c)
	}
	contains(t, h.see("/", http.StatusOK), "acme", "Sign out")
	h.see("/dashboard/login", http.StatusSeeOther)
	h.ok(h.access.Revoke(t.Context(), id))
	h.see("/", http.StatusUnauthorized)
	resp, _ = h.ask(http.MethodPost, "/dashboard/logout", url.Values{})
	if cs := resp.Cookies(); len(cs) != 1 || cs[0].MaxAge >= 0 {
		t.Errorf("logout's cookies: %v", cs)
	}
}

func TestSessionsEnd(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSessions(func() time.Time { return now })
	c := s.seal("abc")
	if id, ok := s.open(c); !ok || id != "abc" {
		t.Fatalf("open() = %q, %v", id, ok)
	}
	now = now.Add(sessionLife)
	if _, ok := s.open(c); ok {
		t.Error("the session goes on after its end")
	}
}

func FuzzSession(f *testing.F) {
	s := newSessions(time.Now)
	f.Add("abc.1.AAAA")
	f.Add(newSessions(time.Now).seal("abc"))
	f.Fuzz(func(t *testing.T, c string) {
		if id, ok := s.open(c); ok {
			t.Errorf("open(%q) = %q: nobody signed it", c, id)
		}
	})
}

func TestOnlyLocalHostsWithoutKeys(t *testing.T) {
	h := newHouse(t, true)
	tests := map[string]int{"localhost:8080": 200, "127.0.0.1": 200, "[::1]:8080": 200, "lorry.localhost": 200, "192.0.2.7:8080": 200, "rebound.example:8080": 421, "localhost.example": 421}
	for host, status := range tests {
		h.see("/", status, "Host", host)
	}
	h.key("ops", true) // with a key, names are the operator's business
	h.see("/", 401, "Host", "lorry.example")
}

func TestLocal(t *testing.T) {
	tests := map[string]string{"": "/", "/": "/", "/?state=failed": "/?state=failed", "/queues/q": "/queues/q", "//evil.example": "/", "https://evil.example": "/",
		`/\evil.example`: "/", "/dashboard/jobs/job_1": "/dashboard/jobs/job_1", "/dashboard/logout": "/", "/queues\r\nX: y": "/"}
	for in, want := range tests {
		if got := local(in); got != want {
			t.Errorf("local(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCancel(t *testing.T) {
	h := newHouse(t, true)
	acme, _ := h.key("acme", false)
	admin, _ := h.key("ops", true)
	auth := []string{"Authorization", "Bearer " + acme}
	tests := map[string]struct {
		headers []string
		tenant  string
		status  int
		want    queue.State
	}{
		"the button":                      {append(auth, "HX-Request", "true", "Sec-Fetch-Site", "same-origin", "Origin", h.srv.URL), "acme", 204, queue.Cancelled},
		"without scripts":                 {append(auth, "Accept", "text/html", "Origin", h.srv.URL), "acme", 200, queue.Cancelled},
		"a program":                       {auth, "", 200, queue.Cancelled},
		"an admin":                        {[]string{"Authorization", "Bearer " + admin}, "acme", 200, queue.Cancelled},
		"an admin at the wrong tenant":    {[]string{"Authorization", "Bearer " + admin}, "", 404, queue.Queued},
		"nobody":                          {nil, "acme", 401, queue.Queued},
		"another site, new browser":       {append(auth, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), "acme", 403, queue.Queued},
		"another port of this host":       {append(auth, "Sec-Fetch-Site", "same-site", "Origin", "http://127.0.0.1:1"), "acme", 403, queue.Queued},
		"another site, old browser":       {append(auth, "Origin", "https://evil.example"), "acme", 403, queue.Queued},
		"a sandboxed frame, old browser":  {append(auth, "Origin", "null"), "acme", 403, queue.Queued},
		"another site without a key":      {[]string{"Sec-Fetch-Site", "cross-site"}, "acme", 403, queue.Queued},
		"another tenant's, by its tenant": {auth, "globex", 403, queue.Queued},
	}
	n := 0
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n++
			j := h.job("acme", fmt.Sprintf("job_01cancel%d", n), nil)
			form := url.Values{}
			if tt.tenant != "" {
				form.Set("tenant", tt.tenant)
			}
			resp, body := h.ask(http.MethodPost, "/dashboard/jobs/"+j.ID+"/cancel", form, tt.headers...)
			if resp.StatusCode != tt.status || h.state(j) != tt.want {
				t.Errorf("status %d, state %s; want %d and %s\n%.300s", resp.StatusCode, h.state(j), tt.status, tt.want, body)
			}
		})
	}
	for _, path := range []string{"/dashboard/login", "/dashboard/logout", "/queues/api/queues/default:pause"} {
		if resp, _ := h.ask(http.MethodPost, path, url.Values{}, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
			t.Errorf("POST %s from another site: status %d", path, resp.StatusCode)
		}
	}
}

// stream reads a page's live events until find says that it has seen enough.
func (h *house) stream(path string, find func(event, data string) bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.srv.URL+path, nil)
	h.ok(err)
	resp, err := h.client.Do(r)
	h.ok(err)
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "text/event-stream" {
		h.t.Fatalf("%s: status %d, %s", path, resp.StatusCode, ct)
	}
	var event string
	var data []string
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		switch line := sc.Text(); {
		case strings.HasPrefix(line, "event: "):
			event = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = append(data, line[6:])
		case line == "" && event != "":
			if find(event, strings.Join(data, "\n")) {
				return
			}
			event, data = "", nil
		}
	}
	h.t.Fatalf("%s ended before the test had seen enough: %v", path, sc.Err())
}

func TestLive(t *testing.T) {
	h := newHouse(t, true)
	j := h.job("default", "job_01live", nil)
	row := func(s queue.State) string { return fmt.Sprintf(`data-job="%s" data-state="%s"`, j.ID, s) }
	seen := map[string]bool{}
	h.stream("/dashboard/events", func(event, data string) bool {
		seen[event] = true
		if event != "jobs" {
			return false
		}
		if strings.Contains(data, row(queue.Queued)) {
			if _, err := h.results.Cancel(t.Context(), "default", j.ID); err != nil {
				t.Error(err)
			}
		}
		return strings.Contains(data, row(queue.Cancelled))
	})
	h.stream("/dashboard/events", func(event, data string) bool {
		seen[event] = true
		return len(seen) == 8
	})
	for _, s := range []string{"status", "tiles", "workers", "models", "lanes", "backlog", "jobs", "tick"} {
		if !seen[s] {
			t.Errorf("no event %q", s)
		}
	}
	h.stream("/dashboard/events?job="+j.ID, func(event, data string) bool { return event == "job" && strings.Contains(data, "cancelled") })
}

func TestLiveEndsWithItsKey(t *testing.T) {
	h := newHouse(t, false)
	secret, _ := h.key("acme", false)
	h.see("/dashboard/series", http.StatusOK, "Authorization", "Bearer "+secret)
	c, err := h.d.hub.join(scope{tenant: "acme"}, "k")
	h.ok(err)
	defer h.d.hub.leave(c)
	rec := httptest.NewRecorder()
	h.d.hub.serveEvery(rec, httptest.NewRequest(http.MethodGet, "/", nil), c, time.Millisecond, func() bool { return false })
	if got := rec.Body.String(); got != "retry: 2000\n\n" {
		t.Errorf("stream %q, want it ended at the first look at the key", got)
	}
}

func TestQueuesPage(t *testing.T) {
	h := newHouse(t, true)
	a := asynq.NewClient(h.d.cfg.Redis)
	defer a.Close()
	_, err := a.Enqueue(asynq.NewTask("webhook", []byte("https://customer.example/secret")), asynq.TaskID("evt_1"))
	h.ok(err)
	resp, body := h.ask(http.MethodGet, "/queues", nil)
	csp := resp.Header.Get("Content-Security-Policy")
	lacks(t, csp, "script-src 'self' 'unsafe-inline'", "http")
	scripts := inlineScript.FindAllStringSubmatch(body, -1)
	if len(scripts) == 0 || strings.Count(csp, "'sha256-") != len(scripts) {
		t.Errorf("%d inline scripts; policy %q", len(scripts), csp)
	}
	list := h.see("/queues/api/queues/default/pending_tasks", http.StatusOK)
	contains(t, list, "evt_1", "(31 bytes, not shown)")
	lacks(t, list, "customer.example")
	if err := h.results.Redis().(*redis.Client).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestVendoredFiles(t *testing.T) {
	readme, err := os.ReadFile("static/README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (\S+) \| \S+@\S+ \| ([0-9a-f]{64}) \|$`).FindAllStringSubmatch(string(readme), -1)
	if len(rows) != 4 {
		t.Fatalf("%d files in static/README.md, want 4", len(rows))
	}
	for _, r := range rows {
		sum := sha256.Sum256(assets[r[1]].body)
		if hex.EncodeToString(sum[:]) != r[2] {
			t.Errorf("%s is not the file that static/README.md says", r[1])
		}
	}
}

func TestAssetsAreKept(t *testing.T) {
	h := newHouse(t, true)
	for query, want := range map[string]string{"?" + assets["app.js"].digest: "public, max-age=31536000, immutable", "": "no-cache", "?old": "no-cache"} {
		resp, _ := h.ask(http.MethodGet, "/dashboard/static/app.js"+query, nil)
		if got := resp.Header.Get("Cache-Control"); got != want {
			t.Errorf("app.js%s: %q, want %q", query, got, want)
		}
		if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/javascript") {
			t.Errorf("app.js is %q", ct)
		}
	}
}

func TestFigures(t *testing.T) {
	for in, want := range map[float64]string{0: "0", .123: "0.12", 9.99: "9.99", 12.34: "12.3", 999.7: "1\u202f000", 1234567: "1\u202f234\u202f567"} {
		if got := rate(in); got != want {
			t.Errorf("rate(%v) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[[2]uint64]string{{0, 80 << 30}: "0 / 80 GiB", {3<<30 + 200<<20, 24 << 30}: "3.2 / 24 GiB", {1, 2}: "0.0 / 0.0 KiB", {512 << 30, 2 << 40}: "0.5 / 2 TiB", {1, 1 << 63}: "0.0 / 8 EiB"} {
		if got := sizeOf(in[0], in[1]); got != want {
			t.Errorf("sizeOf(%v) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[time.Duration]string{-1: "0 ms", 80 * time.Millisecond: "80 ms", 1500 * time.Millisecond: "1.5 s", 61 * time.Second: "1 m 1 s", 90 * time.Minute: "1 h 30 m", 72 * time.Hour: "3 d"} {
		if got := duration(in); got != want {
			t.Errorf("duration(%v) = %q, want %q", in, got, want)
		}
	}
}
