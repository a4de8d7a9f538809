package main

import (
	"bytes"
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lorry/blob"
)

// Config is every knob of every command. A knob `some_name` of the YAML file is LORRY_SOME_NAME in the environment and
// --some-name on the command line; a later one of these wins. The `for` tag lists the commands that have the flag, `doc`
// is its help, `secret` keeps its value (or, "url", the password in it) out of what is printed.
type Config struct {
	Data    string `yaml:"data" env:"DATA" for:"up producer worker scheduler dashboard key webhook client" doc:"folder for everything that lasts; who can read it owns the fleet"`
	Listen  string `yaml:"listen" env:"LISTEN" for:"up producer dashboard" doc:"HTTP address; anything but loopback needs a key made first (lorry key create)"`
	Workers int    `yaml:"workers" env:"WORKERS" for:"up" doc:"workers in this process, each with an engine of its own; 0: none"`

	Engine    string        `yaml:"engine" env:"ENGINE" for:"up worker" doc:"llama (llama.cpp in a child process), echo (answers at once), or the URL of an OpenAI-compatible server"`
	EngineKey string        `yaml:"engine_key" env:"ENGINE_KEY" for:"up worker" secret:"true" doc:"bearer key for an engine that is a URL"`
	ModelFile string        `yaml:"model_file" env:"MODEL_FILE" for:"up worker model tool" doc:"GGUF file that llama serves; empty: the demo's model of the runtime folder; none: pushed models only (see models)"`
	ModelName string        `yaml:"model_name" env:"MODEL_NAME" for:"up worker model tool" doc:"name under which clients ask for it; empty: smollm2, or the file's own; before a URL: the names to serve of those it has, by commas"`
	Quantize  string        `yaml:"quantize" env:"QUANTIZE" for:"up worker" doc:"format to write the model's file in before it is served (q4_0, q4_k_m, …; see lorry quantize), or fastest: what is fastest here; done once, measured, kept in quantized/ of the data folder"`
	Device    string        `yaml:"device" env:"DEVICE" for:"up worker tool" doc:"what llama computes on: cpu, gpu, a kind (cuda) or a name (cuda:1); one that is not there is an error; empty: a GPU where there is one"`
	Slots     int           `yaml:"slots" env:"SLOTS" for:"up worker" doc:"sequences that run at the same moment; 0: the engine's choice"`
	Threads   int           `yaml:"threads" env:"THREADS" for:"up worker tool" doc:"CPU threads of llama; 0: what the machine allows, but for one, shared between the workers"`
	Context   int           `yaml:"context" env:"CONTEXT" for:"up worker" doc:"longest prompt and answer together, in tokens; 0: the model's own, within the engine's bound"`
	Rows      int           `yaml:"rows" env:"ROWS" for:"up worker" doc:"most tokens that llama computes in one call; 0: 256 on a CPU (with more than 63, and with weights that llama.cpp packs for it, an answer's last bits change with its neighbours), 512 on a GPU"`
	Pause     time.Duration `yaml:"pause" env:"PAUSE" for:"up worker" doc:"how long answers that nobody watches may pause while llama computes prompts; longer makes calls fuller; 0: 1s on a CPU, 150ms on a GPU"`
	Stretch   float64       `yaml:"stretch" env:"STRETCH" for:"up worker" doc:"how many times as far apart as usual the tokens of an answer that is streamed or nearly due may come while llama computes a prompt; less is steadier, and the prompt comes later; 0: 2"`
	Tenure    time.Duration `yaml:"tenure" env:"TENURE" for:"up worker" doc:"how long waiting requests of one adapter go before those of others; 0: 10s"`
	KVType    string        `yaml:"kv_type" env:"KV_TYPE" for:"up worker" doc:"numbers of llama's KV cache: f16, or q8_0 in half the memory; empty: f16"`
	Flash     bool          `yaml:"flash_attention" env:"FLASH_ATTENTION" for:"up worker" doc:"compute llama's attention the short way"`
	Runtime   string        `yaml:"runtime" env:"RUNTIME" for:"up worker model tool" doc:"folder of llama.cpp's libraries, the demo's weights and Valkey; empty: runtime/ beside the program"`

	Adapter       Adapters      `yaml:"adapter" env:"ADAPTER" for:"up worker" doc:"LoRA adapters (GGUF) of the model to serve: NAME=FILE[,base=NAME][,pin]; several by ; or by repeating the flag; those with pin stay in memory"`
	AdapterMemory Size          `yaml:"adapter_memory" env:"ADAPTER_MEMORY" for:"up worker" doc:"bytes of adapters that an engine holds at the same moment; the others are loaded when they are asked for; 0: 1GiB"`
	AdapterCheck  time.Duration `yaml:"adapter_check" env:"ADAPTER_CHECK" for:"up worker" doc:"how long a process of its own may take to load an adapter for the first time; past it the adapter is refused; 0: 2m"`
	Models        Models        `yaml:"models" env:"MODELS" for:"up worker" doc:"pushed models (lorry model push --file) that llama serves too, each by an engine of its own with the same settings: names by commas, all, or none; empty: all"`
	ModelMemory   Size          `yaml:"model_memory" env:"MODEL_MEMORY" for:"up worker" doc:"bytes of memory that these may take together: weights, KV caches and 512MiB each; what does not fit, in the order of pushing, or is more than is free, is not served here; 0: half of the GPU's memory, or of the machine's"`
	ModelCheck    time.Duration `yaml:"model_check" env:"MODEL_CHECK" for:"up worker" doc:"how long a process of its own may take to load a pushed model for the first time; past it the model is refused; 0: 10m"`
	EngineHang    time.Duration `yaml:"engine_hang" env:"ENGINE_HANG" for:"up worker" doc:"how long llama's process may have work and make no step before it is killed and started again; 0: 2m; negative: for ever"`

	NATS     string `yaml:"nats" env:"NATS" for:"up producer worker scheduler dashboard key webhook" secret:"url" doc:"NATS servers (nats://, tls://; several by commas); empty: the embedded one of this data folder"`
	NATSCred string `yaml:"nats_creds" env:"NATS_CREDS" for:"up producer worker scheduler dashboard key webhook" doc:"NATS credentials file"`
	NATSCA   string `yaml:"nats_ca" env:"NATS_CA" for:"up producer worker scheduler dashboard key webhook" doc:"PEM file of the authorities that signed the NATS servers' certificates"`
	NATSCert string `yaml:"nats_cert" env:"NATS_CERT" for:"up producer worker scheduler dashboard key webhook" doc:"PEM file of our certificate towards NATS"`
	NATSKey  string `yaml:"nats_key" env:"NATS_KEY" for:"up producer worker scheduler dashboard key webhook" doc:"PEM file of that certificate's key"`
	Replicas int    `yaml:"replicas" env:"REPLICAS" for:"up producer worker scheduler dashboard key webhook" doc:"copies of each stream: 3 on a NATS cluster"`
	Sync     string `yaml:"sync" env:"SYNC" for:"up" doc:"when the embedded NATS flushes to disk: always, or every DURATION (then a power cut loses accepted jobs)"`
	Backlog  Size   `yaml:"backlog" env:"BACKLOG" for:"up producer scheduler" doc:"bytes of accepted jobs that may wait; past them clients get 429; 0: 8GiB, or half of a smaller disk"`

	Redis     string `yaml:"redis" env:"REDIS" for:"up producer worker scheduler dashboard" secret:"url" doc:"Redis or Valkey: redis://, rediss://, unix:///socket, redis-sentinel://h1,h2/0?master=NAME, redis-cluster://h1,h2; empty: a Valkey of this data folder"`
	RedisCA   string `yaml:"redis_ca" env:"REDIS_CA" for:"up producer worker scheduler dashboard" doc:"PEM file of the authorities that signed Redis' certificate"`
	RedisCert string `yaml:"redis_cert" env:"REDIS_CERT" for:"up producer worker scheduler dashboard" doc:"PEM file of our certificate towards Redis"`
	RedisKey  string `yaml:"redis_key" env:"REDIS_KEY" for:"up producer worker scheduler dashboard" doc:"PEM file of that certificate's key"`

	Blobs string `yaml:"blobs" env:"BLOBS" for:"up producer scheduler worker dashboard" doc:"where the bytes of files and adapters are: folder (blobs/ and weights/ of the data folder), jetstream (object stores of NATS), or s3://BUCKET/PREFIX?endpoint=URL&region=NAME (credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); empty: as the lorry of the data folder has it, else folder, or jetstream when --nats names servers"`

	MaxBody       Size          `yaml:"max_body" env:"MAX_BODY" for:"up producer" doc:"longest request body; past it clients get 413"`
	MaxModel      Size          `yaml:"max_model" env:"MAX_MODEL" for:"up producer" doc:"longest file of a model that is pushed (lorry model push); past it clients get 413; 0: 128GiB"`
	TenantWaiting int           `yaml:"tenant_waiting" env:"TENANT_WAITING" for:"up producer" doc:"requests of one tenant that may wait for their answers; past them clients get 429; 0: the producer's default"`
	RefuseLate    bool          `yaml:"batch_refuse_late" env:"BATCH_REFUSE_LATE" for:"up scheduler" doc:"fail batches at once whose forecast, at the speed measured lately, is past their completion window (code completion_window_too_short); without it they run, and expire"`
	CacheBytes    Size          `yaml:"cache_bytes" env:"CACHE_BYTES" for:"up producer worker scheduler dashboard" doc:"answers kept for repeats, a tenant; 0: the store's default"`
	CacheTTL      time.Duration `yaml:"cache_ttl" env:"CACHE_TTL" for:"up producer worker scheduler dashboard" doc:"how long such an answer is kept; 0: the store's default"`
	ResultTTL     time.Duration `yaml:"result_ttl" env:"RESULT_TTL" for:"up producer worker scheduler dashboard" doc:"how long a finished job can be read; 0: the store's default"`
	WebhookAllow  Prefixes      `yaml:"webhook_allow" env:"WEBHOOK_ALLOW" for:"up producer scheduler" doc:"private networks (CIDRs, by commas) that webhooks may go to"`
	MasterKey     string        `yaml:"master_key" env:"MASTER_KEY" for:"up producer scheduler webhook" secret:"true" doc:"32 bytes in base64 or hex that seal stored secrets; empty: one made in the data folder, none for single roles"`

	EchoDelay   time.Duration `yaml:"echo_delay" env:"ECHO_DELAY" for:"up worker" doc:"how long the echo engine takes for a token"`
	EchoJournal string        `yaml:"echo_journal" env:"ECHO_JOURNAL" for:"up worker" doc:"file that gets one fsynced line for each run of the echo engine"`

	Grace     time.Duration `yaml:"grace" env:"GRACE" for:"up producer worker scheduler dashboard" doc:"how long a drain may take: what runs ends, or in its last quarter (5s at most) is handed over half-way"`
	LogLevel  string        `yaml:"log_level" env:"LOG_LEVEL" for:"up producer worker scheduler dashboard" doc:"debug, info, warn or error"`
	LogFormat string        `yaml:"log_format" env:"LOG_FORMAT" for:"up producer worker scheduler dashboard" doc:"console, json, or auto (console on a terminal)"`
	Metrics   bool          `yaml:"metrics" env:"METRICS" for:"up producer dashboard" doc:"serve Prometheus' /metrics on the listener"`
	// MetricsListen is apart from Listen: a worker beside a lorry up shares its settings, and must not want its port.
	MetricsListen string `yaml:"metrics_listen" env:"METRICS_LISTEN" for:"worker scheduler" doc:"HTTP address of /metrics and /healthz; empty: none"`

	URL    string `yaml:"url" env:"URL" for:"client key" doc:"a running Lorry; empty: the one of the data folder, else http://127.0.0.1:8080"`
	APIKey string `yaml:"api_key" env:"API_KEY" for:"client key" secret:"true" doc:"key to show there"`

	// base is the digest of ModelFile, where it is known.
	base string
	// sources says where each knob's value is from, by name; what is not in it has its default.
	sources map[string]string
}

// defaults is the lowest layer.
func defaults() Config {
	return Config{
		Data: filepath.Join(dataHome(), "lorry"), Listen: "127.0.0.1:8080", Workers: 1, Engine: "llama",
		Replicas: 1, Sync: "always", MaxBody: 1 << 20, Grace: 30 * time.Second,
		LogLevel: "info", LogFormat: "auto", Metrics: true, Flash: true,
	}
}

// dataHome is the user's data folder by the XDG rules.
func dataHome() string {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return os.TempDir()
	}
	return filepath.Join(home, ".local", "share")
}

// envPrefix stands before every knob's name in the environment.
const envPrefix = "LORRY_"

// knob is one field of Config.
type knob struct {
	field, name, doc, secret string
	uses                     []string
	value                    reflect.Value
}

func (k knob) flag() string { return strings.ReplaceAll(k.name, "_", "-") }
func (k knob) env() string  { return envPrefix + strings.ToUpper(k.name) }

// knobs are the fields of c, in order.
func (c *Config) knobs() []knob {
	v := reflect.ValueOf(c).Elem()
	var out []knob
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.IsExported() {
			out = append(out, knob{f.Name, f.Tag.Get("yaml"), f.Tag.Get("doc"), f.Tag.Get("secret"), strings.Fields(f.Tag.Get("for")), v.Field(i)})
		}
	}
	return out
}

func (k knob) isFor(use string) bool { return slices.Contains(k.uses, use) }

// set parses s as the knob's type.
func (k knob) set(s string) (err error) {
	switch p := k.value.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(s))
	case *string:
		*p = s
	case *int:
		*p, err = strconv.Atoi(s)
	case *float64:
		*p, err = strconv.ParseFloat(s, 64)
	case *bool:
		*p, err = strconv.ParseBool(s)
	case *time.Duration:
		*p, err = time.ParseDuration(s)
	default:
		panic("config: no parser for " + k.value.Type().String())
	}
	if e, ok := errors.AsType[*strconv.NumError](err); ok {
		err = fmt.Errorf("%q: %w", s, e.Err)
	}
	return err
}

// String is the knob's value as set would take it.
func (k knob) String() string { return fmt.Sprint(k.value.Interface()) }

// shown is the value without what must not be seen.
func (k knob) shown() string {
	s := k.String()
	switch {
	case s == "":
		return s
	case k.secret == "true":
		return "(set, hidden)"
	case k.secret == "url":
		return redactURLs(s)
	}
	return s
}

// redactURLs hides users and passwords in a comma-separated list of URLs: a NATS token stands where the user does.
func redactURLs(s string) string {
	parts := strings.Split(s, ",")
	for i, p := range parts {
		scheme, rest, ok := strings.Cut(p, "://")
		at := strings.LastIndex(rest, "@")
		switch {
		case ok && at >= 0:
			parts[i] = scheme + "://xxxxx@" + rest[at+1:]
		case !ok && strings.Contains(p, "@"):
			parts[i] = "xxxxx@" + p[strings.LastIndex(p, "@")+1:]
		}
	}
	return strings.Join(parts, ",")
}

// rawFlag keeps a flag's text until the lower layers are there; a wrong one is refused at once.
type rawFlag struct {
	knob
	text string
	set_ bool
}

func (f *rawFlag) Set(s string) error {
	var scratch Config
	for _, k := range scratch.knobs() {
		if k.name == f.name {
			if err := k.set(s); err != nil {
				return err
			}
		}
	}
	if _, many := f.value.Interface().(Adapters); many && f.set_ {
		s = f.text + ";" + s
	}
	f.text, f.set_ = s, true
	return nil
}

func (f *rawFlag) String() string {
	if f.set_ || !f.value.IsValid() {
		return f.text
	}
	return f.shown()
}

func (f *rawFlag) Type() string {
	switch f.value.Interface().(type) {
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	case time.Duration:
		return "duration"
	case Size:
		return "size"
	}
	return "string"
}

// bindConfig gives a command --config and the flags that are for use, and returns what loads the layers once flags are parsed.
func bindConfig(cmd *cobra.Command, use string) func() (*Config, error) {
	d := defaults()
	fs := cmd.Flags()
	fs.SortFlags = false
	file := fs.String("config", "", "YAML file of settings; LORRY_CONFIG names one too")
	var raws []*rawFlag
	for _, k := range d.knobs() {
		if use != "" && !k.isFor(use) {
			continue
		}
		f := &rawFlag{knob: k}
		raws = append(raws, f)
		p := fs.VarPF(f, k.flag(), "", k.doc)
		noDefault(p, k)
	}
	return func() (*Config, error) {
		flags := map[string]string{}
		for _, f := range raws {
			if f.set_ {
				flags[f.name] = f.text
			}
		}
		return loadConfig(cmp.Or(*file, os.Getenv(envPrefix+"CONFIG")), os.Environ(), flags)
	}
}

// noDefault keeps "(default …)" out of the help where the zero value is explained by the doc.
func noDefault(p *pflag.Flag, k knob) {
	if k.value.IsZero() {
		p.DefValue = ""
	}
	if k.value.Kind() == reflect.Bool {
		p.NoOptDefVal = "true"
	}
}

// loadConfig lays the layers over each other: defaults, file, environment, flags.
func loadConfig(file string, environ []string, flags map[string]string) (_ *Config, err error) {
	c := defaults()
	c.sources = map[string]string{}
	if err := c.fromFile(file); err != nil {
		return nil, usageError{err}
	}
	if err := c.fromEnv(environ); err != nil {
		return nil, usageError{err}
	}
	for _, k := range c.knobs() {
		if s, ok := flags[k.name]; ok {
			if err := k.set(s); err != nil {
				return nil, usageError{fmt.Errorf("--%s: %w", k.flag(), err)}
			}
			c.sources[k.name] = "flag --" + k.flag()
		}
	}
	if err := c.check(); err != nil {
		return nil, usageError{err}
	}
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &c, nil
}

// fromFile reads the YAML layer. An unknown key, a key given twice and a value of the wrong type are errors with their
// line and column.
func (c *Config) fromFile(file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	before := *c
	err = yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(c)
	if err != nil && !errors.Is(err, io.EOF) {
		return yamlError(file, err)
	}
	keys := keyLines(b)
	if len(keys) == 0 { // an empty document is null, and would empty the struct
		*c = before
	}
	for k, line := range keys {
		c.sources[k] = fmt.Sprintf("file %s:%d", file, line)
	}
	return nil
}

// yamlError is one line: file, line, column, what is wrong.
func yamlError(file string, err error) error {
	y, ok := errors.AsType[yaml.Error](err)
	if !ok || y.GetToken() == nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	p := y.GetToken().Position
	return fmt.Errorf("%s:%d:%d: %s (lorry config lists every key)", file, p.Line, p.Column, y.GetMessage())
}

// keyLines says on which line each key of the top level stands.
func keyLines(b []byte) map[string]int {
	out := map[string]int{}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return out // the decoder has said so
	}
	for _, d := range f.Docs {
		m, ok := d.Body.(ast.MapNode)
		if !ok {
			continue
		}
		for it := m.MapRange(); it.Next(); {
			out[it.Key().GetToken().Value] = it.Key().GetToken().Position.Line
		}
	}
	return out
}

// fromEnv reads the environment's layer. A variable that is set and empty counts as not set, as in compose files.
func (c *Config) fromEnv(environ []string) error {
	vars := env.ToMap(slices.DeleteFunc(slices.Clone(environ), func(s string) bool { return strings.HasSuffix(s, "=") && strings.Count(s, "=") == 1 }))
	err := env.ParseWithOptions(c, env.Options{Environment: vars, Prefix: envPrefix})
	if err != nil {
		if p, ok := errors.AsType[env.ParseError](err); ok {
			return fmt.Errorf("%s%s: %w", envPrefix, c.envOf(p.Name), p.Err)
		}
		return fmt.Errorf("read environment: %w", err)
	}
	for _, k := range c.knobs() {
		if _, ok := vars[k.env()]; ok {
			c.sources[k.name] = "env " + k.env()
		}
	}
	return nil
}

// envOf is the variable (without prefix) of a struct field.
func (c *Config) envOf(field string) string {
	if f, ok := reflect.TypeFor[Config]().FieldByName(field); ok {
		return f.Tag.Get("env")
	}
	return field
}

// source says where a knob's value is from.
func (c *Config) source(name string) string { return cmp.Or(c.sources[name], "default") }

// check refuses what no command could work with.
func (c *Config) check() error {
	switch {
	case c.Data == "":
		return errors.New("data: name a folder (--data DIR or LORRY_DATA)")
	case c.Engine != "llama" && c.Engine != "echo" && !isHTTP(c.Engine):
		return fmt.Errorf("engine: %q is none of llama, echo, http://… and https://…", c.Engine)
	case c.Engine != "llama" && len(c.Adapter) > 0:
		return fmt.Errorf("adapter: only the engine llama serves adapters from files, not %s", c.Engine)
	case c.Engine != "llama" && c.Quantize != "":
		return fmt.Errorf("quantize: only the engine llama serves a file, not %s", c.Engine)
	case !c.ownModel() && (c.Models == "none" || c.ModelName != "" || c.Quantize != "" || len(c.Adapter) > 0):
		return errors.New("model_file: none leaves pushed models only: models can't be none then, and model_name, quantize and adapter say nothing")
	case strings.ContainsAny(c.Quantize, "./\\ "):
		return fmt.Errorf("quantize: %q is no format, as q4_0", c.Quantize)
	case c.URL != "" && !isHTTP(c.URL):
		return fmt.Errorf("url: %q is no http:// or https:// URL", c.URL)
	case c.Workers < 0 || c.Workers > 64:
		return fmt.Errorf("workers: %d is not within 0 to 64", c.Workers)
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return fmt.Errorf("replicas: %d is none of 1, 3 and 5", c.Replicas)
	case c.Slots < 0 || c.Threads < 0 || c.Context < 0 || c.Rows < 0 || c.TenantWaiting < 0:
		return errors.New("slots, threads, context, rows and tenant_waiting can't be negative")
	case c.Pause < 0 || c.Tenure < 0:
		return errors.New("pause and tenure can't be negative")
	case c.Stretch != 0 && !(c.Stretch >= 1 && c.Stretch <= 1000):
		return fmt.Errorf("stretch: %v is not within 1 to 1000: a step with a prompt can't take less than one without", c.Stretch)
	case !slices.Contains([]string{"", "f16", "q8_0"}, c.KVType):
		return fmt.Errorf("kv_type: %q is none of f16 and q8_0", c.KVType)
	case c.KVType == "q8_0" && !c.Flash:
		return errors.New("kv_type: q8_0 needs flash_attention")
	case c.Grace < 0 || c.CacheTTL < 0 || c.ResultTTL < 0 || c.EchoDelay < 0 || c.AdapterCheck < 0 || c.ModelCheck < 0:
		return errors.New("grace, cache_ttl, result_ttl, echo_delay, adapter_check and model_check can't be negative")
	case (c.NATSCert == "") != (c.NATSKey == "") || (c.RedisCert == "") != (c.RedisKey == ""):
		return errors.New("a client certificate needs both its files: …_cert and …_key")
	case !slices.Contains([]string{"", "folder", "jetstream"}, c.Blobs) && !strings.HasPrefix(c.Blobs, "s3:"):
		return fmt.Errorf("blobs: %q is none of folder, jetstream and s3://BUCKET/PREFIX", c.Blobs)
	case !slices.Contains([]string{"auto", "console", "json"}, c.LogFormat):
		return fmt.Errorf("log_format: %q is none of auto, console and json", c.LogFormat)
	}
	if _, err := zerolog.ParseLevel(c.LogLevel); err != nil {
		return fmt.Errorf("log_level: %q is none of debug, info, warn and error", c.LogLevel)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is no HOST:PORT, as 127.0.0.1:8080", c.Listen)
	}
	if _, _, err := net.SplitHostPort(c.MetricsListen); c.MetricsListen != "" && err != nil {
		return fmt.Errorf("metrics_listen: %q is no HOST:PORT, as 127.0.0.1:9090", c.MetricsListen)
	}
	if _, err := c.syncEvery(); err != nil {
		return err
	}
	if strings.HasPrefix(c.Blobs, "s3:") {
		if _, err := blob.ParseS3(c.Blobs); err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
	}
	if _, err := parseRedis(c.Redis); c.Redis != "" && err != nil {
		return err
	}
	return nil
}

// noModel is the model_file of who serves pushed models only.
const noModel = "none"

// ownModel says whether the workers have a model or an engine of their own, beside what is pushed.
func (c *Config) ownModel() bool { return c.Engine != "llama" || c.ModelFile != noModel }

func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// syncEvery is the embedded NATS' flush interval; 0 is at every write.
func (c *Config) syncEvery() (time.Duration, error) {
	if c.Sync == "always" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Sync)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("sync: %q is neither always nor a duration, as 2m", c.Sync)
	}
	return d, nil
}

// blobsAt is the setting with its default filled in: the data folder is for roles that share one.
func (c *Config) blobsAt() string {
	if c.NATS == "" {
		return cmp.Or(c.Blobs, "folder")
	}
	return cmp.Or(c.Blobs, "jetstream")
}

// loopback says whether only this machine can reach the listener.
func (c *Config) loopback() bool {
	host, _, _ := net.SplitHostPort(c.Listen)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// runtimeDir holds lib/, models/ and bin/.
func (c *Config) runtimeDir() string {
	if c.Runtime != "" {
		return c.Runtime
	}
	return filepath.Join(exeDir(), "runtime")
}

// exeDir is the folder of this program, links followed.
func exeDir() string {
	exe, err := os.Executable()
	if err != nil {
		return "."
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return filepath.Dir(exe)
}

// threads is what one worker's engine gets: workers of one host share the cores that it may use (GOMAXPROCS knows of
// cgroups and affinity), else each slows the other down a hundredfold. 0 leaves it to the engine.
func (c *Config) threads() int {
	if c.Threads > 0 || c.Workers <= 1 {
		return c.Threads
	}
	return max(1, (runtime.GOMAXPROCS(0)-1)/c.Workers)
}

// Size is a number of bytes, written as 512KiB, 64MiB, 8GiB, or plain.
type Size int64

var sizeUnits = []struct {
	suffix string
	n      int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}

// UnmarshalText parses a size.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.n {
			break
		}
		*s = Size(n * u.n)
		return nil
	}
	return fmt.Errorf("%q is no size, as 64MiB", text)
}

// String is the shortest exact form.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i]; s > 0 && int64(s)%u.n == 0 {
			return strconv.FormatInt(int64(s)/u.n, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Prefixes are networks: CIDRs or single addresses, by commas, or a list in YAML.
type Prefixes []netip.Prefix

// UnmarshalText parses the comma-separated form.
func (p *Prefixes) UnmarshalText(b []byte) error {
	var out Prefixes
	for s := range strings.SplitSeq(string(b), ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		n, err := parsePrefix(s)
		if err != nil {
			return err
		}
		out = append(out, n)
	}
	*p = out
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if n, err := netip.ParsePrefix(s); err == nil {
		return n.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network, as 10.0.0.0/8", s)
	}
	return a.Prefix(a.BitLen())
}

// UnmarshalYAML takes a list or one string.
func (p *Prefixes) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalList(unmarshal, ",", p)
}

// unmarshalList gives a list of YAML, or one string, to what parses text.
func unmarshalList(unmarshal func(any) error, by string, to encoding.TextUnmarshaler) error {
	var list []string
	if err := unmarshal(&list); err != nil {
		var one string
		if err := unmarshal(&one); err != nil {
			return err
		}
		list = []string{one}
	}
	return to.UnmarshalText([]byte(strings.Join(list, by)))
}

// String is the comma-separated form.
func (p Prefixes) String() string {
	out := make([]string, len(p))
	for i, n := range p {
		out[i] = n.String()
	}
	return strings.Join(out, ",")
}
