package result

import (
	"context"
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

// Record is what RESULTS holds of the end of a job (no batch's line) or a batch. ok is false where it holds nothing: it
// is not over, its record is gone by now, or it never had one.
func (s *Store) Record(ctx context.Context, tenant, id string) (m queue.Stored, ok bool, err error) {
	for _, subject := range []string{queue.ResultSubject(&queue.Job{Tenant: tenant, ID: id}), queue.EndSubject(tenant, id)} {
		if m, ok, err = s.q.Last(ctx, queue.StreamResults, subject); ok || err != nil {
			return m, ok, err
		}
	}
	return m, false, nil
}
