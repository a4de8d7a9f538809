package producer

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"lorry/result"
)

// charge puts the job down to its tenant's rate before it is sent, and says in OpenAI's headers what is left. What the
// cache answers is not charged. A tenant without a rate costs nothing here.
func (t *trip) charge(ctx context.Context) error {
	rate, cost := result.Rate(t.s.cfg.Access.Tenant(t.job.Tenant).Rate()), t.job.Cost()
	if rate == (result.Rate{}) {
		return nil
	}
	if rate.Tokens > 0 && cost > rate.Tokens {
		e := t.overRate("tokens", "Request too large for %s: Limit %d, Requested %d. The input or output tokens must be reduced in order to run successfully.",
			"tokens per min (TPM)", rate.Tokens, cost)
		e.Final = true
		return e
	}
	a, err := t.s.cfg.Results.Take(ctx, t.job.Tenant, rate, cost)
	if err != nil {
		return err
	}
	h := t.w.Header()
	rateHeaders(h, "requests", rate.Requests, a.RequestsFull)
	rateHeaders(h, "tokens", rate.Tokens, a.TokensFull)
	if a.Held == result.Nothing {
		return nil
	}
	return t.held(rate, a, cost)
}

// held is a 429 that says of what there is none left, and until when.
func (t *trip) held(r result.Rate, a result.Allowance, cost int) error {
	name, what, limit, full := "requests", "requests per min (RPM)", r.Requests, a.RequestsFull
	if a.Held == result.Tokens {
		name, what, limit, full = "tokens", "tokens per min (TPM)", r.Tokens, a.TokensFull
	} else {
		cost = 1
	}
	e := t.overRate(name, "Rate limit reached for %s: Limit %d, Used %d, Requested %d. Please try again in %s.",
		what, limit, limit-result.Left(limit, full), cost, a.Wait.Round(time.Millisecond))
	e.RetryAfter = (a.Wait + time.Second - 1).Truncate(time.Second) // whole seconds are sent, and a moment too early is another 429
	t.w.Header().Set("Retry-After-Ms", strconv.FormatInt(a.Wait.Milliseconds()+1, 10))
	return e
}

// overRate is OpenAI's error: its type is what there was too much of.
func (t *trip) overRate(kind, format, what string, args ...any) *apiError {
	t.w.Header().Del(headerJob) // there is none
	whose := fmt.Sprintf("%s in organization %s on %s", t.job.Request.Model.Name, t.job.Tenant, what)
	return &apiError{Status: http.StatusTooManyRequests, Type: kind, Code: codeRate, Message: fmt.Sprintf(format, append([]any{whose}, args...)...)}
}

func rateHeaders(h http.Header, name string, limit int, full time.Duration) {
	if limit == 0 {
		return
	}
	h.Set("X-Ratelimit-Limit-"+name, strconv.Itoa(limit))
	h.Set("X-Ratelimit-Remaining-"+name, strconv.Itoa(result.Left(limit, full)))
	h.Set("X-Ratelimit-Reset-"+name, full.Round(time.Millisecond).String())
}
