//go:build browser

package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

func row(id, state string) string {
	return fmt.Sprintf(`tr[data-job="%s"][data-state="%s"]`, id, state)
}

// watch writes down each state that a job's row is seen in, in the page itself: a state of a tenth of a second counts.
func watch(id string) string {
	return fmt.Sprintf(`(() => {
		const seen = window.seen = [];
		const look = () => {
			const r = document.querySelector('tr[data-job="%s"]');
			if (r && seen.at(-1) !== r.dataset.state) seen.push(r.dataset.state);
		};
		new MutationObserver(look).observe(document.querySelector("#jobs"), { childList: true, subtree: true });
		look();
		return true;
	})()`, id)
}

func TestDashboard(t *testing.T) {
	l := startLorry(t)
	l.register()
	b := newTab(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(l.url+"/"))
	b.see(`#live[data-state="on"]`)
	b.see(`.workers .empty`)
	b.shot("1-no-worker")
	eval[bool](b, `window.marker = true`)
	var worker *program

	t.Run("jobs move without a reload", func(t *testing.T) {
		id, other := l.submit(30), l.submit(5)
		b.see(row(id, "queued"))
		b.see(row(other, "queued"))
		eval[bool](b, watch(id))
		b.shot("2-queued")
		b.do(chromedp.Click(chromedp.CSS(`#cancel-` + other)))
		b.see(row(other, "cancelled"))
		if s := l.status(other); s != "cancelled" {
			t.Errorf("the API says %q of the job whose button was pressed", s)
		}
		worker = l.worker()
		b.see(row(id, "running"))
		b.see(`.worker .device`)
		b.shot("3-running")
		b.see(row(id, "succeeded"))
		b.shot("4-succeeded")
		if seen := strings.Join(eval[[]string](b, `window.seen`), " "); seen != "queued running succeeded" {
			t.Errorf("the row was seen as %q", seen)
		}
		if !eval[bool](b, `window.marker === true`) {
			t.Error("the page was loaded again")
		}
	})

	running := l.submit(600)
	b.see(row(running, "running"))
	t.Run("another site's page", func(t *testing.T) {
		otherSite(t, l, "/dashboard/jobs/"+running+"/cancel")
		if s := l.status(running); s != "running" {
			t.Errorf("the job is %s", s)
		}
	})
	t.Run("a running job is cancelled by the keyboard", func(t *testing.T) {
		b.do(chromedp.Focus(chromedp.CSS(`#cancel-`+running)), chromedp.KeyEvent("\r"))
		b.see(row(running, "cancelled"))
		b.shot("5-cancelled")
		if s := l.status(running); s != "cancelled" {
			t.Errorf("the API says %q", s)
		}
	})

	t.Run("a job's page is live", func(t *testing.T) {
		id := l.submit(30)
		b.do(chromedp.Navigate(l.url + "/dashboard/jobs/" + id))
		b.see(`.job-head[data-state="running"]`)
		b.shot("6-job-running")
		b.see(`.job-head[data-state="succeeded"]`)
		b.see(`.answer pre`)
		b.shot("7-job")
	})

	t.Run("on a phone, in the dark", func(t *testing.T) {
		b.scheme("dark")
		b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), chromedp.Navigate(l.url+"/"))
		b.see(`#live[data-state="on"]`)
		b.see(`#curve-tokens canvas`)
		if w := eval[int](b, `document.documentElement.scrollWidth`); w > 390 {
			t.Errorf("the page is %d wide on a screen of 390", w)
		}
		b.shot("8-phone-dark")
		b.do(chromedp.EmulateViewport(1280, 900))
		within(t, 5*time.Second, "the curves follow the screen", func() bool {
			return eval[bool](b, `document.querySelector("#curve-tokens .uplot").clientWidth > 500`)
		})
		b.shot("9-dark")
	})
	b.clean(strings.TrimPrefix(l.url, "http://"))
	l.stop(worker)
	b.see(`.workers .empty`)
	l.stop(l.up) // with a live page open
}

// otherSite is a page of another site (localhost is another than 127.0.0.1) that tries to press a button with this
// browser: by a form, and by fetch.
func otherSite(t *testing.T, l *lorry, button string) {
	target := l.url + button
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `<title>evil</title><iframe name="f"></iframe><form method="post" target="f" action="%s?by=form"><input name="tenant" value="default"></form>
			<script>document.forms[0].submit(); fetch("%s?by=fetch", {method: "POST", mode: "no-cors", credentials: "include"}).catch(() => {});</script>`, target, target)
	}))
	defer evil.Close()
	u, _ := url.Parse(evil.URL)
	b := newTab(t)
	b.do(chromedp.Navigate("http://localhost:" + u.Port()))
	for _, by := range []string{"form", "fetch"} {
		within(t, 15*time.Second, "an answer to the post by "+by, func() bool { return b.post(target+"?by="+by) != 0 })
		if s := b.post(target + "?by=" + by); s != http.StatusForbidden {
			t.Errorf("the post by %s: status %d, want 403", by, s)
		}
	}
	for name, headers := range map[string][]string{
		"a new browser's": {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"an old one's":    {"Origin", "https://evil.example"},
	} {
		if s := l.api(http.MethodPost, button, nil, nil, headers...); s != http.StatusForbidden {
			t.Errorf("%s post: status %d, want 403", name, s)
		}
	}
}

func TestSignIn(t *testing.T) {
	l := startLorry(t)
	out, err := exec.Command(l.exe, "key", "create", "--tenant", "acme", "--data", l.data).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	key := lines[len(lines)-1]
	b := newTab(t)
	within(t, 10*time.Second, "the key is known", func() bool { return l.api(http.MethodGet, "/dashboard/series", nil, nil) == http.StatusUnauthorized })
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(l.url+"/?state=running"))
	b.see(`#key`)
	b.shot("10-sign-in")
	b.do(chromedp.SendKeys(chromedp.CSS(`#key`), "lorry_wrong\r"))
	b.see(`#error`)
	b.do(chromedp.SendKeys(chromedp.CSS(`#key`), key+"\r"))
	b.see(`#live[data-state="on"]`)
	if at := eval[string](b, `location.pathname + location.search`); at != "/?state=running" {
		t.Errorf("after the login at %s", at)
	}
	if c := eval[string](b, `document.cookie`); c != "" {
		t.Errorf("scripts can read the session: %s", c)
	}
	b.see(`#curve-tokens canvas`)
	b.shot("11-tenant")
	b.do(chromedp.Click(chromedp.CSS(`form[action="/dashboard/logout"] button`)))
	b.see(`#key`)
	l.stop(l.up)
}
