package remote

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// address is where the server is.
type address struct {
	root string // normalized, without /v1: what stands in digests
	host string
}

// parseAddress normalizes a URL, so that one server has one digest however its address is written.
func parseAddress(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, fmt.Errorf("engine/remote: parse URL: %w", err)
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return address{}, fmt.Errorf("engine/remote: %q is no http or https URL", u.Redacted())
	case u.Hostname() == "":
		return address{}, fmt.Errorf("engine/remote: %q names no host", u.Redacted())
	case u.User != nil:
		return address{}, fmt.Errorf("engine/remote: %q holds a password: give the key apart from the URL", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return address{}, fmt.Errorf("engine/remote: %q holds a query: only scheme, host and path are used", u.Redacted())
	}
	if u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	path = strings.TrimRight(strings.TrimSuffix(path, "/v1"), "/")
	return address{root: u.Scheme + "://" + u.Host + path, host: u.Host}, nil
}

// digest stands for a model whose weights can't be seen. It holds no key.
func (a address) digest(model string) string { return sum("remote:" + a.root + ":" + model) }

func sum(s string) string {
	d := sha256.Sum256([]byte(s))
	return hex.EncodeToString(d[:])
}
