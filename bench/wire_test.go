package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// wire is one kept connection that writes a whole request at once and reads the answer on the same goroutine, as wrk
// does: what is measured is the server, and net/http's client, which passes each request through two more goroutines,
// has no share in it. Not for several goroutines at once.
type wire struct {
	conn net.Conn
	r    *bufio.Reader
	out  bytes.Buffer
	in   bytes.Buffer
}

func dialWire(url string) (*wire, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return nil, err
	}
	return &wire{conn: c, r: bufio.NewReaderSize(c, 16<<10)}, nil
}

// post sends body and returns the answer's, which the next post overwrites. Another status than 2xx is an error.
func (w *wire) post(path string, body []byte, header ...string) ([]byte, error) {
	w.out.Reset()
	fmt.Fprintf(&w.out, "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, len(body))
	for i := 0; i+1 < len(header); i += 2 {
		fmt.Fprintf(&w.out, "%s: %s\r\n", header[i], header[i+1])
	}
	w.out.WriteString("\r\n")
	w.out.Write(body)
	if _, err := w.conn.Write(w.out.Bytes()); err != nil {
		return nil, err
	}
	return w.read(path)
}

func (w *wire) read(path string) ([]byte, error) {
	r, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return nil, err
	}
	w.in.Reset()
	if _, err := io.Copy(&w.in, r.Body); err != nil {
		return nil, err
	}
	if r.StatusCode/100 != 2 {
		return nil, fmt.Errorf("POST %s: %d %s", path, r.StatusCode, w.in.Bytes())
	}
	return w.in.Bytes(), nil
}

// wires is a pool of them: as many as are used at the same moment.
type wires struct {
	url  string
	idle chan *wire
}

func newWires(url string, n int) *wires { return &wires{url, make(chan *wire, n)} }

func (p *wires) post(path string, body []byte, header ...string) error {
	w, err := p.take()
	if err != nil {
		return err
	}
	if _, err := w.post(path, body, header...); err != nil {
		_ = w.conn.Close()
		return err
	}
	p.idle <- w
	return nil
}

func (p *wires) take() (*wire, error) {
	select {
	case w := <-p.idle:
		return w, nil
	default:
		return dialWire(p.url)
	}
}

func (p *wires) close() {
	for {
		select {
		case w := <-p.idle:
			_ = w.conn.Close()
		default:
			return
		}
	}
}
