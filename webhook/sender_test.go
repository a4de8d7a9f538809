package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func sender(t *testing.T, c SenderConfig) *Sender {
	t.Helper()
	s := NewSender(c)
	t.Cleanup(s.Close)
	return s
}

func receiver(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestSendIsSignedAndStamped(t *testing.T) {
	old, fresh := NewSecret(), NewSecret()
	body := []byte(`{"id":"evt_1"}`)
	var seen *http.Request
	var got []byte
	url := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		got, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	o := sender(t, SenderConfig{Allow: loopback}).Send(t.Context(), Delivery{ID: "evt_1", URL: url + "/hook?k=v", Body: body, Secrets: []string{fresh, old}})
	if o.Kind != Delivered || o.Status != 204 || o.Err != nil {
		t.Fatalf("%+v", o)
	}
	if string(got) != string(body) || seen.Method != http.MethodPost || seen.URL.String() != "/hook?k=v" {
		t.Errorf("%s %s %s", seen.Method, seen.URL, got)
	}
	for _, s := range []string{old, fresh} {
		if err := Verify(s, seen.Header.Get(HeaderID), seen.Header.Get(HeaderTimestamp), seen.Header.Get(HeaderSignature), got, time.Now()); err != nil {
			t.Error(err)
		}
	}
	for k, want := range map[string]string{"Content-Type": "application/json", "User-Agent": "Lorry-Webhook/1", "Webhook-Id": "evt_1", "Idempotency-Key": ""} {
		if g := seen.Header.Get(k); g != want {
			t.Errorf("%s: %q, want %q", k, g, want)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header string
		want   Kind
		after  time.Duration
	}{
		"ok": {200, "", Delivered, 0}, "accepted": {202, "", Delivered, 0}, "gone": {410, "", Gone, 0},
		"redirect": {302, "", Retry, 0}, "not found": {404, "", Retry, 0}, "broken": {500, "", Retry, 0},
		"too many":            {429, "120", Retry, 2 * time.Minute},
		"away, no such value": {503, "soon", Retry, 0},
		"away, negative":      {503, "-5", Retry, 0},
		"a date gone by":      {503, "Fri, 31 Dec 1999 23:59:59 GMT", Retry, 0},
	} {
		t.Run(name, func(t *testing.T) {
			url := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", c.header)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
			})
			o := sender(t, SenderConfig{Allow: loopback}).Send(t.Context(), Delivery{ID: "evt_1", URL: url, Secrets: []string{goldenSecret}})
			if o.Kind != c.want || o.Status != c.status || o.After != c.after || (o.Err == nil) != (c.want == Delivered) {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestRetryAfterDate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := retryAfter(now.Add(time.Hour).Format(http.TimeFormat), now); got != time.Hour {
		t.Error(got)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var hits atomic.Int32
	inner := receiver(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	url := receiver(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inner, http.StatusTemporaryRedirect) })
	o := sender(t, SenderConfig{Allow: loopback}).Send(t.Context(), Delivery{ID: "evt_1", URL: url, Secrets: []string{goldenSecret}})
	if o.Kind != Retry || o.Status != 307 || hits.Load() != 0 {
		t.Errorf("%+v, %d hits", o, hits.Load())
	}
}

func TestGuardRefusesAtTheDial(t *testing.T) {
	var hits atomic.Int32
	url := receiver(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	for name, u := range map[string]string{"address": url, "name": "http://localhost:" + port, "mapped": "http://[::ffff:127.0.0.1]:" + port,
		"private": "http://10.0.0.1:" + port, "metadata": "http://169.254.169.254/"} {
		t.Run(name, func(t *testing.T) {
			o := sender(t, SenderConfig{}).Send(t.Context(), Delivery{ID: "evt_1", URL: u + "/?token=secret", Secrets: []string{goldenSecret}})
			if o.Kind != Refused || strings.Contains(o.Err.Error(), "token") {
				t.Errorf("%+v", o)
			}
		})
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests got through", hits.Load())
	}
}

// A guarded sender must not use a proxy: it would dial in our stead.
func TestNoProxyFromTheEnvironment(t *testing.T) {
	var hits atomic.Int32
	proxy := receiver(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("http_proxy", proxy)
	o := sender(t, SenderConfig{Timeout: time.Second}).Send(t.Context(), Delivery{ID: "evt_1", URL: "http://10.0.0.1/", Secrets: []string{goldenSecret}})
	if o.Kind != Refused || hits.Load() != 0 {
		t.Errorf("%+v, %d hits", o, hits.Load())
	}
}

func TestSlowAndDeadReceivers(t *testing.T) {
	block := make(chan struct{})
	slow := receiver(t, func(http.ResponseWriter, *http.Request) { <-block })
	defer close(block)
	drip := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-block
	})
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	dead := "http://" + l.Addr().String()
	_ = l.Close()
	for name, c := range map[string]struct {
		url, says string
		timeout   time.Duration // the drip's and the dead one's are what a slow machine may need
		want      Kind
	}{"slow": {slow, "no answer within 50ms", 50 * time.Millisecond, Retry}, "dead": {dead, "connection refused", time.Minute, Retry},
		"endless body": {drip, "", 3 * time.Second, Delivered}} {
		t.Run(name, func(t *testing.T) {
			o := sender(t, SenderConfig{Allow: loopback, Timeout: c.timeout}).Send(t.Context(), Delivery{ID: "evt_1", URL: c.url + "/?token=secret", Secrets: []string{goldenSecret}})
			if text := fmt.Sprint(o.Err); o.Kind != c.want || !strings.Contains(text, c.says) || strings.Contains(text, "token") {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestLongBodyIsCutOff(t *testing.T) {
	url := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	o := sender(t, SenderConfig{Allow: loopback}).Send(t.Context(), Delivery{ID: "evt_1", URL: url, Secrets: []string{goldenSecret}})
	if o.Kind != Delivered {
		t.Errorf("%+v", o)
	}
}

func TestWhatCanNeverBeSent(t *testing.T) {
	s := sender(t, SenderConfig{Allow: loopback})
	for name, d := range map[string]Delivery{
		"no secret":  {ID: "evt_1", URL: "https://example.com"},
		"bad secret": {ID: "evt_1", URL: "https://example.com", Secrets: []string{"whsec_%"}},
		"bad URL":    {ID: "evt_1", URL: "gopher://example.com", Secrets: []string{goldenSecret}},
	} {
		if o := s.Send(t.Context(), d); o.Kind != Broken || o.Err == nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	block := make(chan struct{})
	url := receiver(t, func(http.ResponseWriter, *http.Request) { <-block })
	defer close(block)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("shutting down")
	cancel(reason)
	if o := sender(t, SenderConfig{Allow: loopback}).Send(ctx, Delivery{ID: "evt_1", URL: url, Secrets: []string{goldenSecret}}); o.Kind != Retry || !errors.Is(o.Err, reason) {
		t.Errorf("%+v", o)
	}
}
