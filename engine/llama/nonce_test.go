package llama

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"lorry/engine"
)

// conversation is one of a tenant's: it begins as all tenants' do, and holds a number that nobody else may see.
type conversation struct {
	tenant, nonce string
}

func (c conversation) request(account string) *engine.Request {
	r := ask(fmt.Sprintf("You are a clerk of a company with many customers. You answer each customer about the own account, and about "+
		"the account of nobody else. What is written here is for this customer alone, and stays between the two of you. "+
		"This is account %s. The number is %s. Again: the number is %s. Again: the number is", account, c.nonce, c.nonce), 8)
	r.ID, r.Scope = c.nonce, c.tenant
	return r
}

// TestNonce has 16 tenants ask at the same moment, again and again, on a cache so small that cells go from one to the
// other all the time. Prompts begin alike across tenants. No answer may hold another conversation's number, and the
// model copies its own, so a leak would show.
func TestNonce(t *testing.T) {
	const tenants, each = 16, 6
	c := quickly(t)
	c.Context, c.IdleCells, c.StepTarget = 1800, 900, -1
	e := open(t, c)
	seeds := rand.New(rand.NewPCG(1, 2)) // the same numbers in every run
	number := func() string { return fmt.Sprint(100000 + seeds.IntN(900000)) }
	tenant := func(i int) int { return i / each }
	var accounts []string
	for range tenants {
		accounts = append(accounts, number())
	}
	var all []conversation
	for i := range tenants * each {
		all = append(all, conversation{fmt.Sprint("tenant ", tenant(i)), number()})
	}
	got := make([]*engine.Completion, len(all))
	var wg sync.WaitGroup
	for lane := range tenants { // a tenant's conversations come one after the other, all tenants' at once
		wg.Go(func() {
			for i := lane * each; i < (lane+1)*each; i++ {
				var err error
				if got[i], err = e.Run(t.Context(), all[i].request(accounts[lane]), nil); err != nil {
					t.Errorf("conversation %d: %v", i, err)
					return
				}
			}
		})
	}
	if wg.Wait(); t.Failed() {
		return
	}
	secrets := append([]string{}, accounts...)
	for _, c := range all {
		secrets = append(secrets, c.nonce)
	}
	own, cached := 0, 0
	for i, c := range all {
		text := got[i].Choices[0].Text
		if strings.Contains(text, c.nonce) {
			own++
		}
		if got[i].Usage.CachedTokens > 0 {
			cached++
		}
		for _, s := range secrets {
			if s != c.nonce && s != accounts[tenant(i)] && strings.Contains(text, s) {
				t.Errorf("conversation %d of %s was told %s, which is another's: %q", i, c.tenant, s, text)
			}
		}
	}
	s := e.Stats()
	t.Logf("%d of %d answers hold their number, %d shared with their own; %+v", own, len(all), cached, s)
	if own < len(all)*9/10 || cached < len(all)/4 || s.Mismatched > 0 {
		t.Errorf("only %d of %d answers hold their own number, %d shared cells, %d times the book was wrong: a leak might not show",
			own, len(all), cached, s.Mismatched)
	}
}

// TestSharedIsTheSame compares greedy answers on shared cells with those of an engine that computed every prompt alone.
// Cells in other places and other cuts of the prompt move quantized logits by some hundredths to tenths, so a token may
// differ where two are as likely. Here the model is sure of the first ones.
func TestSharedIsTheSame(t *testing.T) {
	const n, certain = 12, 6
	shared := open(t, quickly(t))
	c := quickly(t)
	c.NoShare = true
	alone := open(t, c)
	request := func(i int) *engine.Request {
		r := conversation{"a", fmt.Sprint(111111 + i*54321)}.request("777123")
		r.Sampling.Logprobs, r.Sampling.IgnoreEOS = true, true
		return r
	}
	got := atOnce(t, shared, n, request)
	same := 0
	for i := range n {
		want := answer(t, alone, request(i))
		a, b := want.Choices[0].Logprobs, got[i].Choices[0].Logprobs
		for j := range certain {
			if a[j].Token != b[j].Token {
				t.Errorf("request %d, token %d: alone %q %v, shared %q %v", i, j, a[j].Token, a[j].Logprob, b[j].Token, b[j].Logprob)
				break
			}
		}
		if want.Choices[0].Text == got[i].Choices[0].Text {
			same++
		}
		if want.Usage.CachedTokens != 0 {
			t.Errorf("request %d shared %d tokens though it was not to", i, want.Usage.CachedTokens)
		}
	}
	s := shared.Stats()
	t.Logf("%d of %d whole answers are the same, %d tokens were shared", same, n, s.Shared)
	if s.Shared < n*20 {
		t.Errorf("only %d tokens were shared", s.Shared)
	}
}
