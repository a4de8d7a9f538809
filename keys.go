package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"lorry/access"
	"lorry/cli"
	"lorry/webhook"
)

// bindTarget gives a command the flags that name a running Lorry.
func bindTarget(c *cobra.Command) func() (cli.Target, error) {
	load := bindConfig(c, "client")
	return func() (cli.Target, error) {
		cfg, err := load()
		if err != nil {
			return cli.Target{}, err
		}
		return target(cfg), nil
	}
}

// target is the Lorry that is set, else the one that runs on the data folder, else where one listens by default.
func target(cfg *Config) cli.Target {
	url := cfg.URL
	if url == "" {
		if r, ok, err := running(cfg.Data); err == nil && ok {
			url = r.HTTP
		}
	}
	return cli.Target{URL: cmp.Or(url, "http://127.0.0.1:8080"), Key: cfg.APIKey}
}

// keyBook is where keys are kept: on this box, or behind HTTP.
type keyBook interface {
	CreateKey(ctx context.Context, w cli.KeyWish) (cli.Key, error)
	Keys(ctx context.Context) ([]cli.Key, error)
	RevokeKey(ctx context.Context, id string) error
}

// overHTTP says whether keys are looked after through a URL: where the command line names one, or where one is set and
// neither a NATS nor, on the command line, a data folder is.
func overHTTP(cfg *Config) bool {
	flagged := func(name string) bool { return strings.HasPrefix(cfg.source(name), "flag") }
	return flagged("url") || cfg.URL != "" && cfg.NATS == "" && !flagged("data")
}

// openKeys is the fleet's NATS, by the settings or the data folder, or HTTP with an admin key.
func openKeys(ctx context.Context, cfg *Config) (keyBook, func(), error) {
	if overHTTP(cfg) {
		return cli.NewClient(cli.Target{URL: cfg.URL, Key: cfg.APIKey}), func() {}, nil
	}
	js, done, err := openJetStream(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	s := access.New(access.Config{JS: js, Replicas: cfg.Replicas, Log: zerolog.Nop()})
	if err := s.Setup(ctx); err != nil {
		done()
		return nil, nil, err
	}
	return boxKeys{s}, done, nil
}

// openJetStream is the fleet's JetStream from this box: the one that is set, that of the lorry up which runs on the data
// folder, or, where none runs, the folder's own, started for as long as the command takes.
func openJetStream(ctx context.Context, cfg *Config) (jetstream.JetStream, func(), error) {
	log := newLog(&Config{LogLevel: "error", LogFormat: "auto"}, io.Discard)
	at := places{NATS: cfg.NATS}
	stop := func() {}
	if at.NATS == "" {
		r, ok, err := running(cfg.Data)
		if err != nil {
			return nil, nil, err
		}
		if at = r.places; !ok {
			if at, stop, err = borrow(cfg, r, log); err != nil {
				return nil, nil, err
			}
		}
	}
	nc, err := openNATS(ctx, cfg, at, "admin", log)
	if err != nil {
		stop()
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return js, func() { closeNATS(nc); stop() }, err
}

func closeNATS(nc *nats.Conn) {
	_ = nc.FlushTimeout(time.Second)
	nc.Close()
}

// borrow starts the folder's NATS while no lorry runs on it.
func borrow(cfg *Config, last runFile, log logger) (places, func(), error) {
	unlock, err := lockUp(cfg.Data)
	if err != nil {
		return places{}, nil, err
	}
	n, err := startNATS(cfg, last, log)
	if err != nil {
		unlock()
		return places{}, nil, err
	}
	return places{NATS: n.url, Token: n.token}, func() { n.stop(); unlock() }, nil
}

// boxKeys are the keys in the bucket itself.
type boxKeys struct{ store *access.Store }

func (b boxKeys) CreateKey(ctx context.Context, w cli.KeyWish) (cli.Key, error) {
	secret, k, err := b.store.CreateKey(ctx, access.CreateKey{Tenant: w.Tenant, Admin: w.Admin, Name: w.Name})
	if errors.Is(err, access.ErrSlug) {
		err = usageError{err}
	}
	out := shownKey(k)
	out.Key = secret
	return out, err
}

func (b boxKeys) Keys(ctx context.Context) (out []cli.Key, err error) {
	ks, err := b.store.Keys(ctx)
	for _, k := range ks {
		out = append(out, shownKey(k))
	}
	return out, err
}

func (b boxKeys) RevokeKey(ctx context.Context, id string) error { return b.store.Revoke(ctx, id) }

func shownKey(k access.Key) cli.Key {
	return cli.Key{ID: k.ID, Object: "lorry.key", Tenant: k.Tenant, Admin: k.Admin, Name: k.Name, CreatedAt: k.Created, RevokedAt: k.Revoked}
}

func newKey() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make, list and revoke API keys",
		Long: `Make, list and revoke API keys.

On the box they are read and written in the data folder (whoever reads that owns the fleet), whether lorry up runs on
it or not; of a fleet, in its NATS (--nats, LORRY_NATS). With --url, or LORRY_URL and neither --data nor a NATS, they go
over HTTP, and LORRY_API_KEY must be an admin's. Keys are stored hashed: one that is lost is revoked and made anew.`,
		Example: `  lorry key create --tenant acme --name ci
  LORRY_API_KEY=$(lorry key create --tenant default --admin --data /srv/lorry | tail -n 1)
  lorry key revoke k3m…`}
	c.AddCommand(newKeyCreate(), newKeyList(), newKeyRevoke())
	return c
}

// keyCommand is a command over a keyBook.
func keyCommand(c *cobra.Command, run func(ctx context.Context, b keyBook, args []string, w io.Writer, format string) error) *cobra.Command {
	var format string
	load := bindConfig(c, "key")
	cli.OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		b, done, err := openKeys(c.Context(), cfg)
		if err != nil {
			return err
		}
		defer done()
		return run(c.Context(), b, args, c.OutOrStdout(), format)
	}
	return c
}

func newKeyCreate() *cobra.Command {
	var w cli.KeyWish
	c := keyCommand(&cobra.Command{Use: "create --tenant T", Short: "Make a key; it is shown once, alone on the last line", Args: cobra.NoArgs},
		func(ctx context.Context, b keyBook, _ []string, out io.Writer, format string) error {
			if w.Tenant == "" {
				return usageError{errors.New("--tenant is missing: whose work is it? (as --tenant acme; see lorry key create --help)")}
			}
			k, err := b.CreateKey(ctx, w)
			if err != nil {
				return err
			}
			if format == "json" {
				return cli.PrintJSON(out, k)
			}
			role := ""
			if k.Admin {
				role = " (admin)"
			}
			_, err = fmt.Fprintf(out, "key %s of tenant %s%s, shown this once:\n%s\n", k.ID, k.Tenant, role, k.Key)
			return err
		})
	c.Flags().StringVar(&w.Tenant, "tenant", "", "whose work the key submits: 1 to 32 of a-z, 0-9 and -")
	c.Flags().BoolVar(&w.Admin, "admin", false, "it may see all tenants, and make and revoke keys")
	c.Flags().StringVar(&w.Name, "name", "", "a note for people")
	return c
}

func newKeyList() *cobra.Command {
	return keyCommand(&cobra.Command{Use: "list", Short: "List keys, without their secrets", Args: cobra.NoArgs},
		func(ctx context.Context, b keyBook, _ []string, out io.Writer, format string) error {
			ks, err := b.Keys(ctx)
			if err != nil {
				return err
			}
			if format == "json" {
				return cli.PrintJSON(out, map[string]any{"object": "list", "data": append([]cli.Key{}, ks...)})
			}
			return cli.Table(out, "ID\tTENANT\tADMIN\tNAME\tCREATED\tREVOKED", ks, func(k cli.Key) []any {
				return []any{k.ID, k.Tenant, k.Admin, k.Name, cli.Stamp(k.CreatedAt), cli.Stamp(k.RevokedAt)}
			})
		})
}

func newKeyRevoke() *cobra.Command {
	return keyCommand(&cobra.Command{Use: "revoke ID...", Short: "End keys; it takes effect everywhere within a moment", Args: cobra.MinimumNArgs(1)},
		func(ctx context.Context, b keyBook, args []string, out io.Writer, format string) error {
			for _, id := range args {
				if err := b.RevokeKey(ctx, id); err != nil {
					return fmt.Errorf("%w (lorry key list shows their IDs)", err)
				}
				if format != "json" {
					fmt.Fprintf(out, "revoked %s\n", id)
				}
			}
			if format == "json" {
				return cli.PrintJSON(out, map[string]any{"revoked": args})
			}
			return nil
		})
}

func newWebhook() *cobra.Command {
	c := &cobra.Command{Use: "webhook", Short: "Look after webhooks",
		Example: `  lorry webhook create https://example.com/hook --events batch.*
  lorry webhook deliveries
  lorry webhook listen`}
	c.AddCommand(newWebhookSecret())
	c.AddCommand(cli.WebhookCommands(bindTarget, verifyWebhook)...)
	return c
}

// verifyWebhook is the receiver's side of a signature.
func verifyWebhook(secret string, h http.Header, body []byte) error {
	return webhook.Verify(secret, h.Get(webhook.HeaderID), h.Get(webhook.HeaderTimestamp), h.Get(webhook.HeaderSignature), body, time.Now())
}

func newWebhookSecret() *cobra.Command {
	var format string
	c := &cobra.Command{Use: "secret", Short: "Print the secret that signs webhooks without one of their own", Args: cobra.NoArgs,
		Example: `  lorry webhook secret --data /srv/lorry
  export OPENAI_WEBHOOK_SECRET=$(lorry webhook secret)   # the OpenAI SDKs verify with it: client.webhooks.unwrap`}
	load := bindConfig(c, "webhook")
	cli.OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		secret, err := instanceSecret(c.Context(), cfg)
		if err != nil {
			return err
		}
		if format == "json" {
			return cli.PrintJSON(c.OutOrStdout(), map[string]string{"secret": secret})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), secret)
		return err
	}
	return c
}

func instanceSecret(ctx context.Context, cfg *Config) (string, error) {
	js, done, err := openJetStream(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer done()
	sealer, err := newSealer(cfg, cfg.NATS == "")
	if err != nil {
		return "", err
	}
	s := webhook.NewSecrets(webhook.SecretsConfig{JS: js, Replicas: cfg.Replicas, Sealer: sealer, Log: zerolog.Nop()})
	if err := s.Setup(ctx); err != nil {
		return "", err
	}
	return s.InstanceSecret(ctx)
}

func newModel() *cobra.Command {
	c := &cobra.Command{Use: "model", Short: "Look at models, add and delete models and adapters"}
	path := &cobra.Command{Use: "path NAME", Short: "Print the file of a model that this box can serve", Args: cobra.ExactArgs(1),
		Example: `  lorry model path smollm2`}
	var format string
	load := bindConfig(path, "model")
	cli.OutputFlag(path, &format)
	path.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		file, name, err := modelOf(cfg)
		if err != nil {
			return err
		}
		if args[0] != name {
			return fmt.Errorf("no model %s here: this box has %s (--model-file and --model-name name another)", args[0], name)
		}
		if format == "json" {
			return cli.PrintJSON(c.OutOrStdout(), map[string]string{"name": name, "path": file})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), file)
		return err
	}
	c.AddCommand(path)
	c.AddCommand(cli.ModelCommands(bindTarget)...)
	return c
}
