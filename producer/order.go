package producer

import (
	"encoding/json"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"lorry/engine"
	"lorry/queue"
	"lorry/webhook"
)

// order is a request as it was read: what is to run, and how the answer is to travel. It names no job yet.
type order struct {
	endpoint queue.Endpoint
	// request has all defaults filled in but the model's digests and, without seeded, the seed.
	request engine.Request
	model   string
	stream  bool
	// encoding is how vectors are written: "base64", or empty for numbers.
	encoding string
	// usage asks for a last chunk with the token counts.
	usage bool
	// seeded says that the client chose the seed; cache that it wants the cache (or not) whatever the sampling.
	seeded   bool
	cache    *bool
	lane     queue.Lane // empty: by how the answer travels
	laneBy   string     // the field that named it
	deadline time.Time
	webhook  *queue.Webhook // its secret still open
	replayOf string
	metadata map[string]string
	// store keeps the answer of a chat, to be read later; user is who it was for, as given.
	store bool
	user  json.RawMessage
	// response is set where the answer is one of the Responses API.
	response *responseWish
}

// cacheable says whether an equal request may have the same answer: a draw from a distribution may not, unless the
// client fixed the draw or said so.
func (o *order) cacheable() bool {
	if o.cache != nil {
		return *o.cache
	}
	return o.seeded || o.request.Sampling.Temperature == 0
}

// Limits bound what one request may ask for.
type limits struct {
	maxN  int
	allow []netip.Prefix // private addresses that webhooks may go to
	now   time.Time
	vault vault // of the tenant
}

// Bounds that are OpenAI's where it has one.
const (
	maxTokens     = 1 << 20
	maxStops      = 4
	maxStop       = 1 << 10 // bytes of one stop string
	maxBias       = 1024
	maxGrammar    = 64 << 10
	maxTools      = 128
	maxTop        = 20
	maxTextTop    = 5
	maxMessages   = 1 << 14
	maxName       = 256
	maxMetadata   = 16
	maxMetaKey    = 64
	maxMetaValue  = 512
	maxDeadline   = 30 * 24 * time.Hour
	maxSecret     = 1024
	generateTiny  = 1e-6
	defaultTokens = 16 // of /v1/completions
)

// defaults are OpenAI's.
func defaults() engine.Sampling { return engine.Sampling{Temperature: 1, TopP: 1, N: 1} }

// readCommon reads what chat and text completions share. The caller reads the rest and calls done.
func readCommon(o *object, d *order, l limits) {
	d.request.Sampling = defaults()
	readModel(o, d)
	readSampling(o, &d.request.Sampling, l)
	d.seeded = readSeed(o, "seed", &d.request.Sampling)
	readStop(o, "stop", &d.request.Sampling)
	readGrammar(o, &d.request)
	readStream(o, d)
	d.metadata = readMetadata(o)
	readTier(o, d)
	readLorry(o, d, l)
	o.accept(bookkeeping...)
}

// bookkeeping is OpenAI's: without effect on the answer.
var bookkeeping = []string{"user", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}

func readModel(o *object, d *order) {
	if !o.text("model", &d.model, maxName) && o.err == nil {
		o.missing("model")
	}
}

func readSampling(o *object, s *engine.Sampling, l limits) {
	o.number("temperature", &s.Temperature, 0, 2)
	if o.number("top_p", &s.TopP, 0, 1) && s.TopP == 0 {
		s.TopP = generateTiny // OpenAI takes 0; what it leaves is the likeliest token
	}
	if o.integer("top_k", &s.TopK, -1, math.MaxInt32) {
		s.TopK = max(0, s.TopK) // vLLM's -1: no limit
	}
	o.number("min_p", &s.MinP, 0, 1)
	o.number("frequency_penalty", &s.FrequencyPenalty, -2, 2)
	o.number("presence_penalty", &s.PresencePenalty, -2, 2)
	readRepeat(o, s)
	o.integer("n", &s.N, 1, l.maxN)
	o.integer("max_tokens", &s.MaxTokens, 1, maxTokens)
	o.integer("min_tokens", &s.MinTokens, 0, maxTokens)
	o.flag("ignore_eos", &s.IgnoreEOS)
	readBias(o, s)
}

// readRepeat reads llama.cpp's name of the penalty or vLLM's.
func readRepeat(o *object, s *engine.Sampling) {
	const least, most = 0.01, 10
	a := o.number("repeat_penalty", &s.RepeatPenalty, least, most)
	if o.has("repetition_penalty") && a {
		o.fail(refuse(codeCombination, o.at+"repetition_penalty", "'repeat_penalty' and 'repetition_penalty' are two names of one parameter: give one."))
	}
	o.number("repetition_penalty", &s.RepeatPenalty, least, most)
}

// readSeed keeps all 64 bits: a negative seed is a seed like any other.
func readSeed(o *object, name string, s *engine.Sampling) bool {
	v, ok := o.take(name)
	if !ok {
		return false
	}
	var signed int64
	if json.Unmarshal(v, &signed) == nil {
		s.Seed = uint64(signed)
		return true
	}
	if json.Unmarshal(v, &s.Seed) == nil {
		return true
	}
	o.wrong(name, "an integer of 64 bits", v)
	return false
}

// readStop reads a string or up to four.
func readStop(o *object, name string, s *engine.Sampling) {
	v := o.fields[name]
	if kind(v) == "string" {
		var one string
		o.text(name, &one, maxStop)
		s.Stop = []string{one}
	} else if vs, ok := o.list(name, 0, maxStops); ok {
		s.Stop = readStrings(o, name, vs, maxStop)
	}
	for _, t := range s.Stop {
		if t == "" {
			o.fail(refuse(codeValue, o.at+name, "Invalid '%s%s': a stop sequence must not be empty.", o.at, name))
		}
	}
}

func readStrings(o *object, name string, vs []json.RawMessage, n int) []string {
	var out []string
	for _, v := range vs {
		var s string
		if kind(v) != "string" || json.Unmarshal(v, &s) != nil {
			o.wrong(name, "an array of strings", v)
			return nil
		}
		if len(s) > n {
			o.fail(refuse("string_above_max_length", o.at+name, "Invalid '%s%s': a string in it is longer than %d bytes.", o.at, name, n))
		}
		out = append(out, s)
	}
	return out
}

// readGrammar reads GBNF, llama.cpp's language for what an answer must look like. An engine judges it.
func readGrammar(o *object, r *engine.Request) {
	if o.text("grammar", &r.Grammar, maxGrammar) && r.Grammar == "" {
		o.fail(refuse(codeValue, "grammar", "Invalid 'grammar': it must not be empty."))
	}
}

// readBias reads {"token id": -100..100}.
func readBias(o *object, s *engine.Sampling) {
	in := o.object("logit_bias")
	if in == nil {
		return
	}
	if len(in.names) > maxBias {
		o.fail(refuse(codeValue, "logit_bias", "Invalid 'logit_bias': at most %d tokens, but got %d.", maxBias, len(in.names)))
		return
	}
	for _, name := range in.names {
		var id int32
		var bias float64
		if json.Unmarshal([]byte(name), &id) != nil || id < 0 {
			o.fail(refuse(codeValue, "logit_bias", "Invalid key in 'logit_bias': %s is not a token's ID.", clip(name)))
			return
		}
		if !in.number(name, &bias, -100, 100) {
			break
		}
		if s.LogitBias == nil {
			s.LogitBias = map[int32]float64{}
		}
		s.LogitBias[id] = bias
	}
	o.close(in)
}

func readStream(o *object, d *order) {
	o.flag("stream", &d.stream)
	in := o.object("stream_options")
	if in == nil {
		return
	}
	if !d.stream {
		o.fail(refuse(codeValue, "stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled."))
	}
	in.flag("include_usage", &d.usage)
	in.accept("include_obfuscation")
	o.close(in)
}

func readMetadata(o *object) map[string]string {
	in := o.object("metadata")
	if in == nil {
		return nil
	}
	out := map[string]string{}
	if len(in.names) > maxMetadata {
		o.fail(refuse(codeValue, "metadata", "Invalid 'metadata': at most %d pairs, but got %d.", maxMetadata, len(in.names)))
		return nil
	}
	for _, k := range in.names {
		if utf8.RuneCountInString(k) > maxMetaKey {
			o.fail(refuse(codeValue, "metadata", "Invalid 'metadata': a key may have at most %d characters.", maxMetaKey))
		}
		var v string
		if in.text(k, &v, math.MaxInt) && utf8.RuneCountInString(v) > maxMetaValue {
			in.fail(refuse("string_above_max_length", in.at+k, "Invalid '%s%s': a value of metadata may have at most %d characters.", in.at, clip(k), maxMetaValue))
		}
		out[k] = v
	}
	o.close(in)
	return out
}

// readTier maps OpenAI's tiers: flex is the lane of that name, the others are what happens anyway.
func readTier(o *object, d *order) {
	var tier string
	if o.oneOf("service_tier", &tier, "auto", "default", "flex", "scale", "priority", "fast") && tier == "flex" {
		d.lane, d.laneBy = queue.Flex, "service_tier"
	}
}

var jobID = regexp.MustCompile(`^job_[0-9a-z_-]{1,64}$`)

// readLorry reads our own fields, which stand under one key.
func readLorry(o *object, d *order, l limits) {
	in := o.object("lorry")
	if in == nil {
		return
	}
	var lane string
	if in.oneOf("lane", &lane, string(queue.Interactive), string(queue.Flex), string(queue.Batch)) {
		d.lane, d.laneBy = queue.Lane(lane), "lorry.lane"
	}
	d.deadline = readDeadline(in, l.now)
	d.webhook = readWebhook(in, l)
	var cache bool
	if in.flag("cache", &cache) {
		d.cache = &cache
	}
	in.flag("deterministic", &d.request.Deterministic)
	if in.text("replay_of", &d.replayOf, maxName) && !jobID.MatchString(d.replayOf) {
		in.fail(refuse(codeValue, "lorry.replay_of", "Invalid 'lorry.replay_of': expected a job's ID, as job_…"))
	}
	o.close(in)
}

// readDeadline reads a moment (RFC 3339) or how long from now ("10m").
func readDeadline(o *object, now time.Time) time.Time {
	var s string
	if !o.text("deadline", &s, maxName) {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if d, e := time.ParseDuration(s); e == nil {
		t, err = now.Add(d), nil
	}
	switch {
	case err != nil:
		o.fail(refuse(codeValue, o.at+"deadline", `Invalid '%sdeadline': expected a time as "2026-01-31T12:00:00Z" or a duration as "10m", but got '%s' instead.`, o.at, clip(s)))
	case !t.After(now):
		o.fail(refuse(codeValue, o.at+"deadline", "Invalid '%sdeadline': it has already passed.", o.at))
	case t.Sub(now) > maxDeadline:
		o.fail(refuse(codeValue, o.at+"deadline", "Invalid '%sdeadline': it must be within 30 days.", o.at))
	}
	return t
}

func readWebhook(o *object, l limits) *queue.Webhook {
	in := o.object("webhook")
	if in == nil {
		return nil
	}
	var h queue.Webhook
	if !in.text("url", &h.URL, 2048) && in.err == nil {
		in.missing("url")
	}
	if in.err == nil {
		if err := webhook.CheckURL(h.URL, l.allow...); err != nil {
			in.fail(refuse(codeValue, in.at+"url", "Invalid '%surl': %s.", in.at, strings.TrimPrefix(err.Error(), "webhook: ")))
		}
	}
	if in.text("secret", &h.Secret, maxSecret) {
		if err := webhook.CheckSecret(h.Secret); err != nil {
			in.fail(refuse(codeValue, in.at+"secret", "Invalid '%ssecret': %v.", in.at, webhook.ErrSecret))
		}
	}
	o.close(in)
	return &h
}
