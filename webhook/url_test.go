package webhook

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	allow := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, c := range map[string]struct {
		url            string
		closed, opened bool // what CheckURL says without and with allow
	}{
		"https":             {"https://example.com/hook?x=1", true, true},
		"http and a port":   {"http://example.com:8080/hook", true, true},
		"public address":    {"https://8.8.8.8/", true, true},
		"public IPv6":       {"https://[2606:4700::1111]/", true, true},
		"international":     {"https://bücher.example/", true, true},
		"escaped space":     {"https://example.com/a%20b", true, true},
		"loopback":          {"http://127.0.0.1:9000/", false, true},
		"localhost":         {"http://localhost:9000/", false, true},
		"localhost, dotted": {"http://LocalHost./", false, true},
		"a localhost name":  {"http://x.localhost/", false, true},
		"private":           {"http://10.1.2.3/", false, true},
		"private, not open": {"http://10.2.2.3/", false, false},
		"metadata service":  {"http://169.254.169.254/latest/", false, false},
		"zero":              {"http://0.0.0.0/", false, false},
		"IPv6 loopback":     {"http://[::1]/", false, false},
		"unique local":      {"http://[fd12::1]/", false, true},
		"mapped loopback":   {"http://[::ffff:127.0.0.1]/", false, false},
		"zone":              {"http://[fe80::1%25eth0]/", false, false},
		"no scheme":         {"example.com/hook", false, false},
		"other scheme":      {"ftp://example.com/", false, false},
		"file":              {"file:///etc/passwd", false, false},
		"opaque":            {"https:example.com", false, false},
		"no host":           {"https:///hook", false, false},
		"port alone":        {"https://:443/", false, false},
		"colon, no port":    {"https://example.com:/", false, false},
		"port 0":            {"https://example.com:0/", false, false},
		"port too high":     {"https://example.com:65536/", false, false},
		"user":              {"https://me:pw@example.com/", false, false},
		"empty user":        {"https://@example.com/", false, false},
		"fragment":          {"https://example.com/#a", false, false},
		"empty fragment":    {"https://example.com/#", false, false},
		"space":             {"https://example.com/a b", false, false},
		"newline":           {"https://example.com/\r\nX: 1", false, false},
		"NUL":               {"https://example.com/\x00", false, false},
		"empty":             {"", false, false},
		"long":              {"https://example.com/" + strings.Repeat("a", maxURL), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, x := range []struct {
				allow []netip.Prefix
				ok    bool
			}{{nil, c.closed}, {allow, c.opened}} {
				err := CheckURL(c.url, x.allow...)
				if (err == nil) != x.ok || err != nil && !errors.Is(err, ErrURL) {
					t.Errorf("with %v open: %v", x.allow, err)
				}
			}
		})
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://example.com/", "http://[::1]:1/", "http://a@b/", "http://127.0.0.1", "http://localhost#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckURL(s) != nil {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.User != nil || u.Fragment != "" || u.Hostname() == "" {
			t.Fatalf("%q passed", s)
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) {
			t.Fatalf("%q passed", s)
		}
		if strings.Contains(target(s), "?") {
			t.Fatalf("the target of %q shows its query", s)
		}
	})
}
