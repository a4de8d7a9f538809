package batch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"

	"lorry/queue"
	"lorry/result"
)

// ResultLine is an ended line, as it will stand in a file.
type ResultLine struct {
	// Cursor is what After of the next call is.
	Cursor int
	Line   int
	// Failed lines go to the error file.
	Failed bool
	Raw    json.RawMessage
}

// Results are up to limit (0: 1000) lines that have ended, behind a cursor (0: from the first), and whether there are more
// at this moment. They can be read while the batch runs and for a while after its end (BatchesConfig.KeepLines); then they
// are in the batch's files, and this is a *StatusError.
func (bs *Batches) Results(ctx context.Context, tenant, id string, after, limit int) (lines []ResultLine, more bool, err error) {
	b, err := bs.get(ctx, tenant, id)
	if err != nil {
		return nil, false, err
	}
	if b.Purged {
		return nil, false, &StatusError{Do: "read single lines of", Status: b.Status}
	}
	seq := uint64(max(after, 0)) + 1
	ms, more, err := bs.cfg.Queue.Read(ctx, queue.StreamResults, queue.LinesSubject(tenant, id), seq, cmp.Or(limit, 1000))
	if err != nil {
		return nil, false, err
	}
	for _, m := range ms {
		v, err := result.Decode(m.Data)
		if err != nil {
			return nil, false, err
		}
		lines = append(lines, ResultLine{Cursor: int(m.Seq), Line: v.Line, Failed: v.State != queue.Succeeded,
			Raw: json.RawMessage(bytes.TrimSuffix(outputLine(id, v), []byte("\n")))})
	}
	return lines, more, nil
}
