package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// hooks is a receiver of webhooks that trusts nothing: it verifies each signature as Standard Webhooks says.
type hooks struct {
	server *httptest.Server
	secret []byte

	mu     sync.Mutex
	events map[string]map[string]int // job -> event -> deliveries
	wrong  []string
}

func newHooks(t *testing.T) *hooks {
	h := &hooks{secret: []byte("a secret of thirty-two bytes ..."), events: map[string]map[string]int{}}
	h.server = httptest.NewServer(h)
	t.Cleanup(h.server.Close)
	return h
}

// wish is what a request says under lorry.webhook.
func (h *hooks) wish() map[string]string {
	return map[string]string{"url": h.server.URL + "/hook", "secret": "whsec_" + base64.StdEncoding.EncodeToString(h.secret)}
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = h.take(r.Header, body)
	}
	if err != nil {
		h.mu.Lock()
		h.wrong = append(h.wrong, err.Error())
		h.mu.Unlock()
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (h *hooks) take(header http.Header, body []byte) error {
	var event struct {
		ID, Object, Type string
		Data             struct{ ID string }
	}
	if err := h.verify(header, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return err
	}
	if event.Object != "event" || event.Type != "lorry.job.succeeded" || event.Data.ID == "" {
		return fmt.Errorf("unexpected event %s", body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.events[event.Data.ID] == nil {
		h.events[event.Data.ID] = map[string]int{}
	}
	h.events[event.Data.ID][event.ID]++
	return nil
}

// verify recomputes the signature over "id.timestamp.body".
func (h *hooks) verify(header http.Header, body []byte) error {
	mac := hmac.New(sha256.New, h.secret)
	fmt.Fprintf(mac, "%s.%s.%s", header.Get("webhook-id"), header.Get("webhook-timestamp"), body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for got := range strings.FieldsSeq(header.Get("webhook-signature")) {
		if hmac.Equal([]byte(got), []byte(want)) {
			return nil
		}
	}
	return fmt.Errorf("event %s: no valid signature in %q", header.Get("webhook-id"), header.Get("webhook-signature"))
}

// check wants one event for each job: at least one delivery, always under the same ID.
func (h *hooks) check(t *testing.T, jobs []string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); h.missing(jobs) > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range jobs {
		if n := len(h.events[id]); n != 1 {
			t.Errorf("%s was announced by %d events, not one: %v", id, n, h.events[id])
		}
	}
	if len(h.events) != len(jobs) {
		t.Errorf("%d jobs were announced, %d asked for it", len(h.events), len(jobs))
	}
	for _, w := range h.wrong {
		t.Errorf("webhook refused: %s", w)
	}
}

func (h *hooks) missing(jobs []string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range jobs {
		if len(h.events[id]) == 0 {
			n++
		}
	}
	return n
}
