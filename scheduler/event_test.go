package scheduler

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

var update = flag.Bool("update", false, "write the golden files")

func ended(s queue.State, mods ...func(*result.Verdict)) *result.Verdict {
	v := &result.Verdict{V: 1, Job: "job_01kb2c", Tenant: "acme", Lane: queue.Flex, State: s, Endpoint: queue.Chat,
		Model: engine.Model{Name: "smollm2", Base: strings.Repeat("ab", 32)}, Created: 1_800_000_000_123, Started: 1_800_000_001_000, Ended: 1_800_000_002_999, Attempt: 1,
		Metadata: map[string]string{"run": "7"}, Webhook: &queue.Webhook{URL: "https://example.com/hook", Secret: "sealed:v1:AAAA"}}
	for _, m := range mods {
		m(v)
	}
	return v
}

func answer(text string) func(*result.Verdict) {
	return func(v *result.Verdict) {
		v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: text, Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 2}}
	}
}

// alone is the one event of a fact that only its own webhook hears.
func alone(t *testing.T, f fact, now time.Time) webhook.Outgoing {
	t.Helper()
	out, err := f.outgoing(nil, now)
	if err != nil || len(out) != 1 {
		t.Fatalf("%d events, %v", len(out), err)
	}
	return out[0]
}

// The bytes of OUTBOX: a scheduler of the next version reads what this one wrote.
func TestOutgoingGolden(t *testing.T) {
	for name, v := range map[string]*result.Verdict{
		"succeeded": ended(queue.Succeeded, answer("<b>Grüße</b> & \"bye\"\n")),
		"failed": ended(queue.Failed, func(v *result.Verdict) {
			v.Error = engine.Errorf(engine.Invalid, engine.CodeContextLength, "messages", "too long")
		}),
		"cancelled": ended(queue.Cancelled, func(v *result.Verdict) { v.Started, v.Attempt = 0, 0 }),
		"expired":   ended(queue.Expired),
	} {
		t.Run(name, func(t *testing.T) {
			o := alone(t, fact{job: v}, time.UnixMilli(1_800_000_003_000))
			file := filepath.Join("testdata", "outgoing_"+name+".json")
			got := outboxMsg(&o).Data
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Error(d)
			}
			var back webhook.Outgoing
			if err := json.Unmarshal(want, &back); err != nil || cmp.Diff(o, back) != "" {
				t.Errorf("read back: %v %s", err, cmp.Diff(o, back))
			}
		})
	}
}

func TestEventSaysTheSameWhoeverAnnounces(t *testing.T) {
	v := ended(queue.Succeeded, answer("hi"))
	a, b := alone(t, fact{job: v}, time.UnixMilli(1)), alone(t, fact{job: v}, time.UnixMilli(2))
	if string(a.Body) != string(b.Body) || a.ID != b.ID {
		t.Errorf("%s\n%s", a.Body, b.Body)
	}
}

func TestLongAnswerIsLeftOut(t *testing.T) {
	o := alone(t, fact{job: ended(queue.Succeeded, answer(strings.Repeat("x", maxBody)))}, time.Now())
	if len(o.Body) > 2048 || !strings.Contains(string(o.Body), `"id":"job_01kb2c"`) || strings.Contains(string(o.Body), "response") {
		t.Errorf("%d bytes: %.300s", len(o.Body), o.Body)
	}
}

// Who hears of what, and under which names.
func TestWhoHears(t *testing.T) {
	to := func(id string, events ...string) webhook.Endpoint {
		return webhook.Endpoint{ID: id, Tenant: "acme", Status: webhook.Enabled, Events: events}
	}
	page := webhook.Page{"acme": {to("we_1", "*"), to("we_2", "batch.*"), to("we_3", "response.incomplete", "lorry.job.failed")}, "other": {to("we_4", "*")}}
	quiet := func(v *result.Verdict) { v.Webhook = nil }
	response := func(v *result.Verdict) { v.Endpoint = queue.Responses }
	for name, c := range map[string]struct {
		f    fact
		want []string // type, webhook-id, name
	}{
		"a job":        {fact{job: ended(queue.Succeeded, answer("hi"), quiet)}, []string{"lorry.job.succeeded evt_01kb2c dlv_01kb2c-1"}},
		"with its own": {fact{job: ended(queue.Expired)}, []string{"lorry.job.expired evt_01kb2c evt_01kb2c", "lorry.job.expired evt_01kb2c dlv_01kb2c-1"}},
		"a failed one": {fact{job: ended(queue.Failed, quiet)}, []string{"lorry.job.failed evt_01kb2c dlv_01kb2c-1", "lorry.job.failed evt_01kb2c dlv_01kb2c-3"}},
		"a response":   {fact{job: ended(queue.Cancelled, quiet, response)}, []string{"lorry.job.cancelled evt_01kb2c dlv_01kb2c-1", "response.cancelled evt_resp_01kb2c dlv_resp_01kb2c-1"}},
		"a cut response": {fact{job: ended(queue.Succeeded, answer("hi"), quiet, response, func(v *result.Verdict) { v.Completion.Choices[0].Finish = engine.FinishLength })},
			[]string{"lorry.job.succeeded evt_01kb2c dlv_01kb2c-1", "response.incomplete evt_resp_01kb2c dlv_resp_01kb2c-1", "response.incomplete evt_resp_01kb2c dlv_resp_01kb2c-3"}},
		"a batch":      {fact{batch: &result.End{Batch: "batch_7", Tenant: "acme", Status: "expired"}}, []string{"batch.expired evt_7 dlv_7-1", "batch.expired evt_7 dlv_7-2"}},
		"a stranger's": {fact{batch: &result.End{Batch: "batch_7", Tenant: "nobody", Status: "expired"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.f.outgoing(page, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range out {
				got = append(got, o.Type+" "+o.ID+" "+o.Name())
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// OpenAI's events carry the ID alone.
func TestBodiesOfOpenAIsEvents(t *testing.T) {
	page := webhook.Page{"acme": {{ID: "we_1", Status: webhook.Enabled, Events: []string{"batch.*", "response.*"}}}}
	for want, f := range map[string]fact{
		`{"id":"evt_7","object":"event","created_at":9,"type":"batch.completed","data":{"id":"batch_7"}}`:                        {batch: &result.End{Batch: "batch_7", Tenant: "acme", Status: "completed", Ended: 9000}},
		`{"id":"evt_resp_01kb2c","object":"event","created_at":1800000002,"type":"response.failed","data":{"id":"resp_01kb2c"}}`: {job: ended(queue.Failed, func(v *result.Verdict) { v.Webhook, v.Endpoint = nil, queue.Responses })},
	} {
		out, err := f.outgoing(page, time.Now())
		if err != nil || len(out) != 1 || string(out[0].Body) != want {
			t.Errorf("%+v, %v; want %s", out, err, want)
		}
	}
}

func TestHookMarkIsInEveryVerdictThatAsks(t *testing.T) {
	if b := ended(queue.Succeeded, answer("hi")).Encode(); !strings.Contains(string(b), string(hookMark)) {
		t.Errorf("%s", b)
	}
	b := ended(queue.Succeeded, answer(`"webhook":`), func(v *result.Verdict) { v.Webhook = nil }).Encode()
	if strings.Contains(string(b), string(hookMark)) {
		t.Errorf("a text looks like a mark: %s", b)
	}
}

func TestParseHook(t *testing.T) {
	for s, ok := range map[string]bool{"hook.acme.evt_1": true, "hook.acme": false, "hook.a.b.c": false, "hooks.acme.evt_1": false, "": false} {
		tenant, event, got := parseHook(s)
		if got != ok || ok && (tenant != "acme" || event != "evt_1") {
			t.Errorf("%q: %q, %q, %t", s, tenant, event, got)
		}
	}
}
