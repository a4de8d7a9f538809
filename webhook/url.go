package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"code.dny.dev/ssrf"
)

// ErrURL is a URL that no webhook is sent to.
var ErrURL = errors.New("not a webhook URL")

const maxURL = 2048

// CheckURL says, when a job is accepted, whether a webhook could go to a URL: absolute, http or https, with a host, no
// user, no fragment, and not a literal address inside the operator's network (allow opens prefixes). Names are not
// looked up: what they stand for may change, and is checked when the connection is dialled.
func CheckURL(raw string, allow ...netip.Prefix) error {
	u, err := parseURL(raw)
	if err != nil {
		return fmt.Errorf("webhook: %w: %w", ErrURL, err)
	}
	if err := checkHost(u.Hostname(), allow); err != nil {
		return fmt.Errorf("webhook: %w: %w", ErrURL, err)
	}
	return nil
}

func parseURL(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, fmt.Errorf("it is longer than %d bytes", maxURL)
	}
	if i := strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }); i >= 0 {
		return nil, errors.New("it holds a space or a control character")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("it can't be parsed")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("it must start with https:// or http://")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("it has no host")
	case u.User != nil:
		return nil, errors.New("it must not hold a user or password")
	case strings.Contains(raw, "#"):
		return nil, errors.New("it must not have a fragment (#…)")
	}
	return u, checkPort(u)
}

func checkPort(u *url.URL) error {
	if strings.HasSuffix(u.Host, ":") {
		return errors.New("it has no port behind the colon")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %.10s is not 1 to 65535", p)
		}
	}
	return nil
}

// checkHost refuses what would be refused at the dial in any case, so that the client hears of it at once.
func checkHost(host string, allow []netip.Prefix) error {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	if ip.Zone() != "" {
		return errors.New("an address with a zone is not reachable from here")
	}
	if err := guardian(allow).SafeAddr(ip); err != nil {
		return fmt.Errorf("%s is a private or special address; the operator may open it with LORRY_WEBHOOK_ALLOW", host)
	}
	return nil
}

// guardian denies special-purpose addresses but for those that the operator opens. Any port is fine.
func guardian(allow []netip.Prefix) *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, p := range allow {
		if p.Addr().Is4() {
			v4 = append(v4, p.Masked())
		} else {
			v6 = append(v6, p.Masked())
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
}

// target is a URL as it may be shown and logged: paths and queries of webhooks often hold secrets.
func target(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "?"
	}
	return u.Scheme + "://" + u.Host
}

// Target is where an event goes, as it may be shown: the URL's scheme and host.
func (o *Outgoing) Target() string { return target(o.URL) }
