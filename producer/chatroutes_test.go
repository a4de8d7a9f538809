package producer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"lorry/engine/echo"
	"lorry/result"
)

// storing is a chat that is to be stored.
func storing(text, fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return fmt.Sprintf(`{"model":"echo","messages":[{"role":"user","content":%q}],"store":true%s}`, text, fields)
}

// stored are the IDs that a list shows.
func (r *road) stored(query string) (ids []string) {
	r.t.Helper()
	for _, c := range r.do("GET", chats+query, "").want(r.t, 200)["data"].([]any) {
		ids = append(ids, c.(map[string]any)["id"].(string))
	}
	return ids
}

func TestStoredChat(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	v := r.post(chats, storing("one two", `"temperature":0.5,"seed":-7,"metadata":{"k":"v"},"user":"u"`)).want(t, 200)
	path := chats + "/" + v["id"].(string)
	got := r.do("GET", path, "").want(t, 200)
	for k, want := range v {
		if fmt.Sprint(got[k]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, was answered %v", k, got[k], want)
		}
	}
	if dig(got, "metadata", "k") != "v" || got["temperature"] != 0.5 || got["seed"] != -7.0 || got["input_user"] != "u" || got["tools"] != nil || !strings.HasPrefix(got["request_id"].(string), "req_") {
		t.Errorf("%v", got)
	}
	if got = r.post(path, `{"metadata":{"a":"b"}}`).want(t, 200); dig(got, "metadata", "a") != "b" || dig(got, "metadata", "k") != nil {
		t.Errorf("changed: %v", got)
	}
	if got = r.do("GET", path, "").want(t, 200); dig(got, "metadata", "a") != "b" || fmt.Sprint(got["choices"]) != fmt.Sprint(v["choices"]) {
		t.Errorf("read behind the change: %v", got)
	}
	if got = r.post(path, `{"metadata":null}`).want(t, 200); len(got["metadata"].(map[string]any)) != 0 {
		t.Errorf("cleared: %v", got)
	}
	if got = r.do("DELETE", path, "").want(t, 200); got["object"] != "chat.completion.deleted" || got["deleted"] != true {
		t.Errorf("%v", got)
	}
	for _, call := range []string{"GET", "DELETE", "GET /messages"} {
		method, more, _ := strings.Cut(call, " ")
		r.do(method, path+more, "").refused(t, 404, codeNotFound)
	}
	r.post(path, `{"metadata":{}}`).refused(t, 404, codeNotFound)
}

// TestStoredChatOfOthers: no tenant sees another's.
func TestStoredChatOfOthers(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	mine, other := "Authorization: Bearer "+r.key("acme"), "Authorization: Bearer "+r.key("other")
	path := chats + "/" + r.post(chats, storing("x", ""), mine).want(t, 200)["id"].(string)
	r.do("GET", path, "", mine).want(t, 200)
	r.do("GET", path, "", other).refused(t, 404, codeNotFound)
	r.do("DELETE", path, "", other).refused(t, 404, codeNotFound)
	r.post(path, `{"metadata":{}}`, other).refused(t, 404, codeNotFound)
	r.do("GET", path+"/messages", "", other).refused(t, 404, codeNotFound)
	if got := r.do("GET", chats, "", other).want(t, 200)["data"].([]any); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// TestChatsThatAreStored: all that were asked for with store, however they were answered, and no others.
func TestChatsThatAreStored(t *testing.T) {
	for name, c := range map[string]struct {
		fields, header string
		want           int
	}{
		"waited":       {"", "", 1},
		"streamed":     {`"stream":true`, "", 1},
		"under a key":  {"", "Idempotency-Key: k", 1},
		"later":        {"", "Prefer: respond-async", 1},
		"flex":         {`"service_tier":"flex"`, "", 1},
		"told of":      {`"lorry":{"webhook":{"url":"https://example.com"}}`, "", 1},
		"said no":      {`"store":false`, "", 0},
		"not answered": {`"lorry":{"lane":"batch"}`, "Prefer: respond-async", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := answering(t)
			if name != "not answered" {
				r.echo(echo.Config{})
			}
			body := strings.Replace(storing("one two", c.fields), `"store":true,"store":false`, `"store":false`, 1)
			a := r.post(chats, body, cmp.Or(c.header, "Accept: */*"))
			if a.status > 202 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if c.header == "Idempotency-Key: k" {
				r.post(chats, body, c.header).want(t, 200)
			}
			if c.want > 0 {
				wait(t, "it is stored", func() bool { return len(r.stored("")) > 0 })
			}
			ids := r.stored("")
			if len(ids) != c.want {
				t.Fatalf("stored: %v", ids)
			}
			if c.want == 0 {
				return
			}
			v := r.do("GET", chats+"/"+ids[0], "").want(t, 200)
			if jobOf(ids[0]) != a.header.Get(headerJob) || dig(v, "choices", 0, "message", "content") != "one two" {
				t.Errorf("of job %s: %v", a.header.Get(headerJob), v)
			}
		})
	}
}

// TestCachedChatsAreStored: each request has an answer of its own, whoever computed it.
func TestCachedChatsAreStored(t *testing.T) {
	r := answering(t).echo(echo.Config{Delay: 20})
	var wg sync.WaitGroup
	for range 4 { // one computes, the others join it, or find its answer
		wg.Go(func() { r.post(chats, storing("one two", `"temperature":0`)).want(t, 200) })
	}
	wg.Wait()
	if a := r.post(chats, storing("one two", `"temperature":0`)); a.header.Get(headerCache) != "hit" {
		t.Errorf("not cached: %v", a.header)
	}
	ids := r.stored("")
	if len(ids) != 5 || r.runs.count() != 1 {
		t.Errorf("%d runs, stored %v", r.runs.count(), ids)
	}
}

func TestStoredChatList(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	var all []string
	for i := range 7 {
		v := r.post(chats, storing("x", fmt.Sprintf(`"metadata":{"n":"%d","half":"%d"}`, i, i%2))).want(t, 200)
		all = append(all, v["id"].(string))
	}
	var got []string
	for after := ""; ; {
		page := r.stored("?limit=3&after=" + after)
		if len(page) == 0 {
			break
		}
		got, after = append(got, page...), page[len(page)-1]
		r.do("DELETE", chats+"/"+after, "").want(t, 200) // a page goes on behind one that is gone
	}
	if !slices.Equal(got, all) {
		t.Errorf("pages: %v, want %v", got, all)
	}
	left := []string{all[0], all[1], all[3], all[4]} // the others were last on their page
	down := slices.Clone(left)
	slices.Reverse(down)
	for query, want := range map[string][]string{
		"": left, "?order=desc": down, "?model=echo": left, "?model=other": nil,
		"?metadata[half]=1": {all[1], all[3]}, "?metadata[half]=0&metadata[n]=4": {all[4]}, "?metadata[half]=0&metadata[n]=1": nil,
	} {
		if got := r.stored(query); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", query, got, want)
		}
	}
	for query, code := range map[string]string{"?limit=0": "integer_below_min_value", "?limit=101": "integer_above_max_value", "?order=up": codeValue,
		"?after=x": codeValue, "?before=x": codeUnknown, "?metadata=x": codeUnknown} {
		r.do("GET", chats+query, "").refused(t, 400, code)
	}
}

func TestStoredChatMessages(t *testing.T) {
	r := answering(t)
	r.work(scripted)
	v := r.post(chats, `{"model":"echo","store":true,"messages":[{"role":"system","content":"be brief"},{"role":"user","name":"Ann","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"user","content":"c"}]}`).want(t, 200)
	path := chats + "/" + v["id"].(string) + "/messages"
	all := r.do("GET", path, "").want(t, 200)
	if dig(all, "data", 0, "content") != "be brief" || dig(all, "data", 0, "content_parts") != nil || dig(all, "data", 1, "content") != "ab" ||
		dig(all, "data", 1, "content_parts", 1, "text") != "b" || dig(all, "data", 1, "name") != "Ann" || dig(all, "data", 0, "id") != v["id"].(string)+"-0" || all["has_more"] != false {
		t.Errorf("%v", all)
	}
	page := r.do("GET", path+"?limit=1&after="+dig(all, "data", 0, "id").(string), "").want(t, 200)
	if dig(page, "data", 0, "content") != "ab" || page["has_more"] != true || page["first_id"] != page["last_id"] {
		t.Errorf("%v", page)
	}
	if last := r.do("GET", path+"?order=desc", "").want(t, 200); dig(last, "data", 0, "content") != "c" {
		t.Errorf("%v", last)
	}
	r.do("GET", path+"?after=x", "").refused(t, 400, codeValue)
}

func TestStoredChatRefused(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	path := chats + "/" + r.post(chats, storing("x", "")).want(t, 200)["id"].(string)
	pairs := func(n int) string {
		var s []string
		for i := range n {
			s = append(s, fmt.Sprintf(`"k%d":"v"`, i))
		}
		return `{"metadata":{` + strings.Join(s, ",") + `}}`
	}
	for body, code := range map[string]string{
		`{}`: codeMissing, `{"metadata":[]}`: codeType, `{"metadata":{"k":1}}`: codeType, `{"metadata":{},"model":"x"}`: codeUnknown, pairs(17): codeValue,
		`{"metadata":{"` + strings.Repeat("é", 65) + `":"v"}}`: codeValue, `{"metadata":{"k":"` + strings.Repeat("é", 513) + `"}}`: "string_above_max_length",
	} {
		r.post(path, body).refused(t, 400, code)
	}
	for _, body := range []string{pairs(16), `{"metadata":{"` + strings.Repeat("é", 64) + `":"` + strings.Repeat("é", 512) + `"}}`} {
		r.post(path, body).want(t, 200)
	}
	r.post(chats, `{"model":"echo","messages":[{"role":"user","content":"x"}],"store":"yes"}`).refused(t, 400, codeType)
}

// TestChatGolden: bytes that other versions read. A change here needs a new version, and a reader of the old one.
func TestChatGolden(t *testing.T) {
	seed := int64(1)
	b, err := json.Marshal(chatRecord{V: bookV, Model: "m", Messages: json.RawMessage(`[]`), Verdict: json.RawMessage(`{}`), Echo: result.ChatEcho{RequestID: "req_1",
		Metadata: map[string]string{"k": "v"}, InputUser: json.RawMessage(`"u"`), ServiceTier: "default", Temperature: 1, TopP: 1, PresencePenalty: 1, FrequencyPenalty: 1,
		Seed: &seed, Tools: json.RawMessage(`[]`), ToolChoice: json.RawMessage(`"auto"`), ResponseFormat: json.RawMessage(`{}`)}})
	ok(t, err)
	if *update {
		ok(t, os.WriteFile("testdata/chat.v1.json", b, 0o644))
	}
	want, err := os.ReadFile("testdata/chat.v1.json")
	if ok(t, err); string(want) != string(b) {
		t.Errorf("got %s, want %s", b, want)
	}
}
