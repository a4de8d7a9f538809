package result

import (
	"encoding/json"
	"fmt"

	"lorry/queue"
)

// End is how a batch ended: what RESULTS holds under queue.EndSubject. Events are made from it.
type End struct {
	V      int    `json:"v"`
	Batch  string `json:"batch"`
	Tenant string `json:"tenant"`
	// Status is "completed", "failed", "expired" or "cancelled".
	Status string `json:"status"`
	// Created and Ended are unix milliseconds.
	Created int64 `json:"created"`
	Ended   int64 `json:"ended"`
	// Webhook is the batch's own, beside its tenant's endpoints.
	Webhook *queue.Webhook `json:"webhook,omitempty"`
}

// Encode is the record's bytes.
func (e *End) Encode() []byte { return must(json.Marshal(e)) }

// DecodeEnd reads a record.
func DecodeEnd(b []byte) (*End, error) {
	e := &End{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("result: read a batch's end: %w", err)
	}
	if e.V > V || e.V < V-1 {
		return nil, fmt.Errorf("result: read the end of %s: version %d, this program reads %d", e.Batch, e.V, V)
	}
	return e, nil
}
