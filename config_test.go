package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func settingsFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lorry.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The name of a knob is one name: the file's key decides the variable and the flag.
func TestKnobNames(t *testing.T) {
	d := defaults()
	seen := map[string]bool{}
	commands := map[string]bool{"up": true, "producer": true, "worker": true, "scheduler": true, "dashboard": true, "key": true, "webhook": true, "model": true, "tool": true, "client": true}
	for _, k := range d.knobs() {
		if env := d.envOf(k.field); envPrefix+env != k.env() {
			t.Errorf("%s: the variable is LORRY_%s, want %s", k.name, env, k.env())
		}
		if k.doc == "" || len(k.uses) == 0 || seen[k.name] {
			t.Errorf("%s: no doc, no command, or there twice", k.name)
		}
		for _, u := range k.uses {
			if !commands[u] {
				t.Errorf("%s: no command uses %q", k.name, u)
			}
		}
		seen[k.name] = true
	}
}

func TestLayers(t *testing.T) {
	file := "slots: 3\nengine: echo\ngrace: 5s\nwebhook_allow:\n  - 10.0.0.0/8\n  - 127.0.0.1\nmax_body: 2MiB\nmetrics: false\n"
	cases := map[string]struct {
		file   string
		env    []string
		flags  map[string]string
		knob   string
		value  string
		source string
	}{
		"default":                      {knob: "slots", value: "0", source: "default"},
		"file":                         {file: file, knob: "slots", value: "3", source: "file FILE:1"},
		"file's list":                  {file: file, knob: "webhook_allow", value: "10.0.0.0/8,127.0.0.1/32", source: "file FILE:4"},
		"file's size":                  {file: file, knob: "max_body", value: "2MiB", source: "file FILE:7"},
		"file's duration":              {file: file, knob: "grace", value: "5s", source: "file FILE:3"},
		"file's bool":                  {file: file, knob: "metrics", value: "false", source: "file FILE:8"},
		"environment over file":        {file: file, env: []string{"LORRY_SLOTS=7"}, knob: "slots", value: "7", source: "env LORRY_SLOTS"},
		"environment's list":           {env: []string{"LORRY_WEBHOOK_ALLOW=10.1.2.3/8, ::1"}, knob: "webhook_allow", value: "10.0.0.0/8,::1/128", source: "env LORRY_WEBHOOK_ALLOW"},
		"environment's number":         {env: []string{"LORRY_STRETCH=2.5"}, knob: "stretch", value: "2.5", source: "env LORRY_STRETCH"},
		"environment's size":           {env: []string{"LORRY_CACHE_BYTES=1GiB"}, knob: "cache_bytes", value: "1GiB", source: "env LORRY_CACHE_BYTES"},
		"environment's duration":       {env: []string{"LORRY_ECHO_DELAY=20ms"}, knob: "echo_delay", value: "20ms", source: "env LORRY_ECHO_DELAY"},
		"an empty variable is not set": {file: file, env: []string{"LORRY_SLOTS="}, knob: "slots", value: "3", source: "file FILE:1"},
		"flag over environment":        {file: file, env: []string{"LORRY_SLOTS=7"}, flags: map[string]string{"slots": "9"}, knob: "slots", value: "9", source: "flag --slots"},
		"flag to the zero value":       {file: file, flags: map[string]string{"slots": "0"}, knob: "slots", value: "0", source: "flag --slots"},
		"an empty file":                {file: "# nothing\n", knob: "slots", value: "0", source: "default"},
		"a secret is hidden":           {env: []string{"LORRY_API_KEY=lorry_x"}, knob: "api_key", value: "(set, hidden)", source: "env LORRY_API_KEY"},
		"a URL's password is hidden":   {env: []string{"LORRY_REDIS=redis://:pw@h:1/2"}, knob: "redis", value: "redis://xxxxx@h:1/2", source: "env LORRY_REDIS"},
		"tokens of a list are hidden":  {env: []string{"LORRY_NATS=nats://tok@a,nats://u:p@b"}, knob: "nats", value: "nats://xxxxx@a,nats://xxxxx@b", source: "env LORRY_NATS"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			path := ""
			if tc.file != "" {
				path = settingsFile(t, tc.file)
			}
			c, err := loadConfig(path, tc.env, tc.flags)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range c.shown() {
				if k.Key == tc.knob {
					got := []string{k.Value, strings.ReplaceAll(k.Source, path, "FILE")}
					if path == "" {
						got[1] = k.Source
					}
					if diff := cmp.Diff([]string{tc.value, tc.source}, got); diff != "" {
						t.Error(diff)
					}
				}
			}
		})
	}
}

func TestSettingsRefused(t *testing.T) {
	cases := map[string]struct {
		file  string
		env   []string
		flags map[string]string
		want  string
	}{
		"unknown key":           {file: "slots: 3\nslotz: 4\n", want: `lorry.yaml:2:1: unknown field "slotz"`},
		"key given twice":       {file: "slots: 3\nslots: 4\n", want: "lorry.yaml:2:1: mapping key \"slots\" already defined at [1:1]"},
		"wrong type":            {file: "data: x\nslots: many\n", want: "lorry.yaml:2:8: cannot unmarshal string"},
		"broken YAML":           {file: "slots: [1\n", want: "lorry.yaml:1:"},
		"bad duration":          {file: "grace: soon\n", want: "lorry.yaml"},
		"bad network in a list": {file: "webhook_allow: [10.0.0.0/99]\n", want: `"10.0.0.0/99" is no network`},
		"bad number":            {env: []string{"LORRY_SLOTS=x"}, want: "LORRY_SLOTS: "},
		"bad size":              {env: []string{"LORRY_MAX_BODY=lots"}, want: `LORRY_MAX_BODY: "lots" is no size`},
		"bad flag":              {flags: map[string]string{"grace": "x"}, want: "--grace: "},
		"engine":                {flags: map[string]string{"engine": "vllm"}, want: `engine: "vllm" is none of llama, echo, http://… and https://…`},
		"listen":                {flags: map[string]string{"listen": "8080"}, want: "is no HOST:PORT"},
		"replicas":              {flags: map[string]string{"replicas": "2"}, want: "none of 1, 3 and 5"},
		"negative":              {flags: map[string]string{"slots": "-1"}, want: "can't be negative"},
		"stretch":               {flags: map[string]string{"stretch": "0.5"}, want: "stretch: 0.5 is not within 1 to 1000"},
		"stretch is a number":   {env: []string{"LORRY_STRETCH=much"}, want: "LORRY_STRETCH: "},
		"tenure":                {flags: map[string]string{"tenure": "-1s"}, want: "pause and tenure can't be negative"},
		"KV type":               {flags: map[string]string{"kv_type": "q3"}, want: `kv_type: "q3" is none of f16 and q8_0`},
		"KV the long way":       {flags: map[string]string{"kv_type": "q8_0", "flash_attention": "false"}, want: "q8_0 needs flash_attention"},
		"half a certificate":    {env: []string{"LORRY_NATS_CERT=c.pem"}, want: "needs both its files"},
		"blobs":                 {flags: map[string]string{"blobs": "s3"}, want: `blobs: "s3" is none of folder, jetstream and s3://BUCKET/PREFIX`},
		"log level":             {env: []string{"LORRY_LOG_LEVEL=loud"}, want: "log_level"},
		"sync":                  {flags: map[string]string{"sync": "never"}, want: "neither always nor a duration"},
		"redis":                 {env: []string{"LORRY_REDIS=mysql://h"}, want: "none of redis, rediss"},
		"workers":               {flags: map[string]string{"workers": "65"}, want: "not within 0 to 64"},
		"url":                   {flags: map[string]string{"url": "localhost:8080"}, want: "no http:// or https:// URL"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			path := ""
			if tc.file != "" {
				path = settingsFile(t, tc.file)
			}
			_, err := loadConfig(path, tc.env, tc.flags)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want …%s…", err, tc.want)
			}
			if _, ok := errors.AsType[usageError](err); !ok {
				t.Error("it is no usage error")
			}
			if strings.Contains(oneLine(err), "\n") {
				t.Error("more than one line")
			}
		})
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	if _, err := loadConfig(filepath.Join(t.TempDir(), "none.yaml"), nil, nil); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestDataFolderByXDG(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/xdg")
	if d := defaults().Data; d != "/xdg/lorry" {
		t.Errorf("got %s", d)
	}
	t.Setenv("XDG_DATA_HOME", "relative") // the rules say: ignore it
	t.Setenv("HOME", "/home/me")
	if d := defaults().Data; d != "/home/me/.local/share/lorry" {
		t.Errorf("got %s", d)
	}
}

// Flags are checked as they are parsed, and only those of the command exist.
func TestFlagsOfACommand(t *testing.T) {
	cases := map[string]struct {
		args []string
		want string // of the error
	}{
		"good":              {args: []string{"--workers", "4", "--metrics=false", "--grace=3s"}},
		"bool without text": {args: []string{"--metrics"}},
		"bad value":         {args: []string{"--workers", "x"}, want: `invalid argument "x" for "--workers"`},
		"another command's": {args: []string{"--metrics-listen", ":1"}, want: "unknown flag: --metrics-listen"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := &cobra.Command{Use: "up"}
			load := bindConfig(c, "up")
			err := c.ParseFlags(tc.args)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, want …%s…", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := load(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:0": true, "127.9.9.9:1": true, "localhost:8080": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		":8080": false, "0.0.0.0:0": false, "[::]:80": false, "10.0.0.1:80": false, "example.com:80": false, "localhost.example.com:80": false,
	} {
		if got := (&Config{Listen: listen}).loopback(); got != want {
			t.Errorf("%s: got %t", listen, got)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "17": 17, "64MiB": 64 << 20, "8 GiB": 8 << 30, "1kB": 1000, "2MB": 2e6, "3B": 3} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: got %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1.5GiB", "MiB", "99999999999TiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d", text, s)
		}
	}
}

// FuzzSize: what a size prints is read back as the same size.
func FuzzSize(f *testing.F) {
	f.Add("64MiB")
	f.Add("9999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		var a, b Size
		if a.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b || a < 0 {
			t.Errorf("%q: %d printed as %s, read as %d (%v)", text, a, a, b, err)
		}
	})
}

func TestThreadsAreShared(t *testing.T) {
	for name, tc := range map[string]struct {
		c    Config
		most int
	}{
		"set":           {Config{Threads: 5, Workers: 3}, 5},
		"one worker":    {Config{Workers: 1}, 0},
		"more than one": {Config{Workers: 64}, 1},
	} {
		if got := tc.c.threads(); got > max(tc.most, 1) || tc.most == 5 && got != 5 {
			t.Errorf("%s: got %d", name, got)
		}
	}
}

func TestDigestIsRemembered(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.gguf")
	write := func(s string, at time.Time) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	get := func() string {
		s, err := digestOf(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	at := time.Unix(1e9, 0)
	write("abc", at)
	if s := get(); s != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("got %s", s)
	}
	old := get()
	write("abd", at) // the same size and time: it is believed
	if get() != old {
		t.Error("it was hashed again")
	}
	write("abd", at.Add(time.Second))
	if get() == old {
		t.Error("a changed file kept its digest")
	}
	if err := os.WriteFile(filepath.Join(dir, "digests.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	get() // a broken memory is made again
}

// Who can read the data folder or NATS owns the fleet; a URL needs an admin's key, and is taken where it is asked for.
func TestWhereKeysAre(t *testing.T) {
	url, nats := "LORRY_URL=http://h", "LORRY_NATS=nats://h"
	for name, tc := range map[string]struct {
		env   []string
		flags map[string]string
		http  bool
	}{
		"nothing set":            {},
		"URL":                    {env: []string{url}, http: true},
		"URL, and data in env":   {env: []string{url, "LORRY_DATA=/d"}, http: true},
		"URL, and data flagged":  {env: []string{url}, flags: map[string]string{"data": "/d"}},
		"URL and NATS":           {env: []string{url, nats}},
		"URL flagged, and NATS":  {env: []string{nats}, flags: map[string]string{"url": "http://h"}, http: true},
		"URL, and NATS flagged":  {env: []string{url}, flags: map[string]string{"nats": "nats://h"}},
		"a key, and nothing set": {env: []string{"LORRY_API_KEY=k"}},
	} {
		c, err := loadConfig("", tc.env, tc.flags)
		if err != nil {
			t.Fatal(err)
		}
		if got := overHTTP(c); got != tc.http {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
