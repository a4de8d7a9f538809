package child

import (
	"net"
	"sync"
)

// outbox holds frames until the pipe takes them. Putting never waits: a caller that gives up is free even while the
// child is stopped. What came while the pipe was busy leaves in one system call.
type outbox struct {
	wake chan struct{}

	mu     sync.Mutex
	frames net.Buffers
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) put(frame []byte) {
	o.mu.Lock()
	o.frames = append(o.frames, frame)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() net.Buffers {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.frames
	o.frames = nil
	return f
}

// drain writes until the pipe is gone. A failed write is the reader's to notice: the pipe has ended for both.
func (o *outbox) drain(conn net.Conn, gone <-chan struct{}) {
	for {
		select {
		case <-o.wake:
		case <-gone:
			return
		}
		if f := o.take(); len(f) > 0 {
			if _, err := f.WriteTo(conn); err != nil {
				conn.Close()
				return
			}
		}
	}
}
