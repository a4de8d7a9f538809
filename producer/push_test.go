package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/access"
	"lorry/blob"
	"lorry/engine"
	"lorry/engine/enginetest"
)

// noRoom is a store on a full disk.
type noRoom struct{ blob.Store }

func (noRoom) Put(context.Context, io.Reader, int64, func(blob.Ref) error) (blob.Ref, error) {
	return blob.Ref{}, blob.ErrFull
}

// pushing is a server that takes models, and an admin.
func pushing(t *testing.T, change func(*Config)) (*road, blob.Store, string) {
	t.Helper()
	weights, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = weights.Close() })
	c := Config{Weights: weights}
	change(&c)
	r := setup(t, c)
	admin, _, err := r.access.CreateKey(t.Context(), access.CreateKey{Tenant: "ops", Admin: true})
	ok(t, err)
	return r, weights, "Authorization: Bearer " + admin
}

func files(t *testing.T, s blob.Store) (n int) {
	t.Helper()
	for _, err := range s.List(t.Context()) {
		ok(t, err)
		n++
	}
	return n
}

// TestPushModel: an admin's upload makes a model that can be listed, and asked for before a worker has it.
func TestPushModel(t *testing.T) {
	r, weights, auth := pushing(t, func(*Config) {})
	good := string(enginetest.TinyModel(t, 1))
	m := r.post("/lorry/v1/models?name=org/my:2", good, auth).want(t, 201)
	facts, _ := m["lorry"].(map[string]any)
	if m["id"] != "org/my:2" || m["owned_by"] != "ops" || facts["pushed"] != true || facts["format"] != "f16" || facts["size"] != float64(len(good)) || facts["runtime"] != "llama" {
		t.Errorf("%v", m)
	}
	if got := r.do("GET", "/v1/models/org/my:2", "", auth).want(t, 200); fmt.Sprint(got) != fmt.Sprint(m) {
		t.Errorf("got %v, want %v", got, m)
	}
	base, _ := facts["base"].(string)
	if _, err := weights.Stat(t.Context(), base); err != nil {
		t.Error(err)
	}
	bases, err := r.queue.Bases(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(bases), base[:12]) {
		t.Errorf("its jobs have no place to wait: %v, %v", bases, err)
	}
	r.post("/lorry/v1/models?name=org/my:2", good, auth).want(t, 201)
	r.post("/lorry/v1/models?name=org/my:2", string(enginetest.TinyModel(t, 2)), auth).refused(t, 400, "invalid_value")
	if n := files(t, weights); n != 1 {
		t.Errorf("%d files are kept, want one", n)
	}
}

func TestPushModelRefuses(t *testing.T) {
	good := string(enginetest.TinyModel(t, 1))
	bad := engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "model", "it ended: GGML_ASSERT")
	plain := func(*Config) {}
	for name, c := range map[string]struct {
		change      func(*Config)
		query, body string
		status      int
		code        string
	}{
		"no name":         {plain, "", good, 400, "missing_required_parameter"},
		"a typo":          {plain, "name=a&quantise=q4_0", good, 400, "unknown_parameter"},
		"an alias":        {plain, "name=a@b", good, 400, "invalid_value"},
		"a worker's own":  {plain, "name=echo", good, 400, "invalid_value"},
		"no GGUF":         {plain, "name=a", "hello", 400, "invalid_model"},
		"cut off":         {plain, "name=a", good[:len(good)-1], 400, "invalid_model"},
		"too long":        {func(c *Config) { c.MaxModel = int64(len(good)) - 1 }, "name=a", good, 413, "request_too_large"},
		"no room":         {func(c *Config) { c.Weights = noRoom{c.Weights} }, "name=a", good, 507, "insufficient_storage"},
		"refused":         {func(c *Config) { c.TryModel = func(context.Context, string) error { return bad } }, "name=a", good, 400, "invalid_model"},
		"not tried":       {func(c *Config) { c.TryModel = func(context.Context, string) error { return engine.ErrUnavailable } }, "name=a", good, 503, "service_unavailable"},
		"no engine":       {plain, "name=a&quantize=q4_0", good, 400, "invalid_value"},
		"again, what":     {plain, "name=a&requantize=true", good, 400, "invalid_value"},
		"neither yes, no": {plain, "name=a&quantize=q4_0&requantize=2", good, 400, "invalid_value"},
	} {
		t.Run(name, func(t *testing.T) {
			r, weights, auth := pushing(t, c.change)
			r.post("/lorry/v1/models?"+c.query, c.body, auth).refused(t, c.status, c.code)
			if n := files(t, weights); n != 0 {
				t.Errorf("%d files are kept", n)
			}
		})
	}
}

// TestPushCutOff: a push whose client goes half-way leaves nothing, and the same push does then.
func TestPushCutOff(t *testing.T) {
	dir := t.TempDir()
	weights, err := blob.OpenDir(blob.DirConfig{Dir: dir, MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = weights.Close() })
	r, _, auth := pushing(t, func(c *Config) { c.Weights = weights })
	file := string(enginetest.TinyModel(t, 1))
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	ok(t, err)
	_, err = fmt.Fprintf(c, "POST /lorry/v1/models?name=my HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: %d\r\n\r\n%s", auth, len(file), file[:len(file)/2])
	ok(t, err)
	wait(t, "the push has begun", func() bool { return !r.server.held0() })
	ok(t, c.Close())
	wait(t, "the push is over", r.server.held0)
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 || err != nil || files(t, weights) != 0 {
		t.Errorf("left are %v, %v, and %d files are kept", left, err, files(t, weights))
	}
	r.do("GET", "/v1/models/my", "", auth).refused(t, 404, "model_not_found")
	r.post("/lorry/v1/models?name=my", file, auth).want(t, 201)
	if n := files(t, weights); n != 1 {
		t.Errorf("%d files are kept", n)
	}
}

// TestPushQuantized: the server's engine makes what is served; what it refuses is the client's fault.
func TestPushQuantized(t *testing.T) {
	small := string(enginetest.TinyModel(t, 2))
	r, weights, auth := pushing(t, func(c *Config) {
		c.QuantizeModel = func(_ context.Context, digest, to string, again bool) (io.ReadCloser, error) {
			switch {
			case to == "q9":
				return nil, engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "quantize", "the format q9 is not known")
			case again:
				return nil, errors.New("the engine's process ended")
			}
			return io.NopCloser(strings.NewReader(small)), nil
		}
	})
	r.post("/lorry/v1/models?name=my&quantize=q9", string(enginetest.TinyModel(t, 1)), auth).refused(t, 400, "invalid_model")
	r.post("/lorry/v1/models?name=my&quantize=q4_0&requantize=true", string(enginetest.TinyModel(t, 1)), auth).refused(t, 500, "internal_error")
	m := r.post("/lorry/v1/models?name=my&quantize=q4_0", string(enginetest.TinyModel(t, 1)), auth).want(t, 201)
	facts, _ := m["lorry"].(map[string]any)
	if source, _ := facts["source"].(string); !blob.Valid(source) || facts["size"] != float64(len(small)) || files(t, weights) != 1 {
		t.Errorf("%v, and %d files are kept", m, files(t, weights))
	}
}
