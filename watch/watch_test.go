package watch

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen is what a watch told.
type seen struct {
	mu    sync.Mutex
	loads []string
	news  []string
	more  chan struct{}
}

func text(e jetstream.KeyValueEntry) string {
	return fmt.Sprintf("%s=%s", e.Key(), e.Value())
}

func (s *seen) load(all []jetstream.KeyValueEntry) {
	var keys []string
	for _, e := range all {
		keys = append(keys, text(e))
	}
	slices.Sort(keys)
	s.add(&s.loads, strings.Join(keys, " "))
}

func (s *seen) see(e jetstream.KeyValueEntry) { s.add(&s.news, text(e)) }

func (s *seen) add(to *[]string, x string) {
	s.mu.Lock()
	*to = append(*to, x)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// wait returns when ok is true of what was told so far.
func (s *seen) wait(t *testing.T, what string, ok func(loads, news []string) bool) {
	t.Helper()
	timer := time.NewTimer(8 * time.Second) // the client alone would take 10 to 20 to notice
	defer timer.Stop()
	for {
		s.mu.Lock()
		done := ok(s.loads, s.news)
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.more:
		case <-timer.C:
			t.Fatalf("never: %s; loads %q, news %q", what, s.loads, s.news)
		}
	}
}

func connect(t *testing.T, dir string, port int) (js jetstream.JetStream, at int, stop func()) {
	t.Helper()
	srv := queuetest.ServerAt(t, dir, port)
	js, err := jetstream.New(queuetest.Connect(t, srv))
	if err != nil {
		t.Fatal(err)
	}
	return js, srv.Addr().(*net.TCPAddr).Port, func() { srv.Shutdown(); srv.WaitForShutdown() }
}

func put(t *testing.T, js jetstream.JetStream, key, value string) {
	t.Helper()
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b"})
	if err == nil {
		_, err = kv.PutString(t.Context(), key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, js jetstream.JetStream) *seen {
	t.Helper()
	s := &seen{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	b := Bucket{JS: js, Name: "b", Load: s.load, See: s.see, Log: zerolog.New(zerolog.NewTestWriter(t))}
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func last(of []string) string {
	if len(of) == 0 {
		return ""
	}
	return of[len(of)-1]
}

// TestServerRestart ends a server and starts it again on the same folder and port.
func TestServerRestart(t *testing.T) {
	dir := t.TempDir()
	js, port, stop := connect(t, dir, -1)
	put(t, js, "old", "1")
	s := start(t, js)
	s.wait(t, "what was there", func(loads, _ []string) bool { return last(loads) == "old=1" })
	put(t, js, "old", "2")
	s.wait(t, "a change", func(_, news []string) bool { return last(news) == "old=2" })
	stop()
	writer, _, _ := connect(t, dir, port)
	put(t, writer, "new", "1")
	s.wait(t, "what was written since", func(loads, news []string) bool {
		return last(loads) == "new=1 old=2" || last(news) == "new=1"
	})
	put(t, writer, "new", "2")
	s.wait(t, "a change behind it", func(loads, news []string) bool { return last(loads) == "new=2 old=2" || last(news) == "new=2" })
}

// TestBucketComesLater: who watches may start before who makes the bucket.
func TestBucketComesLater(t *testing.T) {
	js := queuetest.JetStream(t)
	s := start(t, js)
	put(t, js, "a", "1")
	s.wait(t, "the bucket", func(loads, news []string) bool { return last(loads) == "a=1" || last(news) == "a=1" })
}

func TestEach(t *testing.T) {
	js := queuetest.JetStream(t)
	for _, key := range []string{"x.1", "x.2", "y.1"} {
		put(t, js, key, "v")
	}
	kv, err := js.KeyValue(t.Context(), "b")
	if err == nil {
		err = kv.Delete(t.Context(), "x.2")
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	add := func(e jetstream.KeyValueEntry) { got = append(got, e.Key()) }
	if err := Each(t.Context(), kv, "x.*", add, jetstream.IgnoreDeletes()); err != nil || !slices.Equal(got, []string{"x.1"}) {
		t.Errorf("got %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Each(ctx, kv, "x.*", add); err == nil {
		t.Error("nobody waits, and there is no error")
	}
}
