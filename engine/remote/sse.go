package remote

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
)

// maxEvent bounds a line of a stream: a token with its logprobs takes a few kilobytes.
const maxEvent = 16 << 20

// event is one server-sent event: its data, and whether it stands for an error (llama-server once called the field
// "error", LM Studio and others the event).
type event struct {
	data  string
	error bool
}

// events reads a stream of server-sent events. Comments (keep-alives) and other fields are skipped; an event that broke
// off before its empty line is none.
func events(r io.Reader) iter.Seq2[event, error] {
	return func(yield func(event, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxEvent)
		var e pending
		for first := true; lines.Scan(); first = false {
			line := lines.Bytes()
			if first {
				line = bytes.TrimPrefix(line, []byte("\uFEFF"))
			}
			if len(line) > 0 {
				e.add(line)
				continue
			}
			if whole, ok := e.take(); ok && !yield(whole, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(event{}, fmt.Errorf("read stream: %w", err))
		}
	}
}

// pending is an event whose lines still come.
type pending struct {
	data  []byte
	some  bool
	error bool
}

func (p *pending) add(line []byte) {
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "event":
		p.error = p.error || string(value) == "error"
	case "error":
		p.error = true
		p.append(value)
	case "data":
		p.append(value)
	}
}

func (p *pending) append(value []byte) {
	if p.some {
		p.data = append(p.data, '\n')
	}
	p.data, p.some = append(p.data, value...), true
}

func (p *pending) take() (event, bool) {
	e, some := event{string(p.data), p.error}, p.some
	*p = pending{data: p.data[:0]}
	return e, some
}
