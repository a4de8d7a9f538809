package child

import (
	"fmt"

	"lorry/engine"
)

// version is the wire's. Both ends are built together, but a rolling upgrade may replace one executable before the
// other: each end takes this version and the one before.
const version = 1

// Kinds of messages, by who sends them.
const (
	// The parent's.
	kindRun    = "run"    // N, Request, Stream, Save, Began: run it; began, chunk (if Stream) and saved (if Save), then done or error follow
	kindCancel = "cancel" // N, HandOver: end it, if HandOver with a last saved; its error still follows
	kindInfo   = "info"   // N: say what is served; info or error follows
	kindLook   = "look"   // N: show the loop; look or error follows

	// The child's.
	kindReady    = "ready"    // Beats: the first message, the engine is open
	kindFatal    = "fatal"    // Error: the first and last message, it can't be opened
	kindBegan    = "began"    // N, if Began: the request has begun
	kindChunk    = "chunk"    // N, Chunk
	kindSaved    = "saved"    // N, Resume
	kindDone     = "done"     // N, Completion
	kindError    = "error"    // N, Error
	kindBeat     = "beat"     // the engine goes on: a step was made, or it does not tell of steps
	kindDecoding = "decoding" // IDs: the requests in the native calls from now on. It lies in the pipe before the call begins
)

// message is one frame's JSON. N numbers a call of the parent's, from 1, within one life of the child.
type message struct {
	V          int                `json:"v"`
	Kind       string             `json:"kind"`
	N          uint64             `json:"n,omitempty"`
	Request    *engine.Request    `json:"request,omitempty"`
	Stream     bool               `json:"stream,omitempty"`
	Save       bool               `json:"save,omitempty"`
	Began      bool               `json:"began,omitempty"`
	HandOver   bool               `json:"hand_over,omitempty"`
	Chunk      *engine.Chunk      `json:"chunk,omitempty"`
	Resume     *engine.Resume     `json:"resume,omitempty"`
	Completion *engine.Completion `json:"completion,omitempty"`
	Info       *engine.Info       `json:"info,omitempty"`
	Look       *engine.Snapshot   `json:"look,omitempty"`
	Error      *engine.Error      `json:"error,omitempty"`
	IDs        []string           `json:"ids,omitempty"`
	Beats      bool               `json:"beats,omitempty"` // the child sends beats; one of an older build does not
}

// last says that the message ends its call.
func (m *message) last() bool {
	return m.Kind != kindBegan && m.Kind != kindChunk && m.Kind != kindSaved
}

// check refuses what the other end could not mean, so that no reader meets a nil part.
func (m *message) check() error {
	if m.V != version && m.V != version-1 {
		return fmt.Errorf("engine/child: the other end speaks version %d, this one %d: are both executables of one build?", m.V, version)
	}
	switch {
	case m.Kind == kindRun && m.Request == nil,
		m.Kind == kindChunk && m.Chunk == nil,
		m.Kind == kindSaved && m.Resume == nil,
		m.Kind == kindDone && m.Completion == nil,
		(m.Kind == kindError || m.Kind == kindFatal) && m.Error == nil:
		return fmt.Errorf("engine/child: a message of kind %q lacks its part", m.Kind)
	}
	return nil
}
