package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// Hook is a webhook endpoint, as far as people read it.
type Hook struct {
	ID          string   `json:"id"`
	URL         string   `json:"url"`
	Events      []string `json:"events"`
	Description string   `json:"description"`
	Status      string   `json:"status"`
	Reason      string   `json:"status_reason"`
	Secret      string   `json:"secret"`
	Failing     *struct {
		PausedUntil int64  `json:"paused_until"`
		Error       string `json:"error"`
	} `json:"failing"`
}

// state is how the endpoint fares, in a few words.
func (h *Hook) state() string {
	if h.Failing != nil {
		return "failing, next try " + Stamp(h.Failing.PausedUntil)
	}
	return h.Status
}

const hooksPath = "/lorry/v1/webhooks"

// Verify says whether a webhook's signature is right.
type Verify func(secret string, h http.Header, body []byte) error

// WebhookCommands look after webhook endpoints, and listen like one.
func WebhookCommands(bind Bind, verify Verify) []*cobra.Command {
	return []*cobra.Command{newHookListen(verify), newHookCreate(bind), newHookList(bind), newHookStatus(bind, "pause", "paused", "Stop sending an endpoint events: they wait, for 72 hours at most"),
		newHookStatus(bind, "enable", "enabled", "Send an endpoint events again, also one that was disabled"), newHookRotate(bind), newHookTest(bind),
		newHookDeliveries(bind), newHookReplay(bind), newHookDelete(bind)}
}

// hookCommand is a command that calls the API once and prints what it answers: as JSON, or by text.
func hookCommand[T any](bind Bind, c *cobra.Command, call func(ctx context.Context, cl *Client, args []string) (json.RawMessage, error), text func(io.Writer, T) error) *cobra.Command {
	var format string
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			raw, err := call(ctx, cl, args)
			if err != nil {
				return err
			}
			return show(c.OutOrStdout(), format, raw, text)
		})
	}
	return c
}

// onHook calls the API on an endpoint.
func onHook(ctx context.Context, cl *Client, method, id, suffix string, body any) (raw json.RawMessage, err error) {
	return raw, cl.do(ctx, method, hooksPath+"/"+url.PathEscape(id)+suffix, nil, body, &raw)
}

func printHook(w io.Writer, h Hook) error {
	if _, err := fmt.Fprintf(w, "%s  %s  %s  %s\n", h.ID, h.state(), h.URL, strings.Join(h.Events, ",")); err != nil || h.Secret == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "its secret, shown this once:\n%s\n", h.Secret)
	return err
}

func newHookCreate(bind Bind) *cobra.Command {
	var events []string
	var description string
	c := &cobra.Command{Use: "create URL", Short: "Make an endpoint; its secret is shown once, alone on the last line", Args: cobra.ExactArgs(1),
		Long: `Make an endpoint: a URL that gets signed events.

Events are batch.completed, batch.failed, batch.expired, batch.cancelled, response.completed, response.failed,
response.cancelled, response.incomplete, lorry.job.succeeded, lorry.job.failed, lorry.job.cancelled, lorry.job.expired;
lorry.alert.endpoint_paused and lorry.alert.endpoint_disabled, which tell of your other endpoints; a group of them as batch.*;
or * for all. Jobs whose answer somebody waited for tell of nothing.`,
		Example: `  lorry webhook create https://example.com/hook --events batch.*,response.completed
  OPENAI_WEBHOOK_SECRET=$(lorry webhook create https://example.com/hook | tail -n 1)   # for client.webhooks.unwrap`}
	c.Flags().StringSliceVar(&events, "events", []string{"*"}, "what to tell of, by commas")
	c.Flags().StringVar(&description, "description", "", "what it is for")
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (raw json.RawMessage, err error) {
		body := map[string]any{"url": args[0], "events": events}
		if description != "" {
			body["description"] = description
		}
		return raw, cl.do(ctx, http.MethodPost, hooksPath, nil, body, &raw)
	}, printHook)
}

func newHookList(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List endpoints and how they fare", Args: cobra.NoArgs,
		Example: `  lorry webhook list
  lorry webhook list -o json | jq '.data[] | select(.failing)'`}
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, _ []string) (raw json.RawMessage, err error) {
		return raw, cl.do(ctx, http.MethodGet, hooksPath, nil, nil, &raw)
	}, func(w io.Writer, page struct{ Data []Hook }) error {
		return Table(w, "ID\tSTATUS\tURL\tEVENTS\tWHY", page.Data, func(h Hook) []any {
			why := h.Reason
			if h.Failing != nil {
				why = h.Failing.Error
			}
			return []any{h.ID, h.state(), h.URL, strings.Join(h.Events, ","), why}
		})
	})
}

func newHookStatus(bind Bind, use, status, short string) *cobra.Command {
	c := &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  lorry webhook " + use + " we_01kb2c…"}
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (json.RawMessage, error) {
		return onHook(ctx, cl, http.MethodPatch, args[0], "", map[string]string{"status": status})
	}, printHook)
}

func newHookRotate(bind Bind) *cobra.Command {
	var overlap time.Duration
	c := &cobra.Command{Use: "rotate ID", Short: "Give an endpoint a new secret, shown once; the old one signs too for a while", Args: cobra.ExactArgs(1),
		Example: `  lorry webhook rotate we_01kb2c…
  lorry webhook rotate we_01kb2c… --overlap 0s   # the old one leaked`}
	c.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old secret signs too, up to 168h")
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (json.RawMessage, error) {
		return onHook(ctx, cl, http.MethodPost, args[0], "/rotate", map[string]int{"overlap_seconds": int(overlap.Seconds())})
	}, printHook)
}

func newHookTest(bind Bind) *cobra.Command {
	var kind string
	c := &cobra.Command{Use: "test ID", Short: "Send an endpoint a test event", Args: cobra.ExactArgs(1),
		Example: `  lorry webhook test we_01kb2c… --type batch.completed
  lorry webhook deliveries we_01kb2c…   # what became of it`}
	c.Flags().StringVar(&kind, "type", "", "the event's type; empty: lorry.test")
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (json.RawMessage, error) {
		body := map[string]string{}
		if kind != "" {
			body["type"] = kind
		}
		return onHook(ctx, cl, http.MethodPost, args[0], "/test", body)
	}, printDelivery)
}

// delivery is an event's way to a receiver, as far as people read it.
type delivery struct {
	ID       string `json:"id"`
	Endpoint string `json:"endpoint"`
	Event    string `json:"event"`
	Type     string `json:"type"`
	Status   string `json:"status"`
	Attempts []struct {
		At         int64  `json:"at"`
		StatusCode int    `json:"status_code"`
		TookMS     int64  `json:"took_ms"`
		Error      string `json:"error"`
	} `json:"attempts"`
}

func printDelivery(w io.Writer, d delivery) error {
	_, err := fmt.Fprintf(w, "%s  %s  %s  %s\n", d.ID, d.Status, d.Type, d.Event)
	return err
}

func newHookDeliveries(bind Bind) *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "deliveries [ID]", Short: "Show the log of an endpoint, or of all webhooks, the latest first", Args: cobra.MaximumNArgs(1),
		Example: `  lorry webhook deliveries
  lorry webhook deliveries we_01kb2c… --limit 100 -o json`}
	c.Flags().IntVar(&limit, "limit", 20, "how many, 1 to 100")
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (raw json.RawMessage, err error) {
		path := hooksPath
		if len(args) > 0 {
			path += "/" + url.PathEscape(args[0])
		}
		return raw, cl.do(ctx, http.MethodGet, path+"/deliveries?limit="+strconv.Itoa(limit), nil, nil, &raw)
	}, printDeliveries)
}

func printDeliveries(w io.Writer, page struct{ Data []delivery }) error {
	return Table(w, "ID\tSTATUS\tTYPE\tTRIES\tLAST\tANSWER\tTOOK\tERROR", page.Data, func(d delivery) []any {
		last := d.Attempts[0]
		return []any{d.ID, d.Status, d.Type, len(d.Attempts), Stamp(last.At), last.StatusCode, fmt.Sprint(last.TookMS, " ms"), last.Error}
	})
}

func newHookReplay(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "replay DELIVERY", Short: "Send an event of the log again, under its own ID", Args: cobra.ExactArgs(1),
		Example: `  lorry webhook replay dlv_01kb2c…
  lorry webhook deliveries -o json | jq -r '.data[] | select(.status == "given up").id' | xargs -n 1 lorry webhook replay`}
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (raw json.RawMessage, err error) {
		return raw, cl.do(ctx, http.MethodPost, hooksPath+"/deliveries/"+url.PathEscape(args[0])+"/replay", nil, nil, &raw)
	}, printDelivery)
}

func newHookDelete(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "delete ID", Short: "Delete an endpoint, and its events that are on their way", Args: cobra.ExactArgs(1), Example: "  lorry webhook delete we_01kb2c…"}
	return hookCommand(bind, c, func(ctx context.Context, cl *Client, args []string) (json.RawMessage, error) {
		return onHook(ctx, cl, http.MethodDelete, args[0], "", nil)
	}, func(w io.Writer, raw json.RawMessage) error {
		var h Hook
		if err := json.Unmarshal(raw, &h); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		_, err := fmt.Fprintln(w, "deleted", h.ID)
		return err
	})
}

// maxEvent is more than Lorry sends.
const maxEvent = 1 << 20

func newHookListen(verify Verify) *cobra.Command {
	var port int
	var secret, format string
	c := &cobra.Command{Use: "listen", Short: "Receive webhooks on this machine, verify and print them", Args: cobra.NoArgs,
		Long: `Receive webhooks on this machine, verify and print them, until Ctrl-C.

A Lorry sends to 127.0.0.1 only if it was started with LORRY_WEBHOOK_ALLOW=127.0.0.0/8. The secret is the endpoint's,
or, for webhooks that came with a job, what lorry webhook secret prints. What it did not sign is answered with 401.`,
		Example: `  export LORRY_WEBHOOK_SECRET=$(lorry webhook create http://127.0.0.1:8975/ --events 'batch.*' | tail -n 1)
  lorry webhook listen
  lorry webhook listen --port 9000 -o json | jq .type`}
	c.Flags().IntVar(&port, "port", 8975, "port on 127.0.0.1; 0: any that is free")
	c.Flags().StringVar(&secret, "secret", "", "secret to verify with; empty: LORRY_WEBHOOK_SECRET, else OPENAI_WEBHOOK_SECRET, else nothing is verified")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		secret := cmp.Or(secret, os.Getenv("LORRY_WEBHOOK_SECRET"), os.Getenv("OPENAI_WEBHOOK_SECRET"))
		return listen(c.Context(), port, &printer{w: c.OutOrStdout(), json: format == "json", secret: secret, verify: verify}, c.ErrOrStderr())
	}
	return c
}

func listen(ctx context.Context, port int, p *printer, errs io.Writer) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w (--port names another one)", err)
	}
	note := ""
	if p.secret == "" {
		note = ", verifying nothing: no secret is set"
	}
	fmt.Fprintf(errs, "listening on http://%s/%s\n", l.Addr(), note)
	s := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// printer is a receiver that prints.
type printer struct {
	mu     sync.Mutex // events come at the same moment
	w      io.Writer
	json   bool
	secret string
	verify Verify
}

func (p *printer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "a webhook is a POST of at most 1 MiB", http.StatusBadRequest)
		return
	}
	word := "unverified"
	if p.secret != "" {
		if word, err = "verified", p.verify(p.secret, r.Header, body); err != nil {
			word = "REFUSED: " + err.Error()
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	p.print(word, err == nil, body)
}

// print writes a line for an event, or the event itself if it is to be trusted.
func (p *printer) print(word string, good bool, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		if good {
			fmt.Fprintf(p.w, "%s\n", strings.ReplaceAll(string(body), "\n", " "))
		}
		return
	}
	var e struct {
		ID, Type string
		Data     json.RawMessage
	}
	_ = json.Unmarshal(body, &e) // what is no event is printed with empty names
	fmt.Fprintf(p.w, "%s  %s  %s  %s  %s\n", time.Now().Format(time.TimeOnly), word, e.Type, e.ID, e.Data)
}
