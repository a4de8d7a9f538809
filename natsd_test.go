package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

func natsConfig(t *testing.T) *Config {
	t.Helper()
	c := defaults()
	c.Data = t.TempDir()
	if err := makeData(c.Data); err != nil {
		t.Fatal(err)
	}
	return &c
}

// A restart takes its port and token again, so that workers in other processes find it; and a message that was
// acknowledged is there.
func TestNATSRestarts(t *testing.T) {
	c, log := natsConfig(t), zerolog.Nop()
	n, err := startNATS(c, runFile{}, log)
	if err != nil {
		t.Fatal(err)
	}
	js := connectTo(t, c, places{NATS: n.url, Token: n.token})
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	n.stop()
	last := runFile{places: places{NATS: n.url, Token: n.token}}
	again, err := startNATS(c, last, log)
	if err != nil {
		t.Fatal(err)
	}
	defer again.stop()
	if again.url != n.url || again.token != n.token {
		t.Errorf("it is at %s, was at %s", again.url, n.url)
	}
	s, err := connectTo(t, c, last.places).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetMsg(t.Context(), 1); err != nil || string(m.Data) != "kept" {
		t.Errorf("got %v, %v", m, err)
	}
	t.Run("the port is taken", func(t *testing.T) {
		other := natsConfig(t)
		third, err := startNATS(other, last, log)
		if err != nil {
			t.Fatal(err)
		}
		defer third.stop()
		if third.url == n.url {
			t.Error("two servers on a port")
		}
	})
	t.Run("without the token", func(t *testing.T) {
		began := time.Now()
		_, err := openNATS(t.Context(), c, places{NATS: n.url}, "test", log)
		if err == nil || !strings.Contains(err.Error(), "Authorization") || time.Since(began) >= connectWait {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

func connectTo(t *testing.T, c *Config, at places) jetstream.JetStream {
	t.Helper()
	nc, err := openNATS(t.Context(), c, at, "test", zerolog.Nop())
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

// serve starts a server that is not ours.
func serve(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs = "127.0.0.1", server.RANDOM_PORT, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	return s.ClientURL()
}

func TestNATSWithoutJetStream(t *testing.T) {
	c := natsConfig(t)
	c.NATS = serve(t, &server.Options{})
	nc, err := openNATS(t.Context(), c, places{NATS: c.NATS}, "test", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := checkNATS(ctx, nc, c, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "JetStream is off") {
		t.Errorf("got %v", err)
	}
}

// A single server that flushes rarely is named where the account may see it.
func TestNATSSync(t *testing.T) {
	for name, tc := range map[string]struct {
		always bool
		want   string
	}{"rarely": {false, "does not flush at every write"}, "always": {true, ""}} {
		t.Run(name, func(t *testing.T) {
			sys := server.NewAccount("SYS")
			url := serve(t, &server.Options{JetStream: true, StoreDir: t.TempDir(), SyncAlways: tc.always, Accounts: []*server.Account{sys}, SystemAccount: "SYS",
				Users: []*server.User{{Username: "u", Password: "p", Account: sys}}})
			c := natsConfig(t)
			c.NATS = strings.Replace(url, "://", "://u:p@", 1)
			nc, err := openNATS(t.Context(), c, places{NATS: c.NATS}, "test", zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			var log strings.Builder
			warnSync(t.Context(), nc, zerolog.New(&log))
			if got := log.String(); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// certificates writes an authority, and a certificate of it for 127.0.0.1, for both ends.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert = write("cert.pem", "CERTIFICATE", der)
	return cert, cert, write("key.pem", "PRIVATE KEY", kb)
}

func TestNATSOverTLS(t *testing.T) {
	ca, cert, key := certificates(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	b, _ := os.ReadFile(ca)
	pool.AppendCertsFromPEM(b)
	url := serve(t, &server.Options{TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, TLSTimeout: 5})
	url = strings.Replace(url, "nats://", "tls://", 1)
	for name, tc := range map[string]struct {
		ca, cert, key string
		works         bool
	}{"all files": {ca, cert, key, true}, "no authority": {"", cert, key, false}, "no certificate": {ca, "", "", false}, "no file there": {"/none.pem", cert, key, false}} {
		t.Run(name, func(t *testing.T) {
			c := natsConfig(t)
			c.NATSCA, c.NATSCert, c.NATSKey = tc.ca, tc.cert, tc.key
			patience := 2 * time.Second // what is refused is tried again until then
			if tc.works {
				patience = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			nc, err := openNATS(ctx, c, places{NATS: url}, "test", zerolog.Nop())
			if (err == nil) != tc.works {
				t.Errorf("got %v", err)
			}
			if nc != nil {
				nc.Close()
			}
		})
	}
}

func TestCrewStopsInOrder(t *testing.T) {
	c := newCrew(zerolog.Nop(), time.Second)
	var order []string
	for _, name := range []string{"a", "b", "c"} {
		c.closer(name, func() { order = append(order, name) })
	}
	c.stop()
	if got := strings.Join(order, ""); got != "cba" {
		t.Errorf("got %s", got)
	}
	c.start("d", func(context.Context) error { return nil })
	if err := c.finish(t.Context()); err == nil || !strings.Contains(err.Error(), "d ended by itself") {
		t.Errorf("got %v", err)
	}
}
