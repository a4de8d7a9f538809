//go:build browser

package browser

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The page of a worker on llama.cpp shows what its loop does, step after step, without a reload.
func TestWorkerPage(t *testing.T) {
	l := startLorry(t)
	l.run("worker", "--engine", "llama", "--data", l.data, "--threads", "1", "--slots", "4")
	within(t, 60*time.Second, "a worker is there", func() bool { return l.api(http.MethodGet, "/readyz", nil, nil) == http.StatusOK })
	b := newTab(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(l.url+"/"))
	b.see(`.worker h3 a`)
	b.do(chromedp.Click(chromedp.CSS(`.worker h3 a`)))
	b.see(`[data-loop]`)
	b.see(`#live[data-state="on"]`)
	eval[bool](b, `window.marker = true`)
	before := steps(b)
	var job struct {
		ID string `json:"id"`
	}
	body := []byte(`{"model":"smollm2","prompt":"Once upon a time","max_tokens":1500,"temperature":0,"ignore_eos":true}`)
	if s := l.api(http.MethodPost, "/v1/completions", body, &job, "Prefer", "respond-async", "Content-Type", "application/json"); s != http.StatusAccepted {
		t.Fatalf("submit: %d", s)
	}
	b.see(`tr[data-sequence="` + job.ID + `"]`)
	b.see(`tr[data-part="Compute"]`)
	within(t, 20*time.Second, "the page counts on", func() bool { return steps(b) > before+10 })
	b.shot("12-worker-loop")
	if !eval[bool](b, `window.marker === true`) {
		t.Error("the page was loaded again")
	}
	b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	if w := eval[int](b, `document.documentElement.scrollWidth`); w > 390 {
		t.Errorf("the page is %d wide on a screen of 390", w)
	}
	b.shot("13-worker-phone")
	if s := l.api(http.MethodPost, "/dashboard/jobs/"+job.ID+"/cancel", nil, nil); s/100 > 3 {
		t.Errorf("cancel: %d", s)
	}
	within(t, 20*time.Second, "the row goes", func() bool { return !eval[bool](b, `!!document.querySelector("tr[data-sequence]")`) })
	b.clean(strings.TrimPrefix(l.url, "http://"))
	l.stop(l.up)
}

// steps is how many the page says that the engine has taken.
func steps(b *tab) int {
	b.t.Helper()
	n, err := strconv.Atoi(eval[string](b, `document.querySelector("[data-loop]").dataset.loop`))
	if err != nil {
		return 0
	}
	return n
}
