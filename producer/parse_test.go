package producer

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
	"lorry/queue"
)

var testNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func testLimits() limits { return limits{maxN: 8, now: testNow} }

// parse reads a body as an endpoint does.
func parse(read reader, body string) (*order, error) {
	if err := checkText([]byte(body)); err != nil {
		return nil, err
	}
	return read([]byte(body), testLimits())
}

const hello = `"messages":[{"role":"user","content":"hi"}]`

func chatBody(fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return `{"model":"m",` + hello + fields + `}`
}

func TestChatRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		body, code, param string
		says              string
	}{
		"empty":                  {``, codeJSON, "", "line 1"},
		"not JSON":               {"{\"model\":\n  oops}", codeJSON, "", "line 2, column 3"},
		"cut short":              {`{"model":"m"`, codeJSON, "", "unexpected end"},
		"two values":             {`{} {}`, codeJSON, "", "after top-level value"},
		"an array":               {`[]`, codeType, "", "must be a JSON object"},
		"not UTF-8":              {"{\"model\":\"\xff\"}", codeJSON, "", "UTF-8"},
		"NUL by escape":          {chatBody(`"user":"a\u0000b"`), codeValue, "", "U+0000"},
		"NUL in a key":           {chatBody(`"a\u0000":1`), codeValue, "", "U+0000"},
		"NUL behind backslashes": {chatBody(`"user":"a\\\u0000"`), codeValue, "", "U+0000"},
		"NUL raw":                {chatBody("\"user\":\"a\x00b\""), codeValue, "", "U+0000"},
		"half a pair":            {chatBody(`"user":"\ud800x"`), codeValue, "", "surrogate"},
		"second half alone":      {chatBody(`"user":"\udc00"`), codeValue, "", "surrogate"},
		"too deep":               {chatBody(`"tools":` + strings.Repeat("[", 70) + strings.Repeat("]", 70)), codeValue, "", "64 levels"},
		"given twice":            {chatBody(`"n":1,"n":2`), codeValue, "n", "twice"},
		"no model":               {`{` + hello + `}`, codeMissing, "model", "Missing required parameter: 'model'."},
		"null model":             {`{"model":null,` + hello + `}`, codeMissing, "model", ""},
		"model is a number":      {`{"model":7,` + hello + `}`, codeType, "model", "expected a string, but got an integer"},
		"no messages":            {`{"model":"m"}`, codeMissing, "messages", ""},
		"empty messages":         {`{"model":"m","messages":[]}`, "empty_array", "messages", "minimum length 1"},
		"messages a string":      {`{"model":"m","messages":"hi"}`, codeType, "messages", "expected an array"},
		"a message a string":     {`{"model":"m","messages":["hi"]}`, codeType, "messages[0]", "expected an object"},
		"no role":                {`{"model":"m","messages":[{"content":"hi"}]}`, codeMissing, "messages[0].role", ""},
		"odd role":               {`{"model":"m","messages":[{"role":"boss","content":"hi"}]}`, codeValue, "messages[0].role", "'user'"},
		"no content":             {`{"model":"m","messages":[{"role":"user"}]}`, codeMissing, "messages[0].content", ""},
		"content a number":       {`{"model":"m","messages":[{"role":"user","content":1}]}`, codeType, "messages[0].content", ""},
		"content without parts":  {`{"model":"m","messages":[{"role":"user","content":[]}]}`, codeType, "messages[0].content", ""},
		"image":                  {`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}`, codeUnsupported, "messages[0].content[0].type", "image_url"},
		"part without text":      {`{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]}`, codeMissing, "messages[0].content[0].text", ""},
		"unknown field":          {chatBody(`"temprature":1`), codeUnknown, "temprature", "Unrecognized request argument supplied: temprature"},
		"other case":             {chatBody(`"Temperature":1`), codeUnknown, "Temperature", ""},
		"hot":                    {chatBody(`"temperature":2.5`), "decimal_above_max_value", "temperature", "<= 2, but got 2.5"},
		"cold":                   {chatBody(`"temperature":-1`), "decimal_below_min_value", "temperature", ">= 0"},
		"infinitely hot":         {chatBody(`"temperature":1e999`), "decimal_above_max_value", "temperature", "too large"},
		"temperature text":       {chatBody(`"temperature":"1"`), codeType, "temperature", ""},
		"top_p":                  {chatBody(`"top_p":1.1`), "decimal_above_max_value", "top_p", ""},
		"penalty":                {chatBody(`"presence_penalty":3`), "decimal_above_max_value", "presence_penalty", ""},
		"n 0":                    {chatBody(`"n":0`), "integer_below_min_value", "n", ""},
		"n 9":                    {chatBody(`"n":9`), "integer_above_max_value", "n", "<= 8"},
		"n 1.5":                  {chatBody(`"n":1.5`), codeType, "n", "an integer, but got a decimal"},
		"max_tokens 0":           {chatBody(`"max_tokens":0`), "integer_below_min_value", "max_tokens", ""},
		"max_tokens huge":        {chatBody(`"max_tokens":99999999999999999999`), "integer_above_max_value", "max_tokens", ""},
		"two maxima":             {chatBody(`"max_tokens":1,"max_completion_tokens":2`), codeCombination, "max_tokens", ""},
		"five stops":             {chatBody(`"stop":["a","b","c","d","e"]`), "array_above_max_length", "stop", "maximum length 4"},
		"empty stop":             {chatBody(`"stop":""`), codeValue, "stop", "empty"},
		"stop of numbers":        {chatBody(`"stop":[1]`), codeType, "stop", ""},
		"seed text":              {chatBody(`"seed":"x"`), codeType, "seed", ""},
		"seed of 65 bits":        {chatBody(`"seed":36893488147419103232`), codeType, "seed", ""},
		"bias of a word":         {chatBody(`"logit_bias":{"hi":1}`), codeValue, "logit_bias", "hi"},
		"bias too strong":        {chatBody(`"logit_bias":{"5":101}`), "decimal_above_max_value", "logit_bias.5", ""},
		"bias a list":            {chatBody(`"logit_bias":[1]`), codeType, "logit_bias", ""},
		"top without logprobs":   {chatBody(`"top_logprobs":3`), codeValue, "top_logprobs", ""},
		"top 21":                 {chatBody(`"logprobs":true,"top_logprobs":21`), "integer_above_max_value", "top_logprobs", ""},
		"options, no stream":     {chatBody(`"stream_options":{"include_usage":true}`), codeValue, "stream_options", ""},
		"options unknown":        {chatBody(`"stream":true,"stream_options":{"x":1}`), codeUnknown, "stream_options.x", ""},
		"tier":                   {chatBody(`"service_tier":"gold"`), codeValue, "service_tier", ""},
		"metadata of numbers":    {chatBody(`"metadata":{"a":1}`), codeType, "metadata.a", ""},
		"tools empty":            {chatBody(`"tools":[]`), "empty_array", "tools", ""},
		"tools of text":          {chatBody(`"tools":["x"]`), codeType, "tools", ""},
		"parallel, a word":       {chatBody(`"tools":[{}],"parallel_tool_calls":"no"`), codeType, "parallel_tool_calls", ""},
		"format":                 {chatBody(`"response_format":{"type":"xml"}`), codeValue, "response_format.type", ""},
		"grammar a list":         {chatBody(`"grammar":[]`), codeType, "grammar", ""},
		"grammar empty":          {chatBody(`"grammar":""`), codeValue, "grammar", "empty"},
		"grammar too long":       {chatBody(`"grammar":"` + strings.Repeat("x", 70000) + `"`), "string_above_max_length", "grammar", "65536"},
		"grammar and a format":   {chatBody(`"grammar":"x","response_format":{"type":"json_object"}`), codeCombination, "grammar", ""},
		"functions":              {chatBody(`"functions":[]`), codeUnsupported, "functions", ""},
		"audio":                  {chatBody(`"modalities":["text","audio"]`), codeUnsupported, "modalities", ""},
		"two repeat penalties":   {chatBody(`"repeat_penalty":1.1,"repetition_penalty":1.1`), codeCombination, "repetition_penalty", ""},
		"lorry unknown":          {chatBody(`"lorry":{"lanes":"flex"}`), codeUnknown, "lorry.lanes", ""},
		"lorry a string":         {chatBody(`"lorry":"flex"`), codeType, "lorry", ""},
		"lane":                   {chatBody(`"lorry":{"lane":"fast"}`), codeValue, "lorry.lane", "'interactive', 'flex', 'batch'"},
		"deadline":               {chatBody(`"lorry":{"deadline":"soon"}`), codeValue, "lorry.deadline", "10m"},
		"deadline past":          {chatBody(`"lorry":{"deadline":"2020-01-01T00:00:00Z"}`), codeValue, "lorry.deadline", "passed"},
		"deadline negative":      {chatBody(`"lorry":{"deadline":"-5m"}`), codeValue, "lorry.deadline", "passed"},
		"deadline far":           {chatBody(`"lorry":{"deadline":"9000h"}`), codeValue, "lorry.deadline", "30 days"},
		"webhook without URL":    {chatBody(`"lorry":{"webhook":{}}`), codeMissing, "lorry.webhook.url", ""},
		"webhook by ftp":         {chatBody(`"lorry":{"webhook":{"url":"ftp://a/b"}}`), codeValue, "lorry.webhook.url", "http"},
		"webhook to loopback":    {chatBody(`"lorry":{"webhook":{"url":"http://127.0.0.1/x"}}`), codeValue, "lorry.webhook.url", "LORRY_WEBHOOK_ALLOW"},
		"webhook secret":         {chatBody(`"lorry":{"webhook":{"url":"https://example.com","secret":"short"}}`), codeValue, "lorry.webhook.secret", "whsec_"},
		"webhook unknown":        {chatBody(`"lorry":{"webhook":{"url":"https://example.com","x":1}}`), codeUnknown, "lorry.webhook.x", ""},
		"replay of":              {chatBody(`"lorry":{"replay_of":"x.>"}`), codeValue, "lorry.replay_of", ""},
	} {
		t.Run(name, func(t *testing.T) { refused(t, readChat, c.body, c.code, c.param, c.says) })
	}
}

// refused wants a 400 that names its field.
func refused(t *testing.T, read reader, body, code, param, says string) {
	t.Helper()
	_, err := parse(read, body)
	e, ok := err.(*apiError)
	if !ok {
		t.Fatalf("%s: taken: %v", body, err)
	}
	if e.Status != 400 || e.Code != code || e.Param != param || !strings.Contains(e.Message, says) {
		t.Errorf("%d %s (param %q): %s\nwant 400 %s (param %q), saying %q", e.Status, e.Code, e.Param, e.Message, code, param, says)
	}
}

func TestCompletionsRefusals(t *testing.T) {
	for name, c := range map[string]struct{ fields, code, param string }{
		"no prompt":        {`"n":1`, codeMissing, "prompt"},
		"prompt an object": {`"prompt":{}`, codeType, "prompt"},
		"no prompts":       {`"prompt":[]`, codeType, "prompt"},
		"two prompts":      {`"prompt":["a","b"]`, codeUnsupported, "prompt"},
		"two of tokens":    {`"prompt":[[1],[2]]`, codeUnsupported, "prompt"},
		"mixed tokens":     {`"prompt":[1,"a"]`, codeType, "prompt"},
		"negative token":   {`"prompt":[-1]`, codeValue, "prompt"},
		"token of 33 bits": {`"prompt":[8589934592]`, codeType, "prompt"},
		"prompt of flags":  {`"prompt":[true]`, codeType, "prompt"},
		"suffix a list":    {`"prompt":"a","suffix":["b"]`, codeType, "suffix"},
		"best_of below n":  {`"prompt":"a","n":3,"best_of":2`, "integer_below_min_value", "best_of"},
		"best_of too many": {`"prompt":"a","best_of":9`, "integer_above_max_value", "best_of"},
		"best_of, stream":  {`"prompt":"a","best_of":3,"stream":true`, codeCombination, "best_of"},
		"logprobs":         {`"prompt":"a","logprobs":6`, "integer_above_max_value", "logprobs"},
		"logprobs flag":    {`"prompt":"a","logprobs":true`, codeType, "logprobs"},
		"messages":         {`"prompt":"a","messages":[]`, codeUnknown, "messages"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, readCompletions, `{"model":"m",`+c.fields+`}`, c.code, c.param, "") })
	}
}

func TestGenerateRefusals(t *testing.T) {
	for name, c := range map[string]struct{ body, code, param string }{
		"nothing":        {`{}`, codeMissing, "text"},
		"both":           {`{"text":"a","inputs":"b"}`, codeCombination, "text"},
		"a number":       {`{"text":1}`, codeType, "text"},
		"unknown":        {`{"text":"a","top_q":1}`, codeUnknown, "top_q"},
		"parameter":      {`{"inputs":"a","parameters":{"x":1}}`, codeUnknown, "parameters.x"},
		"typical_p":      {`{"inputs":"a","parameters":{"typical_p":0.5}}`, codeUnsupported, "parameters.typical_p"},
		"best_of":        {`{"inputs":"a","parameters":{"best_of":2}}`, codeUnsupported, "parameters.best_of"},
		"grammar":        {`{"inputs":"a","parameters":{"grammar":{}}}`, codeUnsupported, "parameters.grammar"},
		"max_new_tokens": {`{"inputs":"a","parameters":{"max_new_tokens":0}}`, "integer_below_min_value", "parameters.max_new_tokens"},
		"too many stops": {`{"inputs":"a","parameters":{"stop":["1","2","3","4","5"]}}`, "array_above_max_length", "parameters.stop"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, readGenerate, c.body, c.code, c.param, "") })
	}
}

// everything is a request that says all there is to say; none of it may get lost.
func TestChatReadsEverything(t *testing.T) {
	d, err := parse(readChat, chatBody(`"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"frequency_penalty":1,"presence_penalty":-1,
		"repeat_penalty":1.1,"logit_bias":{"7":-100,"8":2.5},"seed":-1,"stop":["a","\n"],"max_completion_tokens":64,"min_tokens":2,"ignore_eos":true,
		"n":3,"logprobs":true,"top_logprobs":5,"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},
		"tools":[{"type":"function", "function":{"name":"f"}}],"tool_choice":"auto","parallel_tool_calls":true,"response_format":{"type": "json_object"},
		"service_tier":"flex","metadata":{"k":"v"},"user":"u","store":true,"safety_identifier":"s","prompt_cache_key":"p","modalities":["text"],
		"lorry":{"lane":"batch","deadline":"10m","cache":true,"deterministic":true,"replay_of":"job_1","webhook":{"url":"https://example.com/hook","secret":"0123456789012345678901234567890"}}`))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &order{endpoint: queue.Chat, model: "m", stream: true, usage: true, seeded: true, cache: &yes, lane: queue.Batch, laneBy: "lorry.lane", deadline: testNow.Add(10 * time.Minute),
		webhook:  &queue.Webhook{URL: "https://example.com/hook", Secret: "0123456789012345678901234567890"},
		replayOf: "job_1", metadata: map[string]string{"k": "v"}, store: true, user: json.RawMessage(`"u"`),
		request: engine.Request{Kind: engine.Chat, Deterministic: true, Messages: json.RawMessage(`[{"role":"user","content":"hi"}]`),
			Tools: json.RawMessage(`[{"type":"function","function":{"name":"f"}}]`), ToolChoice: json.RawMessage(`"auto"`), ResponseFormat: json.RawMessage(`{"type":"json_object"}`),
			Sampling: engine.Sampling{Temperature: 0.5, TopP: 0.9, TopK: 40, MinP: 0.05, FrequencyPenalty: 1, PresencePenalty: -1, RepeatPenalty: 1.1,
				LogitBias: map[int32]float64{7: -100, 8: 2.5}, Seed: 1<<64 - 1, Stop: []string{"a", "\n"}, MaxTokens: 64, MinTokens: 2, IgnoreEOS: true,
				N: 3, Logprobs: true, TopLogprobs: 5}}}
	if diff := cmp.Diff(want, d, cmp.AllowUnexported(order{})); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	for name, c := range map[string]struct {
		read reader
		body string
		want engine.Sampling
	}{
		"chat":        {readChat, chatBody(""), engine.Sampling{Temperature: 1, TopP: 1, N: 1}},
		"nulls":       {readChat, chatBody(`"temperature":null,"stop":null,"max_tokens":null,"tools":null,"lorry":null,"metadata":null,"audio":null`), engine.Sampling{Temperature: 1, TopP: 1, N: 1}},
		"one stop":    {readChat, chatBody(`"stop":"x","top_k":-1`), engine.Sampling{Temperature: 1, TopP: 1, N: 1, Stop: []string{"x"}}},
		"completions": {readCompletions, `{"model":"m","prompt":"a"}`, engine.Sampling{Temperature: 1, TopP: 1, N: 1, MaxTokens: 16}},
		"logprobs 0":  {readCompletions, `{"model":"m","prompt":"a","logprobs":0,"best_of":1}`, engine.Sampling{Temperature: 1, TopP: 1, N: 1, MaxTokens: 16, Logprobs: true}},
		"generate":    {readGenerate, `{"text":"a"}`, engine.Sampling{TopP: 1, N: 1, MaxTokens: 100}},
		"TGI":         {readGenerate, `{"inputs":"a","parameters":{"max_new_tokens":5,"do_sample":true,"seed":7,"details":true}}`, engine.Sampling{Temperature: 1, TopP: 1, N: 1, MaxTokens: 5, Seed: 7}},
		"TGI warm":    {readGenerate, `{"inputs":"a","parameters":{"do_sample":false,"temperature":0.7,"stop":["x"]}}`, engine.Sampling{Temperature: 0.7, TopP: 1, N: 1, MaxTokens: 100, Stop: []string{"x"}}},
		"TGI top_k":   {readGenerate, `{"inputs":"a","parameters":{"top_k":5,"repetition_penalty":1.2}}`, engine.Sampling{Temperature: 1, TopK: 5, TopP: 1, N: 1, MaxTokens: 100, RepeatPenalty: 1.2}},
		"TGI nulls":   {readGenerate, `{"inputs":"a","parameters":{"temperature":null,"top_k":null,"grammar":null,"truncate":null,"watermark":false,"best_of":1}}`, engine.Sampling{TopP: 1, N: 1, MaxTokens: 100}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parse(c.read, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, d.request.Sampling); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrompts(t *testing.T) {
	for body, want := range map[string]engine.Request{
		`"a b"`:          {Prompt: "a b"},
		`["a b"]`:        {Prompt: "a b"},
		`[1, 2]`:         {Tokens: []int32{1, 2}},
		`[[1,2]]`:        {Tokens: []int32{1, 2}},
		`"\ud83d\ude00"`: {Prompt: "😀"},
	} {
		d, err := parse(readCompletions, `{"model":"m","prompt":`+body+`}`)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if d.request.Prompt != want.Prompt || !cmp.Equal(d.request.Tokens, want.Tokens) {
			t.Errorf("%s: %q %v", body, d.request.Prompt, d.request.Tokens)
		}
	}
}

func TestWebhookAllowed(t *testing.T) {
	l := testLimits()
	l.allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if _, err := readChat([]byte(chatBody(`"lorry":{"webhook":{"url":"http://127.0.0.1:9/x"}}`)), l); err != nil {
		t.Error(err)
	}
}

func TestCacheable(t *testing.T) {
	for fields, want := range map[string]bool{
		``:                                       false,
		`"temperature":0`:                        true,
		`"seed":1`:                               true,
		`"lorry":{"cache":true}`:                 true,
		`"seed":1,"lorry":{"cache":false}`:       false,
		`"temperature":0,"lorry":{"cache":null}`: true,
	} {
		d, err := parse(readChat, chatBody(fields))
		if err != nil {
			t.Fatal(err)
		}
		if d.cacheable() != want {
			t.Errorf("%s: cacheable %v", fields, !want)
		}
	}
}

func FuzzBodies(f *testing.F) {
	for _, s := range []string{chatBody(""), `{"model":"m","prompt":["a"]}`, `{"inputs":"a","parameters":{"top_k":5}}`, `{"a":"\ud83d\ude00\\u0000"}`,
		`{"model":"m","prompt":[[1,2]],"logit_bias":{"1":2}}`, `{"text":"x","lorry":{"webhook":{"url":"https://a"}}}`,
		`{"model":"m","input":["a",[1,2]],"dimensions":8}`, `{"model":"m","content":"a"}`, `{"model":"m","tokens":[1]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, read := range []reader{readChat, readCompletions, readGenerate, readEmbeddings, readTokenize, readDetokenize} {
			d, err := parse(read, body)
			if err != nil {
				if e, ok := err.(*apiError); !ok || e.Status != 400 {
					t.Fatalf("%q: %v", body, err)
				}
				continue
			}
			if err := d.request.Check(); err != nil {
				t.Fatalf("%q was taken, and no engine would: %v", body, err)
			}
			if a, b := CacheKey("t", &d.request), CacheKey("t", &d.request); a != b || len(a) != 64 {
				t.Fatalf("%q: keys %s, %s", body, a, b)
			}
		}
	})
}

// The splitter finds what encoding/json finds.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{}`, ` { "a" : 1 , "b\"}" : [ {"c":"]"} , 2 ] }`, `{"a":{"b":{"c":null}},"d":"\\"}`, `[1]`, `"x"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkText([]byte(s)) != nil {
			return
		}
		var want map[string]json.RawMessage
		m, got := members{b: []byte(s)}, map[string]json.RawMessage{}
		isObject := m.open()
		if err := json.Unmarshal([]byte(s), &want); (err == nil && want != nil) != isObject {
			t.Fatalf("%q: an object: %v", s, isObject)
		}
		for isObject && m.next() {
			got[m.name] = m.value
		}
		if isObject && !cmp.Equal(want, got) {
			t.Fatalf("%q: %s, want %s", s, got, want)
		}
	})
}
