package llama

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ardanlabs/jinja"
)

// Harmony, which gpt-oss speaks, has an answer be several messages. Each says in its header on which channel it is, and to
// whom: thoughts are on analysis, what the user reads on final, or on commentary before a call, and a call is to its
// function.
//
//	<|channel|>analysis<|message|>It rains.<|end|><|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}
const (
	chanStart   = "<|start|>"
	chanName    = "<|channel|>"
	chanType    = "<|constrain|>"
	chanMessage = "<|message|>"
	chanEnd     = "<|end|>"
)

// hasChannels says whether a template's source writes messages so.
func hasChannels(source string) bool {
	return strings.Contains(source, chanName) && strings.Contains(source, chanMessage)
}

// message is who a message's header says that it is for.
type message struct {
	thought bool
	call    string // the function
	nobody  bool   // a call of what was not offered: there is no good way to tell of it
}

var (
	channelOf   = regexp.MustCompile(`<\|channel\|>\s*(\w+)`)
	recipientOf = regexp.MustCompile(` to=([^\s<]+)`)
)

// messageOf reads a header. The last channel counts: the model may begin with a stray one.
func messageOf(header string, t *tools) message {
	var m message
	if all := channelOf.FindAllStringSubmatch(header, -1); len(all) > 0 {
		m.thought = all[len(all)-1][1] == "analysis"
	}
	to := recipientOf.FindStringSubmatch(header)
	if to == nil || to[1] == "assistant" {
		return m
	}
	name, ok := strings.CutPrefix(to[1], "functions.")
	if ok && t != nil && t.names[name] {
		return message{call: name}
	}
	return message{nobody: true}
}

// channelReader separates thoughts, text and calls while they come. What may still become a tag is held back, and a call
// until it is whole; one that is no JSON object stays text.
type channelReader struct {
	tools *tools
	held  string
	in    *message // nil: in a header, or before one
	made  []call
	read  int // bytes taken so far
	last  int // of them, up to the last thought's end
}

// push adds a piece and says what of all so far is thought and what is text. final releases what is held back.
func (r *channelReader) push(s string, final bool) (thought, text string) {
	r.held += s
	for more := true; more; {
		var t, x string
		if r.in == nil {
			more = r.header(final)
			continue
		}
		t, x, more = r.body(final)
		thought, text = thought+t, text+x
	}
	return thought, text
}

// header goes over a message's header, or says false while it is not whole. An answer that was held to a form may have
// none: then all of it is text.
func (r *channelReader) header(final bool) bool {
	before, _, whole := strings.Cut(r.held, chanMessage)
	switch {
	case whole:
		m := messageOf(before, r.tools)
		r.in = &m
		r.take(len(before) + len(chanMessage))
		return true
	case mayBeHeader(r.held) && !final:
		return false
	case mayBeHeader(r.held):
		r.take(len(r.held)) // cut within its header: nothing was said
		return false
	}
	r.in = &message{}
	return true
}

// mayBeHeader says whether a message's beginning may be that of its header.
func mayBeHeader(s string) bool {
	for _, tag := range []string{chanName, chanStart, " to="} {
		if strings.HasPrefix(s, tag) || strings.HasPrefix(tag, s) {
			return true
		}
	}
	return false
}

// body says what is new of a message, and goes over its end, or says false while that is not there.
func (r *channelReader) body(final bool) (thought, text string, ended bool) {
	said, _, ended := strings.Cut(r.held, chanEnd)
	switch {
	case !ended && !final && r.in.call != "":
		return "", "", false
	case !ended && !final:
		said = said[:len(said)-partial(said, chanEnd)]
	}
	r.take(len(said))
	switch {
	case r.in.thought:
		thought, r.last = said, r.read
	case r.in.call != "":
		text = r.note(said)
	case !r.in.nobody:
		text = said
	}
	if ended {
		r.take(len(chanEnd))
		r.in = nil
	}
	return thought, text, ended
}

// note keeps a call, or returns what is none.
func (r *channelReader) note(arguments string) string {
	c, ok := newCall(r.in.call, json.RawMessage(arguments))
	if !ok {
		return arguments
	}
	r.made = append(r.made, c)
	return ""
}

// take drops n bytes of what is held.
func (r *channelReader) take(n int) {
	r.held = r.held[n:]
	r.read += n
}

func (r *channelReader) calls() []call { return r.made }

func (r *channelReader) thoughtEnd() int { return r.last }

// hold has a form be that of an answer's last message. Thoughts, and what is said before a call, come before it as the
// model likes.
func (f *form) hold(last string) {
	f.root = "channel-root"
	f.grammar += "\nchannel-root ::= channel-turn* " + last + "\n" + channelTurn()
}

// speak has an answer come on channels, and holds its last message to the form that was asked for.
func (p *prepared) speak() {
	p.channels = true
	switch {
	case p.form == nil:
	case p.tools == nil:
		p.form.hold(finalMessage)
	case p.tools.strict:
		p.form.hold("(" + callMessages(p.tools.list) + ` | "<|channel|>final<|message|>" .*)`)
	default:
		p.form.hold(callMessages(p.tools.list))
	}
}

// keepThoughts hands thoughts of earlier answers to the template, by its name for them. It takes none beside a text in
// front of a call.
func keepThoughts(messages jinja.Value) {
	for _, m := range messages.AsList().Items {
		d := m.AsDict()
		thought, ok := d.Get("reasoning_content")
		if !ok || !thought.IsString() {
			continue
		}
		d.Set("thinking", thought)
		if calls, ok := d.Get("tool_calls"); ok && calls.IsList() {
			d.Set("content", jinja.NewString(""))
		}
	}
}

// finalMessage is what the user reads, in the form that the grammar's root has.
const finalMessage = `"<|channel|>final" (" "? "<|constrain|>"? "json")? "<|message|>" root`

// channelTurn is the grammar of a message that another one follows: any text up to the first <|end|>.
func channelTurn() string {
	var b strings.Builder
	b.WriteString(`channel-turn ::= "<|channel|>" ("analysis" | "commentary") "<|message|>" channel-body-0` + "\n")
	for i := range len(chanEnd) {
		next := "channel-body-" + strconv.Itoa(i+1)
		if i == len(chanEnd)-1 {
			next = `"<|start|>assistant"`
		}
		c := chanEnd[i : i+1]
		fmt.Fprintf(&b, "channel-body-%d ::= %q %s", i, c, next)
		if i > 0 {
			b.WriteString(` | "<" channel-body-1 | [^<` + c + `] channel-body-0` + "\n")
		} else {
			b.WriteString(` | [^<] channel-body-0` + "\n")
		}
	}
	return b.String()
}

// callMessages is the grammar of a call of one of the functions, whose arguments' rules a form's grammar holds (shape).
// The model may name the function before the channel, or behind it.
func callMessages(list []function) string {
	var b strings.Builder
	for i, f := range list {
		if i > 0 {
			b.WriteString(" | ")
		}
		to := strconv.Quote(" to=functions." + f.Name)
		fmt.Fprintf(&b, `(%s "<|channel|>commentary" | "<|channel|>commentary" %s) (" "? "<|constrain|>"? "json")? "<|message|>" alternative-%d-arguments`, to, to, i)
	}
	return "(" + b.String() + ")"
}
