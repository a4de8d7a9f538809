package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// tenantCommand runs a command below tenant.
func tenantCommand(t *testing.T, cl *Client, args ...string) (string, error) {
	t.Helper()
	c := NewTenant(func(*cobra.Command) func() (Target, error) { return func() (Target, error) { return cl.target, nil } })
	c.SilenceUsage, c.SilenceErrors = true, true
	var out bytes.Buffer
	c.SetArgs(args)
	c.SetOut(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestTenantCommands(t *testing.T) {
	var got string
	const acme = `{"tenant":"acme","weight":3,"requests_per_minute":600,"paused":true}`
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = fmt.Sprint(r.Method, " ", r.URL, " ", string(b))
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"object":"list","data":[%s]}`, acme)
			return
		}
		fmt.Fprint(w, acme)
	})
	for name, c := range map[string]struct {
		args       []string
		sent, said string
	}{
		"list":          {[]string{"list"}, "GET /lorry/v1/tenants ", "acme    3       600           -"},
		"some settings": {[]string{"set", "acme", "--weight", "3", "--requests-per-minute=600", "--paused"}, `PATCH /lorry/v1/tenants/acme {"paused":true,"requests_per_minute":600,"weight":3}`, "true"},
		"back to none":  {[]string{"set", "acme", "--tokens-per-minute", "0"}, `PATCH /lorry/v1/tenants/acme {"tokens_per_minute":0}`, "acme"},
		"as JSON":       {[]string{"set", "acme", "--enqueued-tokens", "9", "-o", "json"}, `PATCH /lorry/v1/tenants/acme {"enqueued_tokens":9}`, `"weight": 3`},
	} {
		t.Run(name, func(t *testing.T) {
			said, err := tenantCommand(t, cl, c.args...)
			if err != nil || got != c.sent || !strings.Contains(said, c.said) {
				t.Errorf("sent %q, said %q, %v", got, said, err)
			}
		})
	}
	for name, args := range map[string][]string{"nothing": {"set", "acme"}, "no tenant": {"set", "--weight", "2"}, "no number": {"set", "acme", "--weight", "x"}} {
		if _, err := tenantCommand(t, cl, args...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
