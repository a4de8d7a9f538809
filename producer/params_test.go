package producer

import (
	"reflect"
	"testing"

	"lorry/engine"
)

// fate is what becomes of a parameter.
type fate int

const (
	// matters: the request that engines get, or how the answer travels, is another one.
	matters fate = iota
	// refusedByName: 400, and the parameter's name.
	refusedByName
	// without: documented as without effect on the answer.
	without
)

// Every parameter of openai-python 3.54.0 (types/chat/completion_create_params.py, types/completion_create_params.py,
// types/embedding_create_params.py), and our own: none is ignored.
var everyParameter = map[string]struct {
	read   reader
	base   string // what stands before it
	fields map[string]struct {
		value string
		fate  fate
	}
}{
	"chat": {readChat, `"model":"m",` + hello, map[string]struct {
		value string
		fate  fate
	}{
		"audio":                  {`{"voice":"a","format":"mp3"}`, refusedByName},
		"frequency_penalty":      {`1`, matters},
		"function_call":          {`"auto"`, refusedByName},
		"functions":              {`[{"name":"f"}]`, refusedByName},
		"logit_bias":             {`{"5":-100}`, matters},
		"logprobs":               {`true`, matters},
		"max_completion_tokens":  {`7`, matters},
		"max_tokens":             {`7`, matters},
		"metadata":               {`{"a":"b"}`, matters}, // kept with the job
		"modalities":             {`["audio"]`, refusedByName},
		"moderation":             {`{"model":"x"}`, refusedByName},
		"n":                      {`2`, matters},
		"parallel_tool_calls":    {`false,"tools":[{"type":"function","function":{"name":"f"}}]`, matters},
		"prediction":             {`{"type":"content","content":"x"}`, refusedByName},
		"presence_penalty":       {`1`, matters},
		"prompt_cache_key":       {`"x"`, without},
		"prompt_cache_options":   {`{"mode":"implicit"}`, without},
		"prompt_cache_retention": {`"24h"`, without},
		"reasoning_effort":       {`"low"`, matters},
		"response_format":        {`{"type":"json_object"}`, matters},
		"safety_identifier":      {`"x"`, without},
		"seed":                   {`9`, matters},
		"service_tier":           {`"flex"`, matters},
		"stop":                   {`"x"`, matters},
		"store":                  {`true`, without},
		"stream":                 {`true`, matters},
		"stream_options":         {`{"include_usage":true},"stream":true`, matters},
		"temperature":            {`0.5`, matters},
		"tool_choice":            {`"required"`, matters},
		"tools":                  {`[{"type":"function","function":{"name":"f"}}]`, matters},
		"top_logprobs":           {`3,"logprobs":true`, matters},
		"top_p":                  {`0.5`, matters},
		"user":                   {`"x"`, without},
		"verbosity":              {`"low"`, refusedByName},
		"web_search_options":     {`{}`, refusedByName},
		// Not OpenAI's.
		"grammar":            {`"root ::= [a]"`, matters},
		"ignore_eos":         {`true`, matters},
		"lorry":              {`{"lane":"batch"}`, matters},
		"min_p":              {`0.5`, matters},
		"min_tokens":         {`5`, matters},
		"repeat_penalty":     {`1.5`, matters},
		"repetition_penalty": {`1.5`, matters},
		"top_k":              {`5`, matters},
		"anything_else":      {`1`, refusedByName},
	}},
	"text": {readCompletions, `"model":"m","prompt":"a"`, map[string]struct {
		value string
		fate  fate
	}{
		"best_of":           {`2`, matters},
		"echo":              {`true`, matters},
		"frequency_penalty": {`1`, matters},
		"logit_bias":        {`{"5":-100}`, matters},
		"logprobs":          {`0`, matters},
		"max_tokens":        {`7`, matters},
		"n":                 {`2`, matters},
		"presence_penalty":  {`1`, matters},
		"seed":              {`9`, matters},
		"stop":              {`["x"]`, matters},
		"stream":            {`true`, matters},
		"stream_options":    {`{"include_usage":true},"stream":true`, matters},
		"suffix":            {`"x"`, matters},
		"temperature":       {`0.5`, matters},
		"top_p":             {`0.5`, matters},
		"user":              {`"x"`, without},
		"messages":          {`[]`, refusedByName},
		"reasoning_effort":  {`"low"`, refusedByName},
		"response_format":   {`{"type":"json_object"}`, refusedByName},
		"tools":             {`[]`, refusedByName},
	}},
	"embeddings": {readEmbeddings, `"model":"m","input":"a"`, map[string]struct {
		value string
		fate  fate
	}{
		"dimensions":      {`5`, matters},
		"encoding_format": {`"base64"`, matters},
		"user":            {`"x"`, without},
		"temperature":     {`1`, refusedByName},
	}},
}

func TestEveryParameter(t *testing.T) {
	for api, a := range everyParameter {
		plain, err := parse(a.read, "{"+a.base+"}")
		if err != nil {
			t.Fatal(api, err)
		}
		for name, f := range a.fields {
			got, err := parse(a.read, "{"+a.base+`,"`+name+`":`+f.value+"}")
			e, _ := err.(*apiError)
			switch {
			case f.fate == refusedByName:
				if e == nil || e.Status != 400 || e.Param != name {
					t.Errorf("%s: %s is not refused by its name: %v", api, name, err)
				}
			case err != nil:
				t.Errorf("%s: %s is refused: %v", api, name, err)
			case reflect.DeepEqual(plain, got) != (f.fate == without):
				t.Errorf("%s: %s makes %+v of %+v", api, name, got, plain)
			}
		}
	}
}

// TestHarmlessValues: what asks for what is the case anyway is no reason to refuse.
func TestHarmlessValues(t *testing.T) {
	plain, _ := parse(readChat, chatBody(""))
	for _, fields := range []string{`"modalities":["text"]`, `"verbosity":"medium"`, `"n":1`, `"parallel_tool_calls":true`, `"parallel_tool_calls":false`,
		`"response_format":{"type":"text"}`, `"service_tier":"auto"`, `"functions":null`, `"temperature":1,"top_p":1`} {
		if got, err := parse(readChat, chatBody(fields)); err != nil || !reflect.DeepEqual(got, plain) {
			t.Errorf("%s: %+v, %v", fields, got, err)
		}
	}
	best, err := parse(readCompletions, `{"model":"m","prompt":"a","n":3,"best_of":3}`)
	if err != nil || best.request.Sampling.BestOf != 0 {
		t.Errorf("the best three of three: %+v, %v", best, err)
	}
}

func TestRelayKeepsThoughtsApart(t *testing.T) {
	r := newRelay(1)
	sent := engine.Chunk{}
	for i, c := range []engine.Chunk{{Reasoning: "hm"}, {Reasoning: " hm", Text: "a"}, {Text: "b"}} {
		got, _, err := r.hint(attempt{1, 0}, tokenMessage(i, c))
		if err != nil {
			t.Fatal(err)
		}
		sent.Reasoning, sent.Text = sent.Reasoning+got.Reasoning, sent.Text+got.Text
	}
	again, any, err := r.hint(attempt{2, 0}, tokenMessage(0, engine.Chunk{Reasoning: "hm hm", Text: "abc"}))
	if err != nil || !any || again.Reasoning != "" || again.Text != "c" || sent.Reasoning != "hm hm" || sent.Text != "ab" {
		t.Errorf("sent %+v, then %+v, %v", sent, again, err)
	}
	rest, err := r.rest(&engine.Completion{Choices: []engine.Choice{{Reasoning: "hm hm!", Text: "abcd"}}})
	if err != nil || rest[0].Reasoning != "!" || rest[0].Text != "d" {
		t.Errorf("the rest is %+v, %v", rest, err)
	}
	for _, c := range []engine.Choice{{Reasoning: "ha", Text: "abc"}, {Reasoning: "hm hm", Text: "x"}} {
		if _, err := r.rest(&engine.Completion{Choices: []engine.Choice{c}}); err != errDiverged {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
