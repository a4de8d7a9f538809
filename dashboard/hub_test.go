package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func quiet(context.Context, scope, bool) sections { return nil }

func TestMailboxHoldsTheLastState(t *testing.T) {
	h := newHub(8, quiet)
	c, err := h.join(scope{}, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer h.leave(c)
	for range 1000 {
		c.put(sections{"jobs": []byte("old"), "tick": []byte("1")})
	}
	c.put(sections{"jobs": []byte("new")})
	if got := string(frame(c.take())); got != "event: jobs\ndata: new\n\nevent: tick\ndata: 1\n\n" {
		t.Errorf("frame %q", got)
	}
	c.put(sections{"jobs": []byte("new")})
	if len(c.take()) != 0 {
		t.Error("what has not changed was sent again")
	}
}

func TestFrameKeepsLines(t *testing.T) {
	got := string(frame(sections{"a": []byte("x\r\n  y\rz\n\nw")}))
	if want := "event: a\ndata: x\ndata:   y\ndata: z\ndata: \ndata: w\n\n"; got != want {
		t.Errorf("frame %q, want %q", got, want)
	}
}

func TestClientsAreBounded(t *testing.T) {
	h := newHub(perKey+1, quiet)
	var cs []*client
	join := func(key string) error {
		c, err := h.join(scope{}, key)
		if err == nil {
			cs = append(cs, c)
		}
		return err
	}
	for range perKey {
		if err := join("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := join("a"); !errors.Is(err, errFull) {
		t.Errorf("one key's share: %v", err)
	}
	if err := join("b"); err != nil {
		t.Error(err)
	}
	if err := join("c"); !errors.Is(err, errFull) {
		t.Errorf("all: %v", err)
	}
	for _, c := range cs {
		h.leave(c)
	}
	if h.watched() {
		t.Error("pages that left are still there")
	}
}

func TestHintsCostOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := map[string]int{}
		h := newHub(8, func(_ context.Context, sc scope, jobsOnly bool) sections {
			if jobsOnly {
				looks[sc.tenant]++
			}
			return nil
		})
		for _, tenant := range []string{"a", "a", "b"} {
			c, err := h.join(scope{tenant: tenant}, "k")
			if err != nil {
				t.Fatal(err)
			}
			defer h.leave(c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		for range 10_000 { // more than the channel holds
			h.hint("a")
		}
		h.run(ctx, func(context.Context, bool) {})
		if looks["a"] == 0 || looks["a"] > 2 || looks["b"] != 0 {
			t.Errorf("looks %v, want one or two at a and none at b", looks)
		}
	})
}

func TestStopEndsPages(t *testing.T) {
	h := newHub(8, quiet)
	c, err := h.join(scope{}, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer h.leave(c)
	h.stop()
	rec := httptest.NewRecorder()
	h.serve(rec, httptest.NewRequest("GET", "/", nil), c, func() bool { return true })
	if !strings.HasPrefix(rec.Body.String(), "retry: ") {
		t.Errorf("stream %q", rec.Body.String())
	}
}

func TestSlowReadersAreDropped(t *testing.T) {
	h := newHub(8, quiet)
	h.patience = 50 * time.Millisecond
	c, err := h.join(scope{}, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer h.leave(c)
	c.put(sections{"jobs": bytes.Repeat([]byte("x"), 64<<20)}) // more than sockets hold
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		h.serve(w, r, c, func() bool { return true })
	}))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // and reads nothing
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("a page that reads nothing is kept")
	}
}
