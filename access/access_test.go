package access

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a store until the test ends.
func start(t *testing.T, c Config) *Store {
	t.Helper()
	c.Log = zerolog.Nop()
	s := New(c)
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(2 * time.Minute):
		t.Fatal("the store is not ready")
	}
	return s
}

// eventually waits for what another process's view is to show.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestKeyFromBirthToRevocation(t *testing.T) {
	js := queuetest.JetStream(t)
	here, there := start(t, Config{JS: js}), start(t, Config{JS: js})
	secret, k, err := here.CreateKey(t.Context(), CreateKey{Tenant: "acme", Name: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := here.Authenticate(secret) // at once: one's own writes are seen
	if want := (Principal{Tenant: "acme", KeyID: k.ID}); err != nil || p != want {
		t.Fatalf("got %+v, %v; want %+v", p, err, want)
	}
	eventually(t, "the key works elsewhere", func() bool { _, err := there.Authenticate(secret); return err == nil })
	if err := there.Revoke(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Authenticate(secret); !errors.Is(err, ErrBadKey) {
		t.Errorf("where it was revoked: %v", err)
	}
	eventually(t, "the key is dead elsewhere", func() bool { _, err := here.Authenticate(secret); return errors.Is(err, ErrBadKey) })
	if err := there.Revoke(t.Context(), k.ID); err != nil {
		t.Errorf("a second revocation: %v", err)
	}
}

func TestSecretIsKeptNowhere(t *testing.T) {
	js := queuetest.JetStream(t)
	s := start(t, Config{JS: js})
	secret, k, err := s.CreateKey(t.Context(), CreateKey{Tenant: "acme", Admin: true})
	if err != nil {
		t.Fatal(err)
	}
	kv, _ := js.KeyValue(t.Context(), Bucket)
	e, err := kv.Get(t.Context(), "key."+k.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, word, _ := parse(secret)
	if strings.Contains(string(e.Value()), word) {
		t.Error("the bucket holds the secret")
	}
	if !strings.HasPrefix(secret, "lorry_"+k.ID+"_") {
		t.Errorf("the key %s… does not name its ID %s", secret[:12], k.ID)
	}
}

func TestAuthenticate(t *testing.T) {
	js := queuetest.JetStream(t)
	s := start(t, Config{JS: js, Open: true})
	if p, err := s.Authenticate("anything"); err != nil || p.Tenant != DefaultTenant || !s.IsOpen() {
		t.Fatalf("open: %+v, %v", p, err)
	}
	secret, k, err := s.CreateKey(t.Context(), CreateKey{Tenant: "a", Admin: true})
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := s.CreateKey(t.Context(), CreateKey{Tenant: "b"})
	for name, c := range map[string]struct {
		bearer string
		want   error
	}{
		"right":                 {secret, nil},
		"none":                  {"", ErrNoKey},
		"no prefix":             {secret[len(Prefix):], ErrBadKey},
		"another key's secret":  {Prefix + k.ID + "_" + other[strings.LastIndex(other, "_")+1:], ErrBadKey},
		"last letter cut":       {secret[:len(secret)-1], ErrBadKey},
		"one letter more":       {secret + "a", ErrBadKey},
		"unknown ID":            {strings.Replace(secret, k.ID, "aaaaaaaaaaaaa", 1), ErrBadKey},
		"with a bucket's stars": {Prefix + ">_" + strings.Repeat("a", 52), ErrBadKey},
		"only the prefix":       {Prefix, ErrBadKey},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Authenticate(c.bearer); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestOpenEndsWithTheFirstKeyForGood(t *testing.T) {
	s := start(t, Config{JS: queuetest.JetStream(t), Open: true})
	_, k, err := s.CreateKey(t.Context(), CreateKey{Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Authenticate(""); !errors.Is(err, ErrNoKey) {
		t.Errorf("after the only key was revoked: %v", err)
	}
	if has, err := s.HasKeys(t.Context()); has || err != nil {
		t.Errorf("HasKeys: %v, %v", has, err)
	}
}

func TestClosedWithoutKeysLetsNobodyIn(t *testing.T) {
	s := start(t, Config{JS: queuetest.JetStream(t)})
	if _, err := s.Authenticate(""); !errors.Is(err, ErrNoKey) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyGetsInBeforeTheKeysAreRead(t *testing.T) {
	s := New(Config{Open: true})
	if _, err := s.Authenticate(""); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v: an unread bucket must not look like one without keys", err)
	}
}

func TestKeysWithoutRun(t *testing.T) {
	js := queuetest.JetStream(t)
	s := New(Config{JS: js})
	if _, err := s.Keys(t.Context()); err == nil {
		t.Error("a missing bucket gave no error")
	}
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than a watcher buffers
		if _, _, err := s.CreateKey(t.Context(), CreateKey{Tenant: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	ks, err := New(Config{JS: js}).Keys(t.Context())
	if err != nil || len(ks) != 300 {
		t.Errorf("%d keys, %v", len(ks), err)
	}
	if err := s.Revoke(t.Context(), "nosuchkey"); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke of an unknown key: %v", err)
	}
	if err := s.Revoke(t.Context(), "aaaaaaaaaaaaa"); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoke of an unknown key: %v", err)
	}
}

func TestTenantSettings(t *testing.T) {
	js := queuetest.JetStream(t)
	here, there := start(t, Config{JS: js}), start(t, Config{JS: js})
	if got := here.Tenant("acme"); got.Weight != 1 || got.Paused {
		t.Errorf("defaults: %+v", got)
	}
	for range 2 { // create, then update
		if err := here.PutTenant(t.Context(), "acme", Settings{Weight: 5, MaxWaiting: 7}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the weight is seen elsewhere", func() bool { return there.Tenant("acme").Weight == 5 })
	if got := there.Tenants(); !slices.Equal(got, []string{"acme", "default"}) {
		t.Errorf("tenants: %v", got)
	}
	for name, bad := range map[string]Settings{"weight": {Weight: -1}, "heavy": {Weight: 1001}, "cap": {MaxWaiting: -1}} {
		if err := here.PutTenant(t.Context(), "acme", bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestConcurrentSettingsLoseNoWriter(t *testing.T) {
	js := queuetest.JetStream(t)
	s := start(t, Config{JS: js})
	errs := make(chan error, 8)
	for i := range 8 {
		go func() { errs <- s.PutTenant(context.Background(), "acme", Settings{Weight: i + 1}) }()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestSwapKeepsOwnNewerWrites(t *testing.T) {
	s := New(Config{})
	s.apply(change{key: "tenant.old", value: []byte(`{"weight":2}`), revision: 3})
	s.apply(change{key: "tenant.new", value: []byte(`{"weight":9}`), revision: 8})
	s.apply(change{key: "tenant.newer", value: []byte(`{"weight":7}`), revision: 9})
	v := newView()
	_ = v.apply(change{key: "tenant.acme", value: []byte(`{"weight":4}`), revision: 7})
	s.swap(v) // what was read is older than two of our writes, and has lost the third
	for tenant, want := range map[string]int{"old": 1, "new": 9, "newer": 7, "acme": 4} {
		if got := s.Tenant(tenant).Weight; got != want {
			t.Errorf("%s: weight %d, want %d", tenant, got, want)
		}
	}
	s.apply(change{key: "tenant.new", value: []byte(`{"weight":1}`), revision: 7}) // the watch lags
	if got := s.Tenant("new").Weight; got != 9 {
		t.Errorf("an old change overwrote a new one: %d", got)
	}
}

func TestUnreadableRecordGrantsNothing(t *testing.T) {
	s := New(Config{Open: true})
	s.apply(change{key: "key.aaaaaaaaaaaaa", value: []byte(`{"hash":1`), revision: 1})
	s.swap(s.view)
	for _, bearer := range []string{"", Prefix + "aaaaaaaaaaaaa_" + strings.Repeat("a", 52)} {
		if p, err := s.Authenticate(bearer); err == nil {
			t.Errorf("%q got in as %+v", bearer, p)
		}
	}
}

func TestSlug(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "team-7": true, strings.Repeat("x", 32): true,
		"": false, strings.Repeat("x", 33): false, "A": false, "a.b": false, "a b": false, "é": false, "a>": false, "a*": false, "{a}": false, "a\n": false} {
		if err := Slug(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrSlug) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Prefix + "aaaaaaaaaaaaa_" + strings.Repeat("a", 52))
	f.Add("lorry__")
	f.Add("lorry_a_b_c")
	f.Fuzz(func(t *testing.T, key string) {
		id, secret, ok := parse(key)
		if ok && (Prefix+id+"_"+secret != key || !validID(id)) {
			t.Errorf("%q parsed to %q and %q", key, id, secret)
		}
	})
}

// A server that ends and comes back, with its folder: the view stands meanwhile, and follows again behind it.
func TestServerRestart(t *testing.T) {
	dir := t.TempDir()
	var running *server.Server
	t.Cleanup(func() { running.Shutdown(); running.WaitForShutdown() }) // behind the stores' ends
	run := func(port int) *server.Server {
		srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true})
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		running = srv
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("nats-server is not ready")
		}
		return srv
	}
	srv := run(server.RANDOM_PORT)
	port := srv.Addr().(*net.TCPAddr).Port
	connect := func() jetstream.JetStream {
		nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	watcher, writer := start(t, Config{JS: connect()}), New(Config{JS: connect()})
	old, k, err := writer.CreateKey(t.Context(), CreateKey{Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key works", func() bool { _, err := watcher.Authenticate(old); return err == nil })
	srv.Shutdown()
	srv.WaitForShutdown()
	if _, err := watcher.Authenticate(old); err != nil {
		t.Errorf("while the server is away: %v", err)
	}
	run(port)
	eventually(t, "the key is revoked", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // what is sent while the server starts may be lost
		defer cancel()
		return writer.Revoke(ctx, k.ID) == nil
	})
	eventually(t, "the key is dead", func() bool { _, err := watcher.Authenticate(old); return errors.Is(err, ErrBadKey) })
}
