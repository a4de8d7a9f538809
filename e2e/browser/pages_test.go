//go:build browser

package browser

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestPages looks at the pages of a busy box (a worker's has a test of its own), wide and narrow, by day and by night: nothing sticks out to the side, and
// screenshots show the rest.
func TestPages(t *testing.T) {
	l := startLorry(t, loopback)
	l.register()
	l.worker()
	job, batch := l.busy()
	pages := map[string]string{"overview": "/", "job": "/dashboard/jobs/" + job, "batches": "/dashboard/batches", "batch": "/dashboard/batches/" + batch,
		"files": "/dashboard/files", "webhooks": "/dashboard/webhooks"}
	b := newTab(t)
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		for width, height := range map[int64]int64{1280: 900, 390: 844} {
			b.do(chromedp.EmulateViewport(width, height))
			for name, path := range pages {
				b.do(chromedp.Navigate(l.url + path))
				b.see(`#live[data-state="on"]`)
				if w := eval[int64](b, `document.documentElement.scrollWidth`); w > width {
					t.Errorf("%s is %d wide on a screen of %d", name, w, width)
				}
				b.shot(fmt.Sprintf("40-%s-%s-%d", name, scheme, width))
			}
		}
	}
	b.clean(strings.TrimPrefix(l.url, "http://"))
	l.stop(l.up)
}

// busy gives the box something of everything; it returns a job that has ended and a batch under way.
func (l *lorry) busy() (job, batch string) {
	l.t.Helper()
	rc := map[int]*receiver{}
	for _, status := range []int{http.StatusOK, http.StatusBadGateway, http.StatusGone} {
		rc[status] = newReceiver(l.t, status)
	}
	well := l.endpoint(rc[http.StatusOK].URL+"/hooks/lorry", "The order system", "lorry.job.*", "batch.*", "response.completed")
	gone := l.endpoint(rc[http.StatusGone].URL+"/old", "", "lorry.job.failed")
	ill := l.endpoint(rc[http.StatusBadGateway].URL+"/a/path/that/is/rather/long/and/has/no/place/to/break?token=0123456789", "", "batch.completed", "batch.failed", "batch.expired", "batch.cancelled", "response.*")
	for id, n := range map[string]int{well: 1, gone: 1, ill: 5} {
		for range n {
			l.api(http.MethodPost, "/lorry/v1/webhooks/"+id+"/test", nil, nil)
		}
	}
	idle := l.endpoint("https://example.com/hook", "", "*")
	l.api(http.MethodPatch, "/lorry/v1/webhooks/"+idle, []byte(`{"status":"paused"}`), nil, "Content-Type", "application/json")
	l.over(l.batch(40, 3), "completed")
	cancelled := l.batch(2, 600)
	l.api(http.MethodPost, "/v1/batches/"+cancelled+"/cancel", nil, nil)
	for range 6 {
		job = l.submit(3)
	}
	within(l.t, 20*time.Second, "a job has ended", func() bool { return l.status(job) == "succeeded" })
	batch = l.batch(3000, 20)
	for range 4 {
		l.submit(300)
	}
	l.over(batch, "in_progress")
	return job, batch
}

// over waits until a batch has a status.
func (l *lorry) over(id, status string) {
	l.t.Helper()
	within(l.t, 30*time.Second, "batch "+id+" is "+status, func() bool {
		var b struct{ Status string }
		l.api(http.MethodGet, "/v1/batches/"+id, nil, &b)
		return b.Status == status
	})
}
