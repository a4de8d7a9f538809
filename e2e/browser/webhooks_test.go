//go:build browser

package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// receiver answers with a status until it is told another, and remembers the IDs of the events that it got.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	ids    []string
}

func newReceiver(t *testing.T, status int) *receiver {
	r := &receiver{status: status}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ids = append(r.ids, req.Header.Get("webhook-id"))
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.ids...)
}

// endpoint makes one and returns its ID.
func (l *lorry) endpoint(url, description string, events ...string) string {
	l.t.Helper()
	body, _ := json.Marshal(map[string]any{"url": url, "events": events, "description": description})
	var made struct{ ID string }
	if s := l.api(http.MethodPost, "/lorry/v1/webhooks", body, &made, "Content-Type", "application/json"); s != http.StatusCreated {
		l.t.Fatalf("endpoint: status %d", s)
	}
	return made.ID
}

const loopback = "--webhook-allow=127.0.0.0/8"

// A receiver fails, the page shows it; it is mended, and the event is sent again by the button.
func TestWebhooks(t *testing.T) {
	l := startLorry(t, loopback)
	l.register()
	worker := l.worker()
	rc := newReceiver(t, http.StatusInternalServerError)
	hook := l.endpoint(rc.URL, "", "lorry.job.*")
	b := newTab(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(l.url+"/dashboard/webhooks"))
	b.see(fmt.Sprintf(`tr[data-hook="%s"][data-state="enabled"]`, hook))
	b.see(`#live[data-state="on"]`)
	eval[bool](b, `window.marker = true`)
	job := l.submit(1)
	b.see(`tr[data-delivery][data-state="retrying"]`)
	if text := eval[string](b, `document.querySelector("tr[data-delivery]").textContent`); !strings.Contains(text, "lorry.job.succeeded") || !strings.Contains(text, "500") || !strings.Contains(text, job[len(job)-8:]) {
		t.Errorf("the delivery says %q", text)
	}
	b.shot("30-webhook-fails")
	failed := eval[string](b, `document.querySelector("tr[data-delivery]").dataset.delivery`)

	t.Run("another site's page", func(t *testing.T) {
		before := len(rc.got())
		for _, button := range []string{failed + "/replay", hook + "/pause", hook + "/test"} {
			otherSite(t, l, "/dashboard/webhooks/"+button)
		}
		if eval[int](b, `document.querySelectorAll("tr[data-delivery]").length`) != 1 || !eval[bool](b, `!!document.querySelector('tr[data-hook][data-state="enabled"]')`) {
			t.Errorf("something was done: %d events before, %d now", before, len(rc.got()))
		}
	})

	rc.answer(http.StatusOK)
	b.do(chromedp.Click(chromedp.CSS(`#replay-` + failed)))
	b.see(fmt.Sprintf(`tr[data-delivery][data-state="delivered"]:not([data-delivery="%s"])`, failed))
	for _, id := range rc.got() {
		if id != rc.got()[0] {
			t.Errorf("the replay has another ID: %v", rc.got())
		}
	}
	b.shot("31-webhook-replayed")

	b.do(chromedp.Click(chromedp.CSS(`#pause-` + hook)))
	b.see(fmt.Sprintf(`tr[data-hook="%s"][data-state="paused"]`, hook))
	b.do(chromedp.Click(chromedp.CSS(`#enable-` + hook)))
	b.see(fmt.Sprintf(`tr[data-hook="%s"][data-state="enabled"]`, hook))
	before := len(rc.got())
	b.do(chromedp.Click(chromedp.CSS(`#test-` + hook)))
	within(t, 10*time.Second, "the test event is there", func() bool { return len(rc.got()) > before })
	if !eval[bool](b, `window.marker === true`) {
		t.Error("the page was loaded again")
	}

	t.Run("a breaker that opens is told of", func(t *testing.T) {
		rc.answer(http.StatusBadGateway)
		for range 5 { // so many failures in a row
			l.api(http.MethodPost, "/lorry/v1/webhooks/"+hook+"/test", nil, nil)
		}
		b.see(fmt.Sprintf(`tr[data-hook="%s"][data-state="failing"]`, hook))
		b.shot("32-webhook-failing")
		b.do(chromedp.Navigate(l.url + "/"))
		b.see(`.problems`)
		if text := eval[string](b, `document.querySelector(".problems").textContent`); !strings.Contains(text, "status 502") {
			t.Errorf("the overview says %q", text)
		}
		rc.answer(http.StatusOK)
		b.do(chromedp.Navigate(l.url+"/dashboard/webhooks"), chromedp.Click(chromedp.CSS(`#enable-`+hook)))
		b.see(fmt.Sprintf(`tr[data-hook="%s"][data-state="enabled"]`, hook))
	})
	b.clean(strings.TrimPrefix(l.url, "http://"))
	l.stop(worker)
	l.stop(l.up)
}
