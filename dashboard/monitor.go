package dashboard

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"

	"lorry/access"
)

// monitor is asynqmon under /queues: a power tool for what asynq carries (webhooks, sweeps). It takes POSTs that
// change queues, so it is for admins, and behind CrossOriginProtection as every path here.
type monitor struct {
	handler *asynqmon.HTTPHandler
	policy  string
}

const monitorRoot = "/queues"

func newMonitor(o asynq.RedisConnOpt) (*monitor, error) {
	h := asynqmon.New(asynqmon.Options{RootPath: monitorRoot, RedisConnOpt: o,
		PayloadFormatter: asynqmon.PayloadFormatterFunc(redact), ResultFormatter: asynqmon.ResultFormatterFunc(redact)})
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, monitorRoot, nil))
	if rec.Code != http.StatusOK {
		return nil, fmt.Errorf("asynqmon's page: status %d", rec.Code)
	}
	return &monitor{h, monitorPolicy(rec.Body.String())}, nil
}

// redact shows how much there is, and nothing of it: payloads may name customers' addresses.
func redact(_ string, payload []byte) string {
	return fmt.Sprintf("(%d bytes, not shown)", len(payload))
}

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// monitorPolicy allows the page's own inline scripts by their digests, and inline styles, which its widgets make. The
// font service that it links stays out: it would tell another company who looks, and the page works without.
func monitorPolicy(index string) string {
	scripts := []string{"'self'"}
	for _, m := range inlineScript.FindAllStringSubmatch(index, -1) {
		sum := sha256.Sum256([]byte(m[1]))
		scripts = append(scripts, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return "default-src 'none'; script-src " + strings.Join(scripts, " ") + "; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
		"font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}

func (m *monitor) close() { _ = m.handler.Close() }

func (d *Dashboard) queues(w http.ResponseWriter, r *http.Request, p access.Principal) {
	switch {
	case d.monitor == nil:
		d.problem(w, r, http.StatusNotFound, "There is no such page.")
	case !p.Admin:
		d.problem(w, r, http.StatusForbidden, "This page is for admins' keys.")
	default:
		w.Header().Set("Content-Security-Policy", d.monitor.policy)
		d.monitor.handler.ServeHTTP(w, r)
	}
}
