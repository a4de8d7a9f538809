package producer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lorry/access"
	"lorry/batch"
	"lorry/resent"
)

// Here nobody reads batches' lines, so that all stay in validating; e2e runs them to their end.

// input uploads lines.
func (r *road) input(headers ...string) string {
	r.t.Helper()
	a := r.post("/v1/files", form(lines, forB), append(headers, "Content-Type: "+formType)...)
	id, _ := a.want(r.t, 200)["id"].(string)
	return id
}

// wish is the body of a create; more is JSON behind a comma.
func wish(file, more string) string {
	return fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/chat/completions","completion_window":"24h"%s}`, file, more)
}

func (r *road) batch(more string, headers ...string) map[string]any {
	r.t.Helper()
	return r.post("/v1/batches", wish(r.input(headers...), more), headers...).want(r.t, 200)
}

func TestBatchObject(t *testing.T) {
	r, _ := shelve(t)
	file := r.input()
	b := r.post("/v1/batches", wish(file, `,"metadata":{"a":"b"},"output_expires_after":{"anchor":"created_at","seconds":3600},"lorry":{"priority":5}`)).want(t, 200)
	want := map[string]any{"object": "batch", "endpoint": "/v1/chat/completions", "status": "validating", "input_file_id": file, "completion_window": "24h",
		"errors": nil, "output_file_id": nil, "error_file_id": nil, "in_progress_at": nil, "cancelled_at": nil}
	for k, v := range want {
		if got, there := b[k]; got != v || !there {
			t.Errorf("%s is %v, want %v", k, got, v)
		}
	}
	created, _ := b["created_at"].(float64)
	if d := time.Since(time.Unix(int64(created), 0)); d < -time.Second || d > time.Minute || b["expires_at"] != created+24*3600 {
		t.Errorf("created %v, expires %v", created, b["expires_at"])
	}
	for k, v := range map[string]string{"request_counts": `{"completed":0,"failed":0,"total":0}`, "metadata": `{"a":"b"}`, "lorry": `{"forecast":null,"paused":false,"priority":5,"retry_of":null}`,
		"usage": `{"input_tokens":0,"input_tokens_details":{"cached_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}`} {
		if got, _ := json.Marshal(b[k]); string(got) != v {
			t.Errorf("%s is %s, want %s", k, got, v)
		}
	}
	id, _ := b["id"].(string)
	if got := r.do("GET", "/v1/batches/"+id, "").want(t, 200); got["id"] != id || got["lorry"].(map[string]any)["counts"] == nil {
		t.Errorf("got %v", got)
	}
}

func TestBatchWindows(t *testing.T) {
	r, _ := shelve(t)
	file := r.input()
	for window, seconds := range map[string]float64{"24h": 86400, "1h": 3600, "90m": 5400, "7d": 7 * 86400, "30d": 30 * 86400, "1s": 1} {
		b := r.post("/v1/batches", strings.Replace(wish(file, ""), "24h", window, 1)).want(t, 200)
		if got := b["expires_at"].(float64) - b["created_at"].(float64); got != seconds || b["completion_window"] != window {
			t.Errorf("%s: %v s, %v", window, got, b["completion_window"])
		}
	}
	for _, window := range []string{"", "24", "soon", "0s", "-1h", "31d", "99999999999d", "1000ms1", "d"} {
		r.post("/v1/batches", strings.Replace(wish(file, ""), "24h", window, 1)).refused(t, 400, "invalid_value")
	}
}

func TestBatchRefused(t *testing.T) {
	r, _ := shelve(t)
	file := r.input()
	cases := map[string]struct {
		body, code, param, message string
	}{
		"no file":            {`{"endpoint":"/v1/chat/completions","completion_window":"24h"}`, "missing_required_parameter", "input_file_id", "Missing required parameter: 'input_file_id'."},
		"no endpoint":        {fmt.Sprintf(`{"input_file_id":%q,"completion_window":"24h"}`, file), "missing_required_parameter", "endpoint", ""},
		"no window":          {fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/completions"}`, file), "missing_required_parameter", "completion_window", ""},
		"unknown file":       {wish("file-00000000000000000000000000", ""), "invalid_value", "input_file_id", "No such File object: file-00000000000000000000000000"},
		"nonsense for file":  {wish("*", ""), "invalid_value", "input_file_id", "No such File object: *"},
		"other endpoint":     {strings.Replace(wish(file, ""), "/v1/chat/completions", "/v1/images/generations", 1), "invalid_value", "endpoint", "Invalid value: '/v1/images/generations'."},
		"unknown field":      {wish(file, `,"colour":"red"`), "unknown_parameter", "colour", "Unrecognized request argument supplied: colour"},
		"unknown of ours":    {wish(file, `,"lorry":{"colour":"red"}`), "unknown_parameter", "lorry.colour", ""},
		"metadata of 17":     {wish(file, `,"metadata":{`+pairs(17)+`}`), "invalid_value", "metadata", "at most 16 pairs"},
		"metadata key":       {wish(file, `,"metadata":{"`+strings.Repeat("k", 65)+`":""}`), "invalid_value", "metadata", ""},
		"metadata value":     {wish(file, `,"metadata":{"k":"`+strings.Repeat("v", 513)+`"}`), "string_above_max_length", "metadata.k", ""},
		"metadata no text":   {wish(file, `,"metadata":{"k":1}`), "invalid_type", "metadata.k", ""},
		"anchor missing":     {wish(file, `,"output_expires_after":{"seconds":3600}`), "missing_required_parameter", "output_expires_after.anchor", ""},
		"anchor wrong":       {wish(file, `,"output_expires_after":{"anchor":"now","seconds":3600}`), "invalid_value", "output_expires_after.anchor", ""},
		"expires too soon":   {wish(file, `,"output_expires_after":{"anchor":"created_at","seconds":3599}`), "integer_below_min_value", "output_expires_after.seconds", ""},
		"expires too late":   {wish(file, `,"output_expires_after":{"anchor":"created_at","seconds":2592001}`), "integer_above_max_value", "output_expires_after.seconds", ""},
		"priority":           {wish(file, `,"lorry":{"priority":101}`), "integer_above_max_value", "lorry.priority", ""},
		"webhook to nowhere": {wish(file, `,"lorry":{"webhook":{"url":"http://10.0.0.1/"}}`), "invalid_value", "lorry.webhook.url", ""},
		"no object":          {`[]`, "invalid_type", "", ""},
		"no JSON":            {`{`, "invalid_json", "", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := r.post("/v1/batches", tc.body)
			a.refused(t, 400, tc.code)
			var e struct {
				Error struct{ Param, Message string }
			}
			_ = json.Unmarshal(a.body, &e)
			if e.Error.Param != tc.param || !strings.Contains(e.Error.Message, tc.message) {
				t.Errorf("got %s, want %q and %q", a.body, tc.param, tc.message)
			}
		})
	}
	if l := r.do("GET", "/v1/batches", "").want(t, 200); len(l["data"].([]any)) != 0 {
		t.Errorf("refused ones were made: %v", l)
	}
}

// pairs are n of metadata.
func pairs(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	return strings.Join(out, ",")
}

// A create that an SDK sends again by itself, or under one key, makes one batch; two that are meant make two.
func TestBatchAgain(t *testing.T) {
	r, _ := shelve(t)
	body, again := wish(r.input(), ""), "X-Stainless-Retry-Count: 1"
	id := func(headers ...string) any { return r.post("/v1/batches", body, headers...).want(t, 200)["id"] }
	first := id("X-Stainless-Retry-Count: 0")
	if got := id(again); got != first {
		t.Errorf("a retry made %v, not %v", got, first)
	}
	second := id()
	if second == first {
		t.Error("two creates made one batch")
	}
	if got := id(again); got != second {
		t.Errorf("a retry made %v, not the last one, %v", got, second)
	}
	keyed := id("Idempotency-Key: k")
	if keyed == first || keyed == second || id("Idempotency-Key: k") != keyed || id("Idempotency-Key: k", again) != keyed {
		t.Error("one key did not make one batch of its own")
	}
	r.post("/v1/batches", wish(r.input(), ""), "Idempotency-Key: k").refused(t, 422, "idempotency_key_reused")
	if l := r.do("GET", "/v1/batches", "").want(t, 200); len(l["data"].([]any)) != 3 {
		t.Errorf("%d batches", len(l["data"].([]any)))
	}
}

func TestBatchSteps(t *testing.T) {
	r, _ := shelve(t)
	id, _ := r.batch("")["id"].(string)
	lorry := func(a answer) map[string]any { return a.want(t, 200)["lorry"].(map[string]any) }
	if x := lorry(r.post("/lorry/v1/batches/"+id+"/pause", "")); x["paused"] != true {
		t.Errorf("paused: %v", x)
	}
	if x := lorry(r.post("/lorry/v1/batches/"+id+"/resume", "{}")); x["paused"] != false {
		t.Errorf("resumed: %v", x)
	}
	b := r.do("PATCH", "/lorry/v1/batches/"+id, `{"deadline":"2h","priority":-3}`).want(t, 200)
	if left := b["expires_at"].(float64) - float64(time.Now().Unix()); left < 7100 || left > 7200 || b["lorry"].(map[string]any)["priority"] != -3.0 {
		t.Errorf("changed: %v", b)
	}
	for body, code := range map[string]string{`{}`: "missing_required_parameter", `{"colour":1}`: "unknown_parameter", `{"priority":101}`: "integer_above_max_value",
		`{"deadline":"-1h"}`: "invalid_value", `{"deadline":"721h"}`: "invalid_value", `{"priority":"high"}`: "invalid_type"} {
		r.do("PATCH", "/lorry/v1/batches/"+id, body).refused(t, 400, code)
	}
	r.post("/lorry/v1/batches/"+id+"/pause", `{"why":"x"}`).refused(t, 400, "unknown_parameter")
	for range 2 { // twice is fine
		if c := r.post("/v1/batches/"+id+"/cancel", "").want(t, 200); c["status"] != "cancelling" || c["cancelling_at"] == nil {
			t.Errorf("cancelled: %v", c)
		}
	}
	for _, step := range []string{"pause", "resume", "retry"} {
		a := r.post("/lorry/v1/batches/"+id+"/"+step, "")
		a.refused(t, 409, "")
		if !strings.Contains(string(a.body), "Cannot "+step+" a batch with status 'cancelling'.") || a.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: %s %v", step, a.body, a.header)
		}
	}
}

func TestBatchNotThere(t *testing.T) {
	r, _ := shelve(t)
	theirs := r.batch("", "Authorization: Bearer "+r.key("rival"))["id"].(string)
	mine := "Authorization: Bearer " + r.key("acme")
	for _, id := range []string{theirs, "batch_00000000000000000000000000", "nonsense", "*", "%3E"} {
		for _, call := range []string{"GET /v1/batches/ID", "POST /v1/batches/ID/cancel", "GET /lorry/v1/batches/ID/results", "POST /lorry/v1/batches/ID/retry",
			"POST /lorry/v1/batches/ID/pause", "POST /lorry/v1/batches/ID/resume", "PATCH /lorry/v1/batches/ID"} {
			method, path, _ := strings.Cut(strings.Replace(call, "ID", id, 1), " ")
			body := ""
			if method == "PATCH" {
				body = `{"priority":1}`
			}
			a := r.do(method, path, body, mine)
			a.refused(t, 404, "")
			if !strings.Contains(string(a.body), "No batch found with id '") {
				t.Errorf("%s: %s", call, a.body)
			}
		}
	}
}

// key makes one for a tenant.
func (r *road) key(tenant string) string {
	r.t.Helper()
	secret, _, err := r.access.CreateKey(r.t.Context(), access.CreateKey{Tenant: tenant})
	ok(r.t, err)
	return secret
}

func TestBatchPages(t *testing.T) {
	r, _ := shelve(t)
	var ids []string
	for range 5 {
		ids = append(ids, r.batch("")["id"].(string))
	}
	slices.Reverse(ids)
	for limit := 1; limit <= 6; limit++ {
		var got []string
		for after := ""; ; {
			page := r.do("GET", fmt.Sprintf("/v1/batches?limit=%d%s", limit, after), "").want(t, 200)
			for _, b := range page["data"].([]any) {
				got = append(got, b.(map[string]any)["id"].(string))
			}
			if page["has_more"] != (len(got) < len(ids)) {
				t.Fatalf("limit %d: has_more is %v after %d", limit, page["has_more"], len(got))
			}
			if page["has_more"] == false {
				break
			}
			after = "&after=" + page["last_id"].(string)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("limit %d: got %v, want %v", limit, got, ids)
		}
	}
	for query, code := range map[string]string{"limit=0": "integer_below_min_value", "limit=-1": "integer_below_min_value", "limit=101": "integer_above_max_value",
		"limit=x": "invalid_type", "after=nonsense": "invalid_value", "status=failed": "unknown_parameter"} {
		r.do("GET", "/v1/batches?"+query, "").refused(t, 400, code)
	}
}

// All errors of package batch have an answer that is theirs.
func TestBatchErrors(t *testing.T) {
	cases := map[string]struct {
		err    error
		status int
	}{
		"none":      {batch.ErrNoBatch, 404},
		"contended": {batch.ErrContended, 503},
		"nothing":   {batch.ErrNothing, 409},
		"mismatch":  {resent.ErrMismatch, 422},
		"file gone": {batch.ErrNotFound, 409},
		"status":    {&batch.StatusError{Do: "cancel", Status: batch.Completed}, 409},
		"invalid":   {&batch.InvalidError{Param: "deadline", Message: "m"}, 400},
	}
	for name, tc := range cases {
		e := asAPI(noBatch(fmt.Errorf("batch: %w", tc.err), "batch_x"))
		if e.Status != tc.status {
			t.Errorf("%s: %d %s", name, e.Status, e.Message)
		}
		if (e.Status == 409 || e.Status == 422) && !e.Final {
			t.Errorf("%s: the SDKs would try again", name)
		}
	}
	if e := asAPI(noBatch(&batch.StatusError{Do: "cancel", Status: batch.Completed}, "")); e.Message != "Cannot cancel a batch with status 'completed'." || e.Code != "" {
		t.Errorf("got %+v", e)
	}
}
