package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"lorry/engine"
	"lorry/queue"
)

// Resolve says what a model's name stands for. An *engine.Error of class Invalid or NotFound refuses the batch; after any
// other error it is tried again.
type Resolve func(ctx context.Context, model string) (engine.Model, error)

// Admit decides on a batch whose lines are counted, and fills in its Forecast. What it returns refuses the batch; after
// an error it is tried again.
type Admit func(ctx context.Context, b *Batch) (*LineError, error)

// Validate reads all lines of a validating batch once, in bounded memory, and makes it in_progress or failed. A batch that
// others changed meanwhile stays as they left it. A nil admit takes all.
func (bs *Batches) Validate(ctx context.Context, b Batch, resolve Resolve, admit Admit) (Batch, error) {
	v := &validation{endpoint: b.Endpoint, offsets: newOffsets(), seen: map[[16]byte]int32{}}
	if err := bs.read(ctx, b, v); err != nil {
		return b, err
	}
	model, err := v.resolve(ctx, resolve)
	if err != nil {
		return b, err
	}
	v.fill(&b, model)
	if err := v.admit(ctx, &b, admit); err != nil {
		return b, err
	}
	if len(v.errs) > 0 {
		return bs.update(ctx, b.Tenant, b.ID, func(b *Batch) error {
			b.Errors = v.errs
			return b.move(Failed, "fail", bs.cfg.Now())
		})
	}
	forecast := b.Forecast
	kept, err := bs.cfg.Files.keep(ctx, b.ID, bytes.NewReader(v.offsets))
	if err != nil {
		return b, err
	}
	return bs.update(ctx, b.Tenant, b.ID, func(b *Batch) error {
		v.fill(b, model)
		b.Lines, b.Forecast = kept.Digest, forecast
		return b.move(InProgress, "begin", bs.cfg.Now())
	})
}

// fill says in a batch what its lines have shown.
func (v *validation) fill(b *Batch, model engine.Model) {
	b.Model, b.Resolved, b.Counts.Total, b.Work = v.model, model, v.offsets.len(), v.work
}

// admit asks whether a batch of valid lines may begin.
func (v *validation) admit(ctx context.Context, b *Batch, admit Admit) error {
	if admit == nil || len(v.errs) > 0 {
		return nil
	}
	e, err := admit(ctx, b)
	if e != nil {
		v.fail(e.Line, e)
	}
	return err
}

// read puts the file through a validation. An error is not the file's fault.
func (bs *Batches) read(ctx context.Context, b Batch, v *validation) error {
	switch {
	case b.Input.Purpose != PurposeBatch:
		v.fail(0, lineError("invalid_input_file", "input_file_id", "The file's purpose is '%s': upload it with purpose 'batch'.", b.Input.Purpose))
		return nil
	case b.Input.Bytes > MaxBatchFile:
		v.fail(0, lineError("file_too_large", "input_file_id", "The file has %d bytes: a batch's may have %d.", b.Input.Bytes, int64(MaxBatchFile)))
		return nil
	}
	f, err := bs.cfg.Files.Open(ctx, b.Input)
	if errors.Is(err, ErrNotFound) {
		v.fail(0, lineError("invalid_input_file", "input_file_id", "The file's bytes are gone."))
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.readAll(f); err != nil {
		return fmt.Errorf("batch: validate %s: %w", b.ID, err)
	}
	return nil
}

// validation is one pass over a file. It keeps 24 bytes a line.
type validation struct {
	endpoint queue.Endpoint
	offsets  offsets
	seen     map[[16]byte]int32 // digests of custom_ids, and their lines
	model    string
	first    int // the line that named it
	inputs   int // of embeddings
	work     int64
	errs     []LineError
}

// fail notes what is wrong with a line. It says whether there is room for more.
func (v *validation) fail(line int, e *LineError) bool {
	e.Line = line
	v.errs = append(v.errs, *e)
	return len(v.errs) < maxErrors
}

func (v *validation) readAll(r io.Reader) error {
	lines := newLineReader(r)
	for {
		text, at, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return v.end()
		case errors.Is(err, errLong):
			v.fail(lines.number, lineError("line_too_long", "", "This line is longer than %d bytes.", MaxLine))
			return nil
		case err != nil:
			return err
		}
		if v.offsets.len() == MaxLines {
			v.errs = nil
			v.fail(0, lineError("too_many_tasks", "", "The file has more than %d requests: split it into several batches.", MaxLines))
			return nil
		}
		v.offsets.add(at, len(text))
		if e := v.line(text, lines.number); e != nil && !v.fail(lines.number, e) {
			return nil
		}
		if v.inputs > MaxInputs {
			v.errs = nil
			v.fail(0, lineError("too_many_tasks", "", "The file has more than %d inputs to embed: split it into several batches.", MaxInputs))
			return nil
		}
	}
}

func (v *validation) end() error {
	if v.offsets.len() == 0 {
		v.fail(0, lineError("empty_file", "", "The file holds no requests."))
	}
	return nil
}

func (v *validation) line(text []byte, number int) *LineError {
	l, e := ParseLine(text, v.endpoint)
	if e != nil {
		return e
	}
	key := nameOf(l.CustomID)
	if before, ok := v.seen[key]; ok {
		return lineError(codeDuplicate, "custom_id", "The custom_id of this line is that of line %d: each must be unique.", before)
	}
	v.seen[key] = int32(number)
	v.work += int64(l.Work(v.endpoint))
	if v.endpoint == queue.Embeddings {
		v.inputs += l.Inputs
	}
	switch {
	case v.model == "":
		v.model, v.first = l.Model, number
	case l.Model != v.model:
		return lineError(codeModel, "body.model", "All lines of a batch must name one model: line %d names '%.80s', this one '%.80s'.", v.first, v.model, l.Model)
	}
	return nil
}

// resolve looks the one model up. One that is not here is the file's fault.
func (v *validation) resolve(ctx context.Context, resolve Resolve) (engine.Model, error) {
	if len(v.errs) > 0 {
		return engine.Model{}, nil
	}
	m, err := resolve(ctx, v.model)
	if e, ok := errors.AsType[*engine.Error](err); ok && (e.Class == engine.NotFound || e.Class == engine.Invalid) {
		v.fail(v.first, lineError(engine.CodeModelNotFound, "body.model", "%s", e.Message))
		return m, nil
	}
	return m, err
}
