package registry

import (
	"encoding/json"
	"testing"
)

// What the bucket holds: the next version of this program reads these bytes.
func TestModelGolden(t *testing.T) {
	m := Model{V: 1, Name: "org/m:2", Base: base, Adapter: other, Template: base, Settings: other, Context: 2048, Runtime: "llama", File: "m.gguf", Created: 1_800_000_000, OwnedBy: "acme",
		Stored: true, Size: 1 << 30, Format: "q4_0", Source: other, KV: 23040}
	want := `{"v":1,"name":"org/m:2","base":"` + base + `","adapter":"` + other + `","template":"` + base + `","settings":"` + other +
		`","context":2048,"runtime":"llama","file":"m.gguf","created":1800000000,"owned_by":"acme","stored":true,"size":1073741824,"format":"q4_0","source":"` + other + `","kv":23040}`
	if got := string(encode(m)); got != want {
		t.Errorf("wrote %s", got)
	}
	var back Model
	if err := json.Unmarshal([]byte(want), &back); err != nil || back != m {
		t.Errorf("read %+v, %v", back, err)
	}
}
