package result

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lorry/engine"
	"lorry/queue"
)

func whole() *Verdict {
	return &Verdict{V: V, Job: "job_01", Tenant: "acme", Lane: queue.Flex, State: queue.Succeeded, Endpoint: queue.Chat, Encoding: Base64,
		Model: engine.Model{Name: "smollm2", Base: "b", Adapter: "a", Template: "t", Settings: "s"},
		Completion: &engine.Completion{Choices: []engine.Choice{{Text: "hi", Reasoning: "hm", Finish: engine.FinishStop, ToolCalls: []byte(`[]`),
			Logprobs: []engine.Logprob{{Token: "hi", Logprob: -0.5, Bytes: []byte("hi"), Top: []engine.Logprob{{Token: "ho", Logprob: -1}}}}}},
			Embeddings: []engine.Vector{{1, -0.5}}, Tokens: []int32{7}, Usage: engine.Usage{PromptTokens: 3, CachedTokens: 1, CompletionTokens: 2, ReasoningTokens: 1, EngineSeconds: 0.25, FirstTokenSeconds: 0.125}},
		Error:   &engine.Error{Class: engine.Internal, Code: "c", Message: "m", Param: "p", Stderr: "e"},
		Created: 1_800_000_000_000, Started: 1_800_000_000_001, Ended: 1_800_000_000_002, Attempt: 2, Worker: "w", Cached: true, Leader: "job_00", Joules: 1.5,
		CacheKey: "k", Webhook: &queue.Webhook{URL: "https://example.com", Secret: "sealed"}, Idem: &queue.Idem{Key: "k", Body: "b"},
		Metadata: map[string]string{"k": "v"}, Batch: "batch_1", Line: 3, CustomID: "c", ReplayOf: "job_0", Waited: true}
}

// TestGolden: bytes that other versions read. A change here needs a new V, and a reader of the old one.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "verdict.v1.json")
	v := whole()
	if _, err := os.Stat(path); os.IsNotExist(err) && os.Getenv("UPDATE_GOLDENS") != "" {
		if err := os.WriteFile(path, v.Encode(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(b), string(v.Encode())); d != "" {
		t.Error(d)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(v, got, cmpopts.IgnoreUnexported(Verdict{})); d != "" {
		t.Error(d)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(whole().Encode())
	f.Add([]byte(`{"v":1,"state":"succeeded","endpoint":"/generate"}`))
	f.Add([]byte(`{"v":1,"state":"succeeded","endpoint":"/v1/embeddings","completion":{"embeddings":["AACAPw=="]}}`))
	f.Add([]byte(`{"v":1,"state":"succeeded","endpoint":"/v1/embeddings","completion":{"choices":[{}],"embeddings":["AADAfw=="]}}`))
	f.Add([]byte(`{"v":1,"state":"succeeded","endpoint":"/lorry/v1/tokenize","completion":{"choices":[{}],"tokens":[1]}}`))
	f.Add([]byte(`{"v":1,"state":"succeeded","endpoint":"/lorry/v1/detokenize","completion":{"tokens":[1]}}`))
	f.Add([]byte(`{"v":1,"state":"succeeded","completion":{"choices":[]},"endpoint":"/generate"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		if status, body := Response(v); status < 200 || len(body) == 0 {
			t.Errorf("%d %q", status, body)
		}
	})
}

func TestErrorResponses(t *testing.T) {
	for class, want := range map[engine.Class]int{engine.Invalid: 400, engine.NotFound: 404, engine.Unavailable: 503, engine.Crashed: 500,
		engine.Internal: 500, engine.Cancelled: 499, engine.Expired: 408, "other": 500} {
		status, body := ErrorResponse(engine.Errorf(class, "", "", "m"))
		if status != want || len(body) == 0 {
			t.Errorf("%s: %d %s", class, status, body)
		}
	}
}
