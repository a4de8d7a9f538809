package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseRedis(t *testing.T) {
	cases := map[string]struct {
		want   redisPlace
		secure bool
	}{
		"redis://h":                         {want: redisPlace{kind: "tcp", addrs: []string{"h:6379"}}},
		"redis://u:p%40w@h:1/3":             {want: redisPlace{kind: "tcp", addrs: []string{"h:1"}, user: "u", pass: "p@w", db: 3}},
		"redis://:pw@[::1]:1":               {want: redisPlace{kind: "tcp", addrs: []string{"[::1]:1"}, pass: "pw"}},
		"rediss://h":                        {want: redisPlace{kind: "tcp", addrs: []string{"h:6379"}}, secure: true},
		"unix:///run/a%20b.sock":            {want: redisPlace{kind: "unix", addrs: []string{"/run/a b.sock"}}},
		"unix:///r.sock?db=2":               {want: redisPlace{kind: "unix", addrs: []string{"/r.sock"}, db: 2}},
		"redis://a:1,b:2,c":                 {want: redisPlace{kind: "cluster", addrs: []string{"a:1", "b:2", "c:6379"}}},
		"rediss-cluster://a:1,b:2":          {want: redisPlace{kind: "cluster", addrs: []string{"a:1", "b:2"}}, secure: true},
		"redis-sentinel://a,b:1/1?master=m": {want: redisPlace{kind: "sentinel", addrs: []string{"a:26379", "b:1"}, master: "m", db: 1}},
		"redis-sentinel://:x@a?master=m&sentinel_password=y": {want: redisPlace{kind: "sentinel", addrs: []string{"a:26379"}, master: "m", pass: "x", sentinelPass: "y"}},
	}
	for url, tc := range cases {
		t.Run(url, func(t *testing.T) {
			p, err := parseRedis(url)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, *p, cmp.AllowUnexported(redisPlace{}), cmpopts.IgnoreFields(redisPlace{}, "tls")); diff != "" {
				t.Error(diff)
			}
			if (p.tls != nil) != tc.secure {
				t.Errorf("TLS is %t", p.tls != nil)
			}
			_ = p.client().Close()
			_ = p.asynq()
		})
	}
}

func TestParseRedisRefuses(t *testing.T) {
	for url, want := range map[string]string{
		"localhost:6379":           "is no URL",
		"http://h":                 "none of redis",
		"redis://":                 "names no host",
		"redis://h/x":              `database "x" is no number`,
		"redis-sentinel://a":       "name the sentinels' master",
		"redis-cluster://a/1":      "database 0 alone",
		"unix://relative/path":     "unix:///path",
		"unix:///":                 "unix:///path",
		"redis://u:secret%zz@h":    "escape special characters",
		"redis://:secret@h,:x@i/q": "", // whatever it says, not the password
	} {
		_, err := parseRedis(url)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want …%s…", url, err, want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is in %q", url, err)
		}
	}
}

func FuzzParseRedis(f *testing.F) {
	for _, s := range []string{"redis://u:p@h:1/3", "unix:///a?db=1", "redis-sentinel://a,b/1?master=m", "redis://[::1]:1,b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseRedis(s)
		if err == nil && (len(p.addrs) == 0 || p.kind == "") {
			t.Errorf("%q: %+v", s, p)
		}
	})
}

func TestOlder(t *testing.T) {
	for v, want := range map[string]bool{"2.14.3": false, "2.14.2": true, "2.9.99": true, "2.15.0": false, "3.0.0": false, "2.14.3-beta": false, "v2.10.20": true, "dev": false} {
		if older(v, natsFloor) != want {
			t.Errorf("%s: want %t", v, want)
		}
	}
}
