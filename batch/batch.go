package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lorry/engine"
	"lorry/queue"
)

// Bucket is the name of the KV bucket that holds batches' records, under <tenant>.<id>.
const Bucket = "batches"

// Status is where a batch stands. The last four are terminal.
type Status string

const (
	// Validating batches' lines are being read for the first time. The end of that makes them InProgress or Failed, their
	// owner Cancelling.
	Validating Status = "validating"
	// InProgress batches are fed and run. The last line's end makes them Finalizing, their deadline Expired, their owner
	// Cancelling.
	InProgress Status = "in_progress"
	// Finalizing batches have all their results; their files are being written. Then they are Completed.
	Finalizing Status = "finalizing"
	// Cancelling batches' running lines are being stopped, and their files written. Then they are Cancelled.
	Cancelling Status = "cancelling"
	// Completed batches have run, whatever came of their lines.
	Completed Status = "completed"
	// Failed batches were refused: Errors says why.
	Failed Status = "failed"
	// Expired batches met their deadline; the lines that had ended are in their files.
	Expired Status = "expired"
	// Cancelled batches were ended by their owner; the lines that had ended are in their files.
	Cancelled Status = "cancelled"
)

// exits is the graph: where a status may lead.
var exits = map[Status][]Status{
	Validating: {InProgress, Failed, Cancelling},
	InProgress: {Finalizing, Expired, Cancelling},
	Finalizing: {Completed},
	Cancelling: {Cancelled},
}

// Terminal says whether the status is final.
func (s Status) Terminal() bool {
	return s == Completed || s == Failed || s == Expired || s == Cancelled
}

// Endpoints are those that batches may be made for.
var Endpoints = []queue.Endpoint{queue.Chat, queue.Completions, queue.Embeddings, queue.Responses}

// Bounds of batches.
const (
	// MaxLines is how many lines a batch may have, OpenAI's.
	MaxLines = 50_000
	// MaxInputs is how many inputs all lines of a batch for embeddings may have together, OpenAI's.
	MaxInputs = 50_000
	// MaxLine is how long one line may be, in bytes. (A line whose body is over what a message may carry fails alone.)
	MaxLine = 16<<20 - 1
	// MinWindow and MaxWindow bound the completion window, DefaultWindow is OpenAI's.
	MinWindow     = time.Second
	MaxWindow     = 30 * 24 * time.Hour
	DefaultWindow = 24 * time.Hour
	// MinPriority and MaxPriority bound a batch's priority beside the tenant's others; 0 is the usual one.
	MinPriority, MaxPriority = -100, 100
	// maxErrors is how many errors of its lines a failed batch names.
	maxErrors = 100
)

// Sentinels for errors.Is.
var (
	// ErrNoBatch is a batch that never was, is too old, or is another tenant's.
	ErrNoBatch = errors.New("no such batch")
	// ErrNothing is a retry of a batch all of whose lines succeeded.
	ErrNothing = errors.New("no line failed: there is nothing to retry")
	// ErrContended is a record that others kept changing. The same call will do a little later.
	ErrContended = errors.New("the batch is being changed by others")
)

// InvalidError is a wish that cannot be (errors.As). HTTP: 400.
type InvalidError struct{ Param, Message string }

func (e *InvalidError) Error() string { return "batch: " + e.Message }

// StatusError is a step that a batch's status does not allow (errors.As). HTTP: 409.
type StatusError struct {
	Do     string // "cancel", "pause", …
	Status Status
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("cannot %s a batch with status '%s'", e.Do, e.Status)
}

// Batch is a batch's record. Times are unix seconds, 0 where it was never so.
type Batch struct {
	V         int            `json:"v"`
	ID        string         `json:"id"`
	Tenant    string         `json:"tenant"`
	Endpoint  queue.Endpoint `json:"endpoint"`
	InputFile string         `json:"input_file"`
	// Model is the name that all lines give; Resolved what it stood for when they were validated.
	Model    string       `json:"model,omitempty"`
	Resolved engine.Model `json:"resolved,omitzero"`
	// Window is the completion window as it was given, in milliseconds in JSON; WindowText the client's words for it.
	Window     Millis `json:"window"`
	WindowText string `json:"window_text,omitempty"`
	Status     Status `json:"status"`

	OutputFile string `json:"output_file,omitempty"`
	ErrorFile  string `json:"error_file,omitempty"`

	CreatedAt    int64 `json:"created_at"`
	InProgressAt int64 `json:"in_progress_at,omitempty"`
	// ExpiresAt is the deadline; Change moves it.
	ExpiresAt    int64 `json:"expires_at"`
	FinalizingAt int64 `json:"finalizing_at,omitempty"`
	CompletedAt  int64 `json:"completed_at,omitempty"`
	FailedAt     int64 `json:"failed_at,omitempty"`
	ExpiredAt    int64 `json:"expired_at,omitempty"`
	CancellingAt int64 `json:"cancelling_at,omitempty"`
	CancelledAt  int64 `json:"cancelled_at,omitempty"`

	// Counts and Usage are final once the status is; until then Get fills in what is known at that moment.
	Counts Counts      `json:"counts"`
	Usage  Usage       `json:"usage,omitzero"`
	Errors []LineError `json:"errors,omitempty"`

	Metadata map[string]string `json:"metadata,omitempty"`
	// OutputExpiresAfter is how long after their making the output and error files go. 0: BatchExpiry.
	OutputExpiresAfter Millis         `json:"output_expires_after,omitempty"`
	Webhook            *queue.Webhook `json:"webhook,omitempty"`
	// RetryOf is the batch whose lines that did not succeed this one repeats.
	RetryOf  string `json:"retry_of,omitempty"`
	Paused   bool   `json:"paused,omitempty"`
	Priority int    `json:"priority,omitempty"`

	// Input is what is read: the file's bytes are held for the batch whatever becomes of the file.
	Input File `json:"input"`
	// Lines names the blob of line offsets, once validated.
	Lines string `json:"lines,omitempty"`
	// Work is what all lines may cost in tokens: their prompts, and answers as long as they may be. A guess, of when they
	// were validated.
	Work int64 `json:"work,omitempty"`
	// Forecast is when the last line was expected to end, as of the batch's validation; 0: nobody knew.
	Forecast int64 `json:"forecast,omitempty"`
	// Announced says that the end is told of and the input let go; Purged, that the lines' results are gone.
	Announced bool `json:"announced,omitempty"`
	Purged    bool `json:"purged,omitempty"`

	revision uint64
}

// Millis is a duration, in milliseconds in JSON.
type Millis time.Duration

// Duration is the same as Go's.
func (m Millis) Duration() time.Duration { return time.Duration(m) }

// MarshalJSON writes milliseconds.
func (m Millis) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(m).Milliseconds()) }

// UnmarshalJSON reads milliseconds.
func (m *Millis) UnmarshalJSON(b []byte) error {
	var n int64
	err := json.Unmarshal(b, &n)
	*m = Millis(time.Duration(n) * time.Millisecond)
	return err
}

// Counts are a batch's lines by how they ended. Lines that were cancelled or expired are in neither of the last two.
type Counts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// Usage sums the tokens of a batch's answers.
type Usage struct {
	InputTokens  int `json:"input_tokens"`
	CachedTokens int `json:"cached_tokens"` // of the input: KV prefix hits
	OutputTokens int `json:"output_tokens"`
}

// LineError is why a batch was refused. Line counts from 1; 0 is the whole file.
type LineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Line    int    `json:"line,omitempty"`
}

const batchPrefix = "batch_"

func (b *Batch) key() string { return b.Tenant + "." + b.ID }

// Older says whether the record was read before another one of the same batch was written.
func (b *Batch) Older(than Batch) bool { return b.revision < than.revision }

// ended is when the batch became terminal, 0 before.
func (b *Batch) ended() int64 {
	return max(b.CompletedAt, b.FailedAt, b.ExpiredAt, b.CancelledAt)
}

// move makes a status another, and says when; a move that the graph does not have is a StatusError.
func (b *Batch) move(to Status, do string, now time.Time) error {
	if !slices.Contains(exits[b.Status], to) {
		return &StatusError{Do: do, Status: b.Status}
	}
	b.Status = to
	*b.at(to) = now.Unix()
	return nil
}

// at is the time that belongs to a status.
func (b *Batch) at(s Status) *int64 {
	return map[Status]*int64{Validating: &b.CreatedAt, InProgress: &b.InProgressAt, Finalizing: &b.FinalizingAt, Cancelling: &b.CancellingAt,
		Completed: &b.CompletedAt, Failed: &b.FailedAt, Expired: &b.ExpiredAt, Cancelled: &b.CancelledAt}[s]
}

// Late says whether a batch that runs has met its deadline.
func (b *Batch) Late(now time.Time) bool {
	return b.Status == InProgress && now.Unix() >= b.ExpiresAt
}

// Feedable says whether lines of the batch may be fed.
func (b *Batch) Feedable(now time.Time) bool {
	return b.Status == InProgress && !b.Paused && !b.Late(now)
}

// validBatchID keeps wildcards out of keys.
func validBatchID(id string) bool {
	rest, ok := strings.CutPrefix(id, batchPrefix)
	return ok && len(rest) == 26 && strings.Trim(rest, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
