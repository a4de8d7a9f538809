package llama

import (
	"regexp"
	"strings"

	"github.com/ardanlabs/jinja"
)

// variables are what a template is told beside the conversation.
type variables map[string]jinja.Value

// effort is which of the names a template has for how much the model is to think.
type effort struct {
	level  bool     // reasoning_effort, as a word
	flags  []string // names of switches
	thinks bool
}

// switches are templates' names for "think": Qwen's, GLM's and SmolLM's; DeepSeek's and Granite's.
var switches = []string{"enable_thinking", "thinking"}

func effortOf(source string) (e effort) {
	e.level = strings.Contains(source, "reasoning_effort")
	for _, name := range switches {
		if regexp.MustCompile(`\b(if|and|or|not)\s+` + name + `\b|\b` + name + `\s+is\s`).MatchString(source) {
			e.flags = append(e.flags, name)
		}
	}
	e.thinks = e.level || thoughtOf(source) != nil
	return e
}

// set is what a template is told of an effort in OpenAI's words. One that has no name for it can't be told; a model that
// does not think at all does so with the effort "none".
func (e effort) set(level string) (variables, error) {
	if level == "" || level == "none" && !e.thinks {
		return nil, nil
	}
	if !e.level && len(e.flags) == 0 {
		return nil, unsupported("reasoning_effort", "reasoning_effort with this model: its template does not ask for it")
	}
	v := variables{}
	if e.level {
		v["reasoning_effort"] = jinja.NewString(level)
	}
	for _, name := range e.flags {
		v[name] = jinja.NewBool(level != "none")
	}
	return v, nil
}
