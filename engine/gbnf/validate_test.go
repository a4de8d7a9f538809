package gbnf

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	const schema = `{"type":"object","properties":{"a":{"type":"integer","minimum":1},"d":{"type":"string","format":"date"}},"required":["a"]}`
	cases := map[string]struct{ schema, answer, want string }{
		"fits":            {schema, ` {"a":1,"d":"2024-02-29"} `, ""},
		"too small":       {schema, `{"a":0}`, "'/a'"},
		"missing":         {schema, `{}`, "missing property"},
		"no such day":     {schema, `{"a":1,"d":"2023-02-29"}`, "'/d'"},
		"cut off":         {schema, `{"a":1`, "unexpected EOF"},
		"two texts":       {schema, `{"a":1}{"a":1}`, "after the end"},
		"key twice":       {schema, `{"a":0,"a":2}`, ""},
		"the last counts": {schema, `{"a":2,"a":0}`, "'/a'"},
		"huge number":     {schema, `{"a":1e9999999999}`, "out of range"},
		"large integer":   {`{"type":"integer","maximum":12345678901234567890}`, "12345678901234567891", "maximum"},
		"two of oneOf":    {`{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "1", "oneOf"},
		"draft 7's items": {`{"type":"array","items":[{"type":"null"}]}`, "[1]", "null"},
		"unicode escape":  {`{"pattern":"^\\u00e9$"}`, `"é"`, ""},
		"a file":          {`{"$ref":"file:///etc/passwd"}`, "1", "nothing else is read"},
		"a URL":           {`{"$ref":"https://json.test/a"}`, "1", "nothing else is read"},
		"bad schema":      {`{"type":"kaboom"}`, "1", "compile schema"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := Validate(json.RawMessage(c.schema), c.answer)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error has several lines: %v", err)
			}
		})
	}
}
