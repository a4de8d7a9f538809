// Package queue carries jobs to workers, at least once: a backlog of accepted jobs, a small window of deliveries ready
// to be pulled, retries for later, and dead letters. All of them are JetStream streams; the table of DESIGN section 5
// says who writes and who reads which.
package queue

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"lorry/engine"
)

// V is the version of every message that this package writes. A reader takes V and V−1.
const V = 1

// Lane is how long a job may wait.
type Lane string

const (
	// Interactive: someone waits for the answer.
	Interactive Lane = "interactive"
	// Flex: asynchronous, minutes.
	Flex Lane = "flex"
	// Batch: hours.
	Batch Lane = "batch"
)

// Lanes are all lanes, the most urgent first.
var Lanes = []Lane{Interactive, Flex, Batch}

// ParseLane reads a lane's name.
func ParseLane(s string) (Lane, bool) {
	for _, l := range Lanes {
		if string(l) == s {
			return l, true
		}
	}
	return "", false
}

// State is where a job stands. The last four are terminal: a job never leaves them.
type State string

const (
	// Queued jobs wait in BACKLOG, LATER or JOBS. A claim makes them Running; a cancel or the deadline ends them.
	Queued State = "queued"
	// Running jobs are claimed by a worker. A commit ends them; a lost lease or a drain makes them Queued again.
	Running State = "running"
	// Succeeded jobs have an answer.
	Succeeded State = "succeeded"
	// Failed jobs have an error: the request's fault, or the attempt cap (then a dead letter too).
	Failed State = "failed"
	// Cancelled jobs were ended by their owner, or by the end of the connection that waited.
	Cancelled State = "cancelled"
	// Expired jobs met their deadline unanswered.
	Expired State = "expired"
)

// Terminal says whether the state is final.
func (s State) Terminal() bool { return s != Queued && s != Running && s != "" }

// Endpoint is the API by which a job came, and so the shape of its answer.
type Endpoint string

const (
	Chat        Endpoint = "/v1/chat/completions"
	Completions Endpoint = "/v1/completions"
	Generate    Endpoint = "/generate"
	Responses   Endpoint = "/v1/responses"
	Embeddings  Endpoint = "/v1/embeddings"
	InputTokens Endpoint = "/v1/responses/input_tokens"
	Compact     Endpoint = "/v1/responses/compact"
	Tokenize    Endpoint = "/lorry/v1/tokenize"
	Detokenize  Endpoint = "/lorry/v1/detokenize"
)

// Job is one request and what is to become of its answer. It is immutable once accepted, but for Retry.
type Job struct {
	V      int    `json:"v"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Lane   Lane   `json:"lane"`
	// Endpoint shapes the answer.
	Endpoint Endpoint `json:"endpoint"`
	// Encoding is how an answer's vectors are written: "base64", or empty for numbers.
	Encoding string         `json:"encoding,omitempty"`
	Request  engine.Request `json:"request"`
	// Created is when it was accepted; Deadline, if any, when it expires. Unix milliseconds.
	Created  int64 `json:"created"`
	Deadline int64 `json:"deadline,omitempty"`
	// Waited jobs have someone on the line: their HTTP answer is the record, and RESULTS is skipped. (Jobs with a
	// webhook or an idempotency key are recorded all the same, and this is false.)
	Waited bool `json:"waited,omitempty"`
	// Stream asks the worker to publish tokens as they come.
	Stream bool `json:"stream,omitempty"`
	// Cacheable jobs may be answered from the cache and may join a flight; CacheKey is the flight's and the cache's name.
	CacheKey string   `json:"cache_key,omitempty"`
	Webhook  *Webhook `json:"webhook,omitempty"`
	Idem     *Idem    `json:"idem,omitempty"`
	// Trace is the W3C traceparent of the accepting request.
	Trace    string            `json:"trace,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	ReplayOf string            `json:"replay_of,omitempty"`
	// Batch and Line say which line of which batch this is; Line counts from 1. CustomID is its owner's name for it.
	Batch    string `json:"batch,omitempty"`
	Line     int    `json:"line,omitempty"`
	CustomID string `json:"custom_id,omitempty"`
	// History is what happened to earlier attempts that failed by the job's or the engine's fault.
	History []Attempt `json:"history,omitempty"`
}

// Cost is a job's share of an engine in tokens: a guess until it ends. Four bytes are about a token; an answer without a
// bound counts as 256.
func (j *Job) Cost() int {
	q := &j.Request
	prompt := (len(q.Messages)+len(q.Prompt))/4 + len(q.Tokens)
	for _, in := range q.Inputs {
		prompt += len(in.Text)/4 + len(in.Tokens)
	}
	if !q.Samples() {
		return max(1, prompt)
	}
	return prompt + cmp.Or(q.Sampling.MaxTokens, DefaultAnswer)*max(1, q.Sampling.N)
}

// DefaultAnswer is how many tokens an answer without a bound is taken for.
const DefaultAnswer = 256

// Webhook is where a job's end is announced.
type Webhook struct {
	URL string `json:"url"`
	// Secret is sealed by package webhook; empty means the instance's own.
	Secret string `json:"secret,omitempty"`
}

// Idem is the idempotency key that a job came under, and the digest of its body.
type Idem struct {
	Key  string `json:"key"`
	Body string `json:"body"`
}

// Attempt is one failed run.
type Attempt struct {
	At     int64         `json:"at"` // unix milliseconds
	Worker string        `json:"worker"`
	Error  *engine.Error `json:"error"`
	// Solo runs had the engine to themselves: a crash is then the job's own.
	Solo bool `json:"solo,omitempty"`
}

// Delivery is what one message of JOBS carries: one to K jobs of one tenant, lane, base and adapter.
type Delivery struct {
	V    int   `json:"v"`
	Jobs []Job `json:"jobs"`
}

// NewID makes an ID: prefix and a lower-case ULID, so that IDs of one process sort by time.
func NewID(prefix string) string { return prefix + strings.ToLower(ulid.Make().String()) }

// LineID is the ID of a batch's line: feeding it twice names the same job.
func LineID(batch string, n int) string { return "job_" + batch + "-" + strconv.Itoa(n) }

// Expired says whether the job's deadline is past.
func (j *Job) Expired(now time.Time) bool { return j.Deadline != 0 && now.UnixMilli() >= j.Deadline }

// Encode is the job's message.
func (j *Job) Encode() []byte { return encode(j) }

// encode is JSON without HTML escapes, which would blow prompts up to six times their size.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("queue: " + err.Error()) // our own types: a bug
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
