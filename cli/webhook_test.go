package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// hookCLI runs a webhook command against a client.
func hookCLI(t *testing.T, cl *Client, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "webhook", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(WebhookCommands(func(*cobra.Command) func() (Target, error) { return func() (Target, error) { return cl.target, nil } }, nil)...)
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestWebhookCommands(t *testing.T) {
	const answer = `{"id":"we_1","url":"https://example.com","events":["batch.*"],"status":"enabled","secret":"whsec_x","failing":{"paused_until":1,"error":"status 500"},` +
		`"data":[{"id":"dlv_1","url":"https://example.com","status":"given up","type":"batch.failed","attempts":[{"at":1,"status_code":500,"took_ms":7,"error":"no"}]}]}`
	for name, c := range map[string]struct {
		args       []string
		want, body string // method and path, body
		says       []string
	}{
		"create":         {[]string{"create", "https://example.com", "--events", "batch.*,response.completed"}, "POST /lorry/v1/webhooks", `{"events":["batch.*","response.completed"],"url":"https://example.com"}`, []string{"we_1", "failing", "\nwhsec_x\n"}},
		"list":           {[]string{"list"}, "GET /lorry/v1/webhooks", "", []string{"dlv_1", "given up", "https://example.com"}},
		"pause":          {[]string{"pause", "we_1"}, "PATCH /lorry/v1/webhooks/we_1", `{"status":"paused"}`, []string{"we_1"}},
		"enable":         {[]string{"enable", "we_1"}, "PATCH /lorry/v1/webhooks/we_1", `{"status":"enabled"}`, []string{"we_1"}},
		"rotate":         {[]string{"rotate", "we_1", "--overlap", "1h"}, "POST /lorry/v1/webhooks/we_1/rotate", `{"overlap_seconds":3600}`, []string{"whsec_x"}},
		"test":           {[]string{"test", "we_1", "--type", "batch.failed"}, "POST /lorry/v1/webhooks/we_1/test", `{"type":"batch.failed"}`, []string{"we_1"}},
		"deliveries":     {[]string{"deliveries", "we_1", "--limit", "5"}, "GET /lorry/v1/webhooks/we_1/deliveries?limit=5", "", []string{"dlv_1", "given up", "500", "7 ms", "no"}},
		"all deliveries": {[]string{"deliveries"}, "GET /lorry/v1/webhooks/deliveries?limit=20", "", []string{"dlv_1"}},
		"replay":         {[]string{"replay", "dlv_1"}, "POST /lorry/v1/webhooks/deliveries/dlv_1/replay", "", []string{"we_1"}},
		"delete":         {[]string{"delete", "we_1"}, "DELETE /lorry/v1/webhooks/we_1", "", []string{"deleted we_1"}},
		"as JSON":        {[]string{"list", "-o", "json"}, "GET /lorry/v1/webhooks", "", []string{`"secret": "whsec_x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, body string
			cl := server(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				asked, body = r.Method+" "+r.URL.String(), string(b)
				fmt.Fprint(w, answer)
			})
			out, err := hookCLI(t, cl, c.args...)
			if err != nil || asked != c.want || body != c.body {
				t.Errorf("%v; asked %s with %s", err, asked, body)
			}
			for _, s := range c.says {
				if !strings.Contains(out, s) {
					t.Errorf("%q is not in:\n%s", s, out)
				}
			}
		})
	}
}

func TestListenPrintsWhatIsSigned(t *testing.T) {
	verify := func(secret string, h http.Header, body []byte) error {
		if h.Get("Sig") != secret {
			return errors.New("bad signature")
		}
		return nil
	}
	const event = `{"id":"evt_1","type":"batch.completed","data":{"id":"batch_1"}}`
	for name, c := range map[string]struct {
		secret, sig, method string
		json                bool
		status              int
		says                []string
		silent              bool
	}{
		"verified":      {"s", "s", "POST", false, 200, []string{"verified", "batch.completed", "evt_1", "batch_1"}, false},
		"refused":       {"s", "x", "POST", false, 401, []string{"REFUSED: bad signature"}, false},
		"no secret":     {"", "", "POST", false, 200, []string{"unverified"}, false},
		"as JSON":       {"s", "s", "POST", true, 200, []string{event + "\n"}, false},
		"refused, JSON": {"s", "x", "POST", true, 401, nil, true},
		"a visit":       {"s", "s", "GET", false, 400, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			p := &printer{w: &out, json: c.json, secret: c.secret, verify: verify}
			r := httptest.NewRequest(c.method, "/", strings.NewReader(event))
			r.Header.Set("Sig", c.sig)
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if w.Code != c.status || c.silent != (out.Len() == 0) || slices.ContainsFunc(c.says, func(s string) bool { return !strings.Contains(out.String(), s) }) {
				t.Errorf("%d %q", w.Code, out.String())
			}
		})
	}
}

func TestListenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- listen(ctx, 0, &printer{w: io.Discard}, w) }()
	line := make([]byte, 200)
	n, err := r.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "listening on http://127.0.0.1:") {
		t.Errorf("%q, %v", line[:n], err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
