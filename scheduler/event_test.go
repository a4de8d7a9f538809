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
			o, err := newOutgoing(v, time.UnixMilli(1_800_000_003_000))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "outgoing_"+name+".json")
			got := outboxMsg(o).Data
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
	a, _ := newOutgoing(v, time.UnixMilli(1))
	b, _ := newOutgoing(v, time.UnixMilli(2))
	if string(a.Body) != string(b.Body) || a.ID != b.ID {
		t.Errorf("%s\n%s", a.Body, b.Body)
	}
}

func TestLongAnswerIsLeftOut(t *testing.T) {
	o, err := newOutgoing(ended(queue.Succeeded, answer(strings.Repeat("x", maxBody))), time.Now())
	if err != nil || len(o.Body) > 2048 || !strings.Contains(string(o.Body), `"id":"job_01kb2c"`) || strings.Contains(string(o.Body), "response") {
		t.Errorf("%d bytes, %v: %.300s", len(o.Body), err, o.Body)
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
