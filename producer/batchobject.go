package producer

import (
	"lorry/batch"
)

// batchObject is a batch as OpenAI's SDKs read it, with what they pass over under lorry.
type batchObject struct {
	ID               string            `json:"id"`
	Object           string            `json:"object"` // "batch"
	Endpoint         string            `json:"endpoint"`
	Model            *string           `json:"model"`
	Errors           *batchErrors      `json:"errors"`
	InputFileID      string            `json:"input_file_id"`
	CompletionWindow string            `json:"completion_window"`
	Status           batch.Status      `json:"status"`
	OutputFileID     *string           `json:"output_file_id"`
	ErrorFileID      *string           `json:"error_file_id"`
	CreatedAt        int64             `json:"created_at"`
	InProgressAt     *int64            `json:"in_progress_at"`
	ExpiresAt        int64             `json:"expires_at"`
	FinalizingAt     *int64            `json:"finalizing_at"`
	CompletedAt      *int64            `json:"completed_at"`
	FailedAt         *int64            `json:"failed_at"`
	ExpiredAt        *int64            `json:"expired_at"`
	CancellingAt     *int64            `json:"cancelling_at"`
	CancelledAt      *int64            `json:"cancelled_at"`
	RequestCounts    batch.Counts      `json:"request_counts"` // from the start: people print it without looking
	Usage            batchUsage        `json:"usage"`
	Metadata         map[string]string `json:"metadata"`
	Lorry            batchExtras       `json:"lorry"`
}

type batchErrors struct {
	Object string       `json:"object"` // "list"
	Data   []batchError `json:"data"`
}

type batchError struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int    `json:"line"`
}

type batchUsage struct {
	InputTokens  int `json:"input_tokens"`
	InputDetails struct {
		Cached int `json:"cached_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens  int `json:"output_tokens"`
	OutputDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int `json:"total_tokens"`
}

// batchExtras is what Lorry says of a batch beyond OpenAI's object.
type batchExtras struct {
	Priority int     `json:"priority"`
	Paused   bool    `json:"paused"`
	RetryOf  *string `json:"retry_of"`
	// Forecast is the unix second in which the last line was expected to end when the lines were counted, at the speed
	// measured lately; null before, and while nothing was measured.
	Forecast *int64 `json:"forecast"`
	// Counts and what follows are told by GET /v1/batches/{id} while the batch is not over.
	Counts *batchCounts `json:"counts,omitempty"`
	// Position counts the tenant's batches of the same model that go first.
	Position        *int    `json:"position,omitempty"`
	TokensLeft      int64   `json:"tokens_left,omitempty"`
	TokensPerSecond float64 `json:"tokens_per_second,omitempty"`
	// ETA is the unix second in which the last line is expected to end; absent while nothing is known.
	ETA        int64      `json:"eta,omitempty"`
	HeldBackBy batch.Hold `json:"held_back_by,omitempty"`
}

type batchCounts struct {
	Queued       int `json:"queued"`
	Running      int `json:"running"`
	Completed    int `json:"completed"`
	Failed       int `json:"failed"`
	Cached       int `json:"cached"`
	Deduplicated int `json:"deduplicated"`
	Retried      int `json:"retried"`
}

func showBatch(b batch.Batch) *batchObject {
	return &batchObject{ID: b.ID, Object: "batch", Endpoint: string(b.Endpoint), Model: optional(b.Model), Errors: showErrors(b.Errors),
		InputFileID: b.InputFile, CompletionWindow: b.WindowText, Status: b.Status, OutputFileID: optional(b.OutputFile), ErrorFileID: optional(b.ErrorFile),
		CreatedAt: b.CreatedAt, InProgressAt: moment(b.InProgressAt), ExpiresAt: b.ExpiresAt, FinalizingAt: moment(b.FinalizingAt),
		CompletedAt: moment(b.CompletedAt), FailedAt: moment(b.FailedAt), ExpiredAt: moment(b.ExpiredAt), CancellingAt: moment(b.CancellingAt),
		CancelledAt: moment(b.CancelledAt), RequestCounts: b.Counts, Usage: showUsage(b.Usage), Metadata: b.Metadata,
		Lorry: batchExtras{Priority: b.Priority, Paused: b.Paused, RetryOf: optional(b.RetryOf), Forecast: moment(b.Forecast)}}
}

func showUsage(u batch.Usage) (o batchUsage) {
	o.InputTokens, o.OutputTokens, o.TotalTokens = u.InputTokens, u.OutputTokens, u.InputTokens+u.OutputTokens
	o.InputDetails.Cached = u.CachedTokens
	return o
}

func showErrors(errs []batch.LineError) *batchErrors {
	if len(errs) == 0 {
		return nil
	}
	out := &batchErrors{Object: "list"}
	for _, e := range errs {
		o := batchError{Code: e.Code, Message: e.Message, Param: optional(e.Param)}
		if e.Line > 0 {
			o.Line = &e.Line
		}
		out.Data = append(out.Data, o)
	}
	return out
}

// moment is a unix second, or null where it was never so.
func moment(at int64) *int64 {
	if at == 0 {
		return nil
	}
	return &at
}

func (x *batchExtras) progress(p batch.Progress) {
	x.Counts = &batchCounts{p.Queued, p.Running, p.Completed, p.Failed, p.Cached, p.Deduplicated, p.Retried}
	x.Position, x.TokensLeft, x.TokensPerSecond, x.HeldBackBy = &p.Position, p.TokensLeft, p.TokensPerSecond, p.HeldBackBy
	if !p.ETA.IsZero() {
		x.ETA = p.ETA.Unix()
	}
}
