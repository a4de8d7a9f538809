// Package queuetest starts a real nats-server inside a test.
package queuetest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"lorry/queue"
)

// Server is an embedded nats-server with JetStream in the test's own folder, on a random loopback port. It ends with the
// test. It does not sync at every write: tests of what survives start their own.
func Server(t testing.TB) *server.Server { return ServerAt(t, t.TempDir(), -1) }

// ServerAt is Server on a folder and port (-1: any), so that a test may stop one and start it again.
func ServerAt(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true, MaxPayload: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("queuetest: the embedded nats-server did not start")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// Connect is a connection that reconnects for ever and closes with the test.
func Connect(t testing.TB, s *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// JetStream is a connection to a server of its own.
func JetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(Connect(t, Server(t)))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// New is a running queue with its streams, over a server of its own unless c has a connection.
func New(t testing.TB, c queue.Config) *queue.Queue {
	t.Helper()
	if c.Conn == nil {
		c.Conn = Connect(t, Server(t))
	}
	c.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	q, err := queue.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = q.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	return q
}
