package producer

import (
	"strings"
	"testing"

	"lorry/access"
	"lorry/blob"
	"lorry/engine/echo"
	"lorry/engine/enginetest"
	"lorry/registry"
)

// TestAdapters: an admin's upload makes a model that can be listed; what is wrong leaves nothing.
func TestAdapters(t *testing.T) {
	weights, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = weights.Close() })
	r := setup(t, Config{Weights: weights})
	llama := registry.Model{Name: "llama", Base: strings.Repeat("ab", 32), Context: 2048, Runtime: "llama", File: "/on/another/host.gguf"}
	ok(t, r.models.Put(t.Context(), llama))
	admin, _, err := r.access.CreateKey(t.Context(), access.CreateKey{Tenant: "ops", Admin: true})
	ok(t, err)
	auth := "Authorization: Bearer " + admin
	good := string(enginetest.LoRA{Layers: 1, Width: 8, KV: 8, Rank: 2}.File(t))

	m := r.post("/lorry/v1/models?name=poet&base=llama", good, auth).want(t, 201)
	if m["id"] != "poet" || m["owned_by"] != "ops" || m["context_length"] != 2048.0 {
		t.Errorf("%v", m)
	}
	if got := r.do("GET", "/v1/models/poet", "", auth).want(t, 200); got["id"] != "poet" {
		t.Errorf("%v", got)
	}
	for name, c := range map[string]struct {
		query, body, auth string
		status            int
		code              string
	}{
		"no admin":       {"name=a&base=llama", good, "Authorization: Bearer " + r.key("acme"), 403, "insufficient_permissions"},
		"no name":        {"base=llama", good, auth, 400, "missing_required_parameter"},
		"no base":        {"name=a&base=", good, auth, 400, "missing_required_parameter"},
		"not a model":    {"name=a", good, auth, 400, "invalid_model"},
		"quantized":      {"name=a&base=llama&quantize=q4_0", good, auth, 400, "invalid_value"},
		"a typo":         {"name=a&bass=llama", good, auth, 400, "unknown_parameter"},
		"a bad name":     {"name=a+b&base=llama", good, auth, 400, "invalid_value"},
		"unknown base":   {"name=a&base=gpt", good, auth, 404, "model_not_found"},
		"another engine": {"name=a&base=echo", good, auth, 400, "invalid_value"},
		"a base's name":  {"name=echo&base=llama", good, auth, 400, "invalid_value"},
		"no GGUF":        {"name=a&base=llama", "hello", auth, 400, "invalid_adapter"},
	} {
		t.Run(name, func(t *testing.T) {
			r.post("/lorry/v1/models?"+c.query, c.body, c.auth).refused(t, c.status, c.code)
		})
	}
	n := 0
	for range weights.List(t.Context()) {
		n++
	}
	if n != 1 {
		t.Errorf("%d files are kept, want one", n)
	}
}

// TestDeleteModel: what was pushed goes when its owner or an admin says so; a worker's own, and another's, stay.
func TestDeleteModel(t *testing.T) {
	r := setup(t, Config{})
	admin, _, err := r.access.CreateKey(t.Context(), access.CreateKey{Tenant: "ops", Admin: true})
	ok(t, err)
	keys := map[string]string{"ops": admin, "acme": r.key("acme"), "other": r.key("other")}
	for _, name := range []string{"org/poet", "bard"} {
		ok(t, r.models.Put(t.Context(), registry.Model{Name: name, Base: echo.Base, Adapter: strings.Repeat("ab", 32), OwnedBy: "acme"}))
	}
	pushed := strings.Repeat("cd", 32)
	ok(t, r.models.Put(t.Context(), registry.Model{Name: "pushed", Base: pushed, Stored: true, OwnedBy: "ops"}))
	ok(t, r.models.Put(t.Context(), registry.Model{Name: "clerk", Base: pushed, Adapter: strings.Repeat("ef", 32), OwnedBy: "acme"}))
	del := func(who, name string) answer {
		return r.do("DELETE", "/v1/models/"+name, "", "Authorization: Bearer "+keys[who])
	}
	del("other", "bard").refused(t, 403, codeForbidden)
	del("acme", "echo").refused(t, 403, codeForbidden)
	del("ops", "echo").refused(t, 403, codeForbidden)
	del("acme", "pushed").refused(t, 403, codeForbidden)
	held := del("ops", "pushed")
	if held.refused(t, 409, codeConflict); !strings.Contains(string(held.body), "stand on it: clerk. Delete these first") {
		t.Errorf("said %s", held.body)
	}
	del("acme", "none").refused(t, 404, "model_not_found")
	del("acme", "no%20name").refused(t, 404, "model_not_found")
	for _, c := range [][2]string{{"org/poet", "acme"}, {"bard", "ops"}, {"clerk", "acme"}, {"pushed", "ops"}} {
		name, who := c[0], c[1]
		if v := del(who, name).want(t, 200); v["id"] != name || v["object"] != "model" || v["deleted"] != true {
			t.Errorf("%v", v)
		}
		del(who, name).refused(t, 404, "model_not_found")
		r.do("GET", "/v1/models/"+name, "", "Authorization: Bearer "+admin).refused(t, 404, "model_not_found")
	}
	if n := len(r.do("GET", "/v1/models", "", "Authorization: Bearer "+admin).want(t, 200)["data"].([]any)); n != 1 {
		t.Errorf("%d models are left, want echo", n)
	}
}
