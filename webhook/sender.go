package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"code.dny.dev/ssrf"
)

// SenderConfig says how events are sent.
type SenderConfig struct {
	// Allow opens prefixes that the guard would refuse, as 127.0.0.0/8.
	Allow []netip.Prefix
	// Timeout bounds one attempt, from the dial to the answer's headers and the little of its body that is read. 0: 15 s.
	Timeout time.Duration
	// UserAgent names the sender; empty is "Lorry-Webhook/1".
	UserAgent string
}

// Sender sends events. It may be used from many goroutines.
type Sender struct {
	cfg    SenderConfig
	client *http.Client
}

// Delivery is one attempt to be made.
type Delivery struct {
	ID   string
	URL  string
	Body []byte
	// Secrets sign; more than one while a secret is rotated out.
	Secrets []string
}

// Kind is how an attempt ended.
type Kind int

const (
	// Delivered: the receiver answered 2xx.
	Delivered Kind = iota
	// Retry: it did not, or could not be reached. Redirects count, since they are not followed.
	Retry
	// Gone: it answered 410 and wants no more of this.
	Gone
	// Refused: the guard refused the address, and nothing was sent. The name may stand for another one later, and the
	// operator may open it: it is tried again like any failure.
	Refused
	// Broken: it can't be sent at all, ever: the URL or the secret is unusable.
	Broken
)

// String is the kind's name in metrics and lists.
func (k Kind) String() string {
	return [...]string{"delivered", "failed", "gone", "refused", "broken"}[k]
}

// Outcome is what became of an attempt.
type Outcome struct {
	Kind Kind
	// Status is the receiver's; 0 where there was no answer.
	Status int
	// After is what the receiver asked to wait (Retry-After); 0 for nothing.
	After time.Duration
	Took  time.Duration
	// Err says what went wrong; nil when Delivered. It holds nothing of the receiver's answer but the status: a webhook
	// must not be a way to read from the operator's network.
	Err error
}

// NewSender makes a Sender.
func NewSender(c SenderConfig) *Sender {
	c.Timeout = cmp.Or(c.Timeout, 15*time.Second)
	c.UserAgent = cmp.Or(c.UserAgent, "Lorry-Webhook/1")
	// The guard sees the address that is dialled, on every attempt: a name that changes what it stands for gets nowhere.
	d := &net.Dialer{Timeout: c.Timeout, KeepAlive: 30 * time.Second, Control: guardian(c.Allow).Safe}
	t := &http.Transport{
		Proxy:       nil, // a proxy from the environment would dial for us, past the guard
		DialContext: d.DialContext, ForceAttemptHTTP2: true,
		// A receiver gets a bounded number of connections, and they are kept for a burst's next event.
		MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64, MaxIdleConns: 512, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: c.Timeout, MaxResponseHeaderBytes: 64 << 10,
	}
	return &Sender{cfg: c, client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Allow is what the operator opened, for CheckURL.
func (s *Sender) Allow() []netip.Prefix { return s.cfg.Allow }

// Close ends idle connections.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Send makes one attempt, stamped and signed now.
func (s *Sender) Send(ctx context.Context, d Delivery) Outcome {
	start := time.Now()
	o := s.send(ctx, d, start)
	o.Took = time.Since(start)
	return o
}

func (s *Sender) send(ctx context.Context, d Delivery, now time.Time) Outcome {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("no answer within %s", s.cfg.Timeout))
	defer cancel()
	r, err := s.request(ctx, d, now)
	if err != nil {
		return Outcome{Kind: Broken, Err: err}
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return unsent(ctx, d, err)
	}
	defer func() { _ = resp.Body.Close() }()
	// A short body is read so that the connection can serve the next event; a long one is cut off.
	_, _ = io.CopyN(io.Discard, resp.Body, maxRead)
	return answered(d, resp, now)
}

const maxRead = 32 << 10

func (s *Sender) request(ctx context.Context, d Delivery, now time.Time) (*http.Request, error) {
	if _, err := parseURL(d.URL); err != nil {
		return nil, fmt.Errorf("webhook: %w: %w", ErrURL, err)
	}
	sig, err := SignAll(d.Secrets, d.ID, now, d.Body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, bytes.NewReader(d.Body))
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", ErrURL)
	}
	r.Header.Set("User-Agent", s.cfg.UserAgent)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(HeaderID, d.ID)
	r.Header.Set(HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(HeaderSignature, sig)
	// Not sent: it tells net/http that the request may be repeated on a new connection when a kept one turns out dead.
	r.Header["Idempotency-Key"] = nil
	return r, nil
}

// unsent is an attempt without an answer. Errors of net/http hold the whole URL, whose query may hold secrets: only the
// innermost cause is kept.
func unsent(ctx context.Context, d Delivery, err error) Outcome {
	for _, refused := range []error{ssrf.ErrProhibitedIP, ssrf.ErrProhibitedNetwork, ssrf.ErrInvalidHostPort} {
		if errors.Is(err, refused) {
			return Outcome{Kind: Refused, Err: fmt.Errorf("webhook: %s: private or special address; the operator may open it with LORRY_WEBHOOK_ALLOW", target(d.URL))}
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return Outcome{Kind: Retry, Err: fmt.Errorf("webhook: POST %s: %w", target(d.URL), err)}
}

func answered(d Delivery, resp *http.Response, now time.Time) Outcome {
	o := Outcome{Status: resp.StatusCode}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return o
	case resp.StatusCode == http.StatusGone:
		o.Kind = Gone
	default:
		o.Kind, o.After = Retry, retryAfter(resp.Header.Get("Retry-After"), now)
	}
	o.Err = fmt.Errorf("webhook: POST %s: status %d", target(d.URL), resp.StatusCode)
	return o
}

// retryAfter reads seconds or a date; 0 for neither.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
