package queue

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"lorry/engine"
)

// whole is a job with every field set: the golden freezes how each is written.
func whole() Job {
	return Job{V: V, ID: "job_01", Tenant: "acme", Lane: Flex, Endpoint: Chat, Encoding: "base64", Created: 1_800_000_000_000, Deadline: 1_800_000_060_000,
		Request: engine.Request{ID: "r", Kind: engine.Chat, Model: engine.Model{Name: "smollm2", Base: "b1", Adapter: "a1", Template: "t1", Settings: "s1"},
			Scope: "acme", Messages: json.RawMessage(`[{"role":"user","content":"<hi> & bye"}]`), Prompt: "p", Suffix: "q", Tokens: []int32{1, 2},
			Inputs: []engine.Input{{Text: "a"}, {Tokens: []int32{3}}}, Dimensions: 64, OneToolCall: true, ReasoningEffort: "low",
			Tools: json.RawMessage(`[]`), ToolChoice: json.RawMessage(`"auto"`), ResponseFormat: json.RawMessage(`{"type":"text"}`), Echo: true,
			Sampling: engine.Sampling{Temperature: 0.5, TopP: 0.9, TopK: 40, MinP: 0.05, FrequencyPenalty: 0.1, PresencePenalty: 0.2, RepeatPenalty: 1.1,
				LogitBias: map[int32]float64{7: -100}, Seed: 42, Stop: []string{"END"}, MaxTokens: 10, MinTokens: 1, IgnoreEOS: true, N: 2, Logprobs: true, TopLogprobs: 3}},
		Waited: true, Stream: true, CacheKey: "c1", Webhook: &Webhook{URL: "https://example.com/hook", Secret: "sealed"}, Idem: &Idem{Key: "k", Body: "d"},
		Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Metadata: map[string]string{"k": "v"}, ReplayOf: "job_00", Batch: "batch_1", Line: 3, CustomID: "c",
		History: []Attempt{{At: 1_800_000_000_001, Worker: "w", Error: &engine.Error{Class: engine.Crashed, Code: "c", Message: "m", Param: "p", Stderr: "e"}, Solo: true}}}
}

// TestGoldens: bytes that other versions read. A change here needs a new V, and a reader of the old one.
func TestGoldens(t *testing.T) {
	job := whole()
	for name, c := range map[string]struct {
		written []byte
		read    func([]byte) (any, error)
		want    any
	}{
		"job.v1.json":      {job.Encode(), func(b []byte) (any, error) { return DecodeJob(b) }, job},
		"delivery.v1.json": {encode(Delivery{V: V, Jobs: []Job{job}}), func(b []byte) (any, error) { return DecodeDelivery(b) }, Delivery{V: V, Jobs: []Job{job}}},
	} {
		t.Run(name, func(t *testing.T) {
			golden := golden(t, name, c.written)
			if string(golden) != string(c.written) {
				t.Errorf("written:\n%s\ngolden:\n%s", c.written, golden)
			}
			got, err := c.read(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// golden is the frozen file; UPDATE_GOLDENS=1 writes one that is not there yet, never over one that is.
func golden(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); os.IsNotExist(err) && os.Getenv("UPDATE_GOLDENS") != "" {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVersions(t *testing.T) {
	for in, readable := range map[string]bool{
		`{"v":1,"id":"a"}`: true, `{"v":0,"id":"a"}`: true, `{"v":2,"id":"a"}`: false, `{"v":-1}`: false, `[]`: false, ``: false,
	} {
		if _, err := DecodeJob([]byte(in)); (err == nil) != readable {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	j := whole()
	f.Add(j.Encode())
	f.Add(encode(Delivery{V: V, Jobs: []Job{j}}))
	f.Add([]byte(`{"v":1,"jobs":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := DecodeJob(b); err == nil {
			again, err := DecodeJob(j.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(j, again, cmp.Comparer(sameJSON)); d != "" {
				t.Error(d)
			}
		}
		_, _ = DecodeDelivery(b)
	})
}

// sameJSON compares raw JSON by what it says.
func sameJSON(a, b json.RawMessage) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return string(x) == string(y) || errX != nil && errY != nil
}

func TestPack(t *testing.T) {
	jobs := make([][]byte, 70)
	for i := range jobs {
		jobs[i] = (&Job{V: V, ID: fmt.Sprint(i), Request: engine.Request{Prompt: "a\nb"}}).Encode()
	}
	jobs[40] = (&Job{V: V, ID: "40", Request: engine.Request{Prompt: strings.Repeat("x", maxDeliveryBytes)}}).Encode()
	var sizes []int
	n := 0
	for _, p := range Pack(jobs, 0) {
		sizes = append(sizes, p.Jobs)
		d, err := DecodeDelivery(p.Data)
		if err != nil || len(d.Jobs) != p.Jobs || d.Jobs[0].ID != fmt.Sprint(n) {
			t.Fatalf("parcel from job %d: %d jobs, %v", n, len(d.Jobs), err)
		}
		n += p.Jobs
	}
	if d := cmp.Diff([]int{32, 8, 1, 29}, sizes); d != "" {
		t.Error(d)
	}
}

// TestBundle: jobs share a message by place, count and size; each is told which one it went into.
func TestBundle(t *testing.T) {
	var ms []*nats.Msg
	for i := range 300 {
		j := &Job{V: V, ID: fmt.Sprint("job_", i), Tenant: []string{"a", "b", "b"}[i%3], Lane: Flex, Request: engine.Request{Prompt: "a\nb"}}
		if i == 6 {
			j.Request.Prompt = strings.Repeat("x", maxDeliveryBytes)
		}
		ms = append(ms, message(backlogOf(j), j.Encode(), HeaderJob, j.ID))
	}
	bundles, of := bundle(ms)
	got := make([][]string, len(bundles))
	for i, b := range bundles {
		for data := range Bundled(b.Data) {
			j, err := DecodeJob(data)
			if err != nil {
				t.Fatal(err)
			}
			got[i] = append(got[i], j.ID)
			if b.Subject != BacklogSubject(j.Lane, "", j.Tenant, len(slices.Collect(Bundled(b.Data)))) {
				t.Errorf("job of %s in %s", j.Tenant, b.Subject)
			}
		}
	}
	for i := range ms {
		if !slices.Contains(got[of[i]], fmt.Sprint("job_", i)) {
			t.Errorf("job_%d is not in bundle %d", i, of[i])
		}
	}
	sizes := map[int]int{}
	for _, ids := range got {
		sizes[len(ids)]++
	}
	if d := cmp.Diff(map[int]int{1: 1, 2: 1, 97: 1, 128: 1, 72: 1}, sizes); d != "" {
		t.Error(d)
	}
}
