//go:build browser

package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// batch makes one of so many lines, each of so many words.
func (l *lorry) batch(lines, words int) (id string) {
	l.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	_ = form.WriteField("purpose", "batch")
	w, _ := form.CreateFormFile("file", "in.jsonl")
	for i := range lines {
		fmt.Fprintf(w, `{"custom_id":"line-%d","method":"POST","url":"/v1/completions","body":{"model":"echo","prompt":%q,"max_tokens":%d}}`+"\n",
			i, strings.TrimSpace(strings.Repeat("word ", words)), words)
	}
	_ = form.Close()
	var file, made struct{ ID string }
	if status := l.api(http.MethodPost, "/v1/files", b.Bytes(), &file, "Content-Type", form.FormDataContentType()); status != http.StatusOK {
		l.t.Fatalf("upload: status %d", status)
	}
	body, _ := json.Marshal(map[string]string{"input_file_id": file.ID, "endpoint": "/v1/completions", "completion_window": "24h"})
	if status := l.api(http.MethodPost, "/v1/batches", body, &made, "Content-Type", "application/json"); status != http.StatusOK {
		l.t.Fatalf("create: status %d", status)
	}
	return made.ID
}

func TestBatches(t *testing.T) {
	l := startLorry(t)
	l.register()
	b := newTab(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(l.url+"/dashboard/batches"))
	b.see(`#live[data-state="on"]`)
	eval[bool](b, `window.marker = true`)
	id := l.batch(200, 20) // more than the worker has slots: they end in waves
	row := func(state string) string { return fmt.Sprintf(`tr[data-batch="%s"][data-state="%s"]`, id, state) }
	head := func(state string) string {
		return fmt.Sprintf(`.job-head[data-batch="%s"][data-state="%s"]`, id, state)
	}
	b.see(row("in_progress"))
	b.shot("20-batches")

	b.do(chromedp.Click(chromedp.CSS(row("in_progress") + ` a.id`)))
	b.see(head("in_progress"))
	b.see(`#live[data-state="on"]`)
	b.see(`.held`)
	if why := eval[string](b, `document.querySelector(".held").textContent`); why != "No worker serves its model now." {
		t.Errorf("held back: %q", why)
	}
	b.shot("21-batch-waits")
	eval[bool](b, `window.marker = true`)
	b.do(chromedp.Click(chromedp.CSS(`#pause-` + id)))
	b.see(head("paused"))
	worker := l.worker()
	b.do(chromedp.Click(chromedp.CSS(`#resume-` + id)))
	b.see(head("in_progress"))
	b.see(`tr[data-line]`)
	b.shot("22-batch-runs")
	b.see(head("completed"))
	b.see(`a.output`)
	if far := eval[string](b, `document.querySelector(".far .meter-text").textContent`); far != "200 of 200" {
		t.Errorf("at the end: %q", far)
	}
	if !eval[bool](b, `window.marker === true`) {
		t.Error("the page was loaded again")
	}
	b.shot("23-batch-completed")

	long := l.batch(3, 600)
	b.do(chromedp.Navigate(l.url + "/dashboard/batches"))
	b.see(fmt.Sprintf(`tr[data-batch="%s"][data-state="in_progress"]`, long))
	b.do(chromedp.Click(chromedp.CSS(`#cancel-` + long)))
	b.see(fmt.Sprintf(`tr[data-batch="%s"][data-state="cancelled"]`, long))

	b.do(chromedp.Navigate(l.url + "/dashboard/files"))
	b.see(`tr[data-file]`)
	within(t, 10*time.Second, "both inputs, and the files of results, are listed", func() bool {
		return eval[int](b, `document.querySelectorAll("tr[data-file]").length`) >= 4
	})
	b.shot("24-files")
	b.scheme("dark")
	b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), chromedp.Navigate(l.url+"/dashboard/batches/"+id))
	b.see(head("completed"))
	if w := eval[int](b, `document.documentElement.scrollWidth`); w > 390 {
		t.Errorf("the page is %d wide on a screen of 390", w)
	}
	b.shot("25-batch-phone-dark")
	b.clean(strings.TrimPrefix(l.url, "http://"))
	l.stop(worker)
	l.stop(l.up)
}
