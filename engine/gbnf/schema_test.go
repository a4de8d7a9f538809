package gbnf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// hold is a schema with texts that its grammar must match, and texts that it must not.
type hold struct {
	schema   string
	yes, not []string
}

var holds = map[string]hold{
	"min 100": {`{"type":"integer","minimum":100}`, []string{"100", "101", "199", "1000", "9999999999999999"},
		[]string{"10", "19", "99", "0", "-100", "0100"}},
	"min 1005": {`{"type":"integer","minimum":1005}`, []string{"1005", "1006", "2000", "10000"}, []string{"15", "1004", "999"}},
	"max -5":   {`{"type":"integer","maximum":-5}`, []string{"-5", "-10", "-49"}, []string{"-05", "-4", "0", "5"}},
	"integers without a useful bound": {`{"type":"integer","minimum":-9223372036854775808,"maximum":18446744073709551615}`,
		[]string{"0", "-1", "42"}, []string{"1.5", "01"}},
	"exclusive bounds": {`{"type":"integer","exclusiveMinimum":1,"exclusiveMaximum":4}`, []string{"2", "3"}, []string{"1", "4"}},
	"the tighter bound": {`{"type":"integer","minimum":1,"exclusiveMinimum":1.5,"maximum":9,"exclusiveMaximum":4}`,
		[]string{"2", "3"}, []string{"1", "4"}},
	"a share": {`{"type":"number","minimum":0,"maximum":1}`, []string{"0", "1", "0.5", "1.0", "0.0001", "0.99"},
		[]string{"1.01", "-0.1", "2", "1e-1", "."}},
	"any number": {`{"type":"number"}`, []string{"0", "-1.5", "1e10", "9999999999999999.5E+99", "1e-07"},
		[]string{"1e100", "159.43E62607728559220", "1e", "01", ".5"}},
	"more than nothing": {`{"type":"number","exclusiveMinimum":0}`, []string{"0.1", "7", "0.001", "12.5"}, []string{"0", "0.0", "-1"}},
	"small numbers": {`{"type":"number","minimum":-0.25,"exclusiveMaximum":0.125}`,
		[]string{"-0.25", "0", "0.1249", "-0.2", "-0", "0.12"}, []string{"-0.2501", "0.125", "0.13", "1"}},
	"const beside type":       {`{"type":"string","const":"é\n\"\\\u0001"}`, []string{"\"é\\n\\\"\\\\\\u0001\""}, []string{`"é"`}},
	"enum keeps what fits":    {`{"type":["string","null"],"enum":["a",null,3]}`, []string{`"a"`, "null"}, []string{"3"}},
	"true and empty schemas":  {`{"properties":{"a":true,"b":{}},"required":["a","b"]}`, []string{`{"a":1,"b":[null,{"c":"d"}]}`}, []string{`{"a":1}`}},
	"order of keys":           {`{"properties":{"z":{"type":"null"},"a":{"type":"null"}},"required":["a","z"]}`, []string{`{"z":null,"a":null}`, "{\n  \"z\": null,\n  \"a\": null\n}"}, []string{`{"a":null,"z":null}`}},
	"required, not described": {`{"type":"object","required":["a b"]}`, []string{`{"a b":1}`, `{"a b":{},"c":2}`}, []string{`{}`, `{"c":2}`, `{"a b":1,"a b":2}`}},
	"recursion": {`{"$ref":"#/$defs/tree","$defs":{"tree":{"properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}}}}}`,
		[]string{`{}`, `{"kids":[{"kids":[]},{}]}`}, []string{`[]`, `{"kids":[1]}`}},
	"recursion at the root": {`{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"]}`,
		[]string{`{"next":null}`, `{"next":{"next":null}}`}, []string{`{"next":{}}`}},
	"names of refs that look alike": {`{"properties":{"a":{"$ref":"#/$defs/x_y"},"b":{"$ref":"#/$defs/x-y"}},"required":["a","b"],"$defs":{"x_y":{"enum":[1]},"x-y":{"enum":[2]}}}`,
		[]string{`{"a":1,"b":2}`}, []string{`{"a":1,"b":1}`}},
	"properties named like rules": {`{"properties":{"integral_part":{"enum":["x"]},"space":{"enum":["y"]},"char":{"enum":["z"]},"n":{"type":"number"},"s":{"type":"string"}},"required":["integral_part","space","char","n","s"]}`,
		[]string{`{"integral_part":"x","space":"y","char":"z","n":1.5,"s":"ok"}`}, []string{`{"integral_part":"x","space":"y","char":"z","n":x,"s":"ok"}`}},
	"names beyond ASCII": {`{"properties":{"名":{"enum":[1]},"前":{"enum":[2]},"a\"b":{"enum":[3]}},"required":["名","前","a\"b"]}`,
		[]string{`{"名":1,"前":2,"a\"b":3}`}, []string{`{"名":2,"前":2,"a\"b":3}`}},
	"pointers are unescaped": {`{"$ref":"#/$defs/a~1b%25","$defs":{"a/b%":{"enum":[1]}}}`, []string{"1"}, []string{"2"}},
	"tuple":                  {`{"type":"array","prefixItems":[{"type":"null"},{"type":"boolean"}],"items":false,"minItems":2}`, []string{"[null,true]"}, []string{"[null]", "[]"}},
	"no items":               {`{"type":"array","items":false}`, []string{"[]"}, []string{"[1]"}},
	"allOf of one ref":       {`{"properties":{"a":{"allOf":[{"$ref":"#/$defs/x"}],"description":"d"}},"required":["a"],"$defs":{"x":{"type":"integer","minimum":3,"maximum":4}}}`, []string{`{"a":3}`}, []string{`{"a":5}`}},
	"allOf beside properties": {`{"type":"object","properties":{"a":{"enum":[1]}},"required":["a"],"allOf":[{"properties":{"b":{"enum":[2]}},"required":["b"]}]}`,
		[]string{`{"a":1,"b":2}`}, []string{`{"a":1}`, `{"b":2}`}},
	"allOf on the same property": {`{"allOf":[{"properties":{"a":{"enum":[1,2]}},"required":["a"]},{"properties":{"a":{"enum":[2,3]}}}]}`, []string{`{"a":2}`}, []string{`{"a":1}`, `{"a":3}`}},
	"allOf that only requires":   {`{"allOf":[{"properties":{"a":{"enum":[1]},"b":{"enum":[2]}}},{"required":["b"]}]}`, []string{`{"b":2}`, `{"b":2,"a":1}`}, []string{`{"a":1}`}},
	"keys that escapes could spell": {`{"properties":{"ab":{"enum":[1]}},"additionalProperties":{"enum":[2]}}`,
		[]string{`{"ab":1}`, `{"ac":2}`, `{"b":2,"abc":2}`, `{"ab":1,"x\"y":2}`}, []string{`{"ab":2}`, `{"a\u0062":2}`, `{"\u0061b":2}`, "{\"\\\":2}"}},
	"keywords of other types": {`{"type":"string","minimum":3,"maxItems":2}`, []string{`"a"`}, []string{"4"}},
	"dot":                     {`{"type":"string","pattern":"^a.c$"}`, []string{`"abc"`, `"a\"c"`, `"a\\c"`, `"aéc"`}, []string{`"a"c"`, `"a\c"`, `"a\nc"`, `"ac"`}},
	"classes":                 {`{"type":"string","pattern":"^[\\d\\-x]+[^\\s\"]\\u00e9\\/$"}`, []string{`"1-xaé/"`}, []string{`"1-x é/"`, `"1-x"é/"`}},
	"loose pattern":           {`{"type":"string","pattern":"b+"}`, []string{`"abc"`, `"b"`, `"\"bb"`}, []string{`"ac"`, `""`}},
	"half anchored":           {`{"type":"string","pattern":"^ab"}`, []string{`"ab"`, `"abc"`}, []string{`"cab"`}},
	"lazy and named":          {`{"type":"string","pattern":"^(?<x>a+?)(?:b|)$"}`, []string{`"aab"`, `"a"`}, []string{`"b"`}},
	"email":                   {`{"type":"string","format":"email"}`, []string{`"ada.l@mail.test"`}, []string{`"ada"`, `"a b@c"`}},
	"ipv4":                    {`{"type":"string","format":"ipv4"}`, []string{`"127.0.0.1"`, `"255.249.10.99"`}, []string{`"256.1.1.1"`, `"1.1.1"`, `"01.1.1.1"`}},
	"duration":                {`{"type":"string","format":"duration"}`, []string{`"P1Y2M3DT4H5M6S"`, `"PT1S"`, `"P2W"`}, []string{`"P"`, `"PT"`, `"P1H"`}},
	"classes of classes":      {`{"type":"string","pattern":"^[^\\D\\x30][\\W\\t][\\b\\x41-\\u0043]$"}`, []string{`"1-A"`, `"9\"\b"`, `"2\tC"`}, []string{`"0-A"`, `"a-A"`, `"1aA"`, `"1-D"`}},
	"beyond 16 bits":          {`{"type":"string","pattern":"^\\ud83d\\ude00+$"}`, []string{`"😀"`, `"😀😀"`}, []string{`"\ud83d\ude00"`}},
	"empty counts":            {`{"type":"string","pattern":"^a{0}b{2}(c|d){1,}e{0,1}$"}`, []string{`"bbc"`, `"bbdde"`}, []string{`"abbc"`, `"bc"`}},
	"type beside branches":    {`{"type":["object","string"],"anyOf":[{"allOf":[{"$ref":"#/$defs/o"},{"required":["a"]}]},{"const":"x"}],"$defs":{"o":{"properties":{"a":{"enum":[1]}},"additionalProperties":{"type":"null"}}}}`, []string{`{"a":1}`, `{"a":1,"b":null}`, `"x"`}, []string{`{}`, `{"a":1,"b":2}`}},
	"closed part knows all":   {`{"allOf":[{"properties":{"a":{"enum":[1]},"b":{"enum":[2]}},"required":["a"],"additionalProperties":false},{"properties":{"b":{}}}]}`, []string{`{"a":1}`, `{"a":1,"b":2}`}, []string{`{"a":1,"c":3}`}},
	"allOf of any objects":    {`{"allOf":[{"type":"object"},{"type":"object"}]}`, []string{`{}`, `{"a":1}`}, []string{"1"}},
	"keywords that hold":      {`{"type":"array","items":{"type":"integer","multipleOf":1},"uniqueItems":false}`, []string{"[1,1]"}, []string{"[1.5]"}},
	"ref into a list":         {`{"anyOf":[{"type":"null"},{"properties":{"a":{"$ref":"#/anyOf/0"}}}]}`, []string{"null", `{"a":null}`}, []string{`{"a":1}`}},
	"lengths":                 {`{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"a\n\""`}, []string{`"a"`, `"abcd"`}},
}

func TestHolds(t *testing.T) {
	for name, h := range holds {
		t.Run(name, func(t *testing.T) {
			grammar, err := FromSchema(json.RawMessage(h.schema))
			if err != nil {
				t.Fatal(err)
			}
			g := grammarOf(t, grammar)
			for _, text := range h.yes {
				if !g.match(text) {
					t.Errorf("does not match %s, with\n%s", text, grammar)
				}
				if err := Validate(json.RawMessage(h.schema), text); err != nil {
					t.Errorf("%s: %v", text, err)
				}
			}
			for _, text := range h.not {
				if g.match(text) {
					t.Errorf("matches %s, with\n%s", text, grammar)
				}
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	cases := map[string]struct{ schema, path, keyword string }{
		"no JSON":                {`{`, "#", ""},
		"text after":             {`{} {}`, "#", ""},
		"not UTF-8":              {"{\"title\":\"\xff\"}", "#", ""},
		"key twice":              {`{"type":"string","type":"null"}`, "#", ""},
		"too deep":               {strings.Repeat(`{"items":`, 65) + "{}" + strings.Repeat("}", 65), "#", ""},
		"too long":               {`{"title":"` + strings.Repeat("x", MaxSize) + `"}`, "#", ""},
		"list":                   {`[]`, "#", ""},
		"false":                  {`{"properties":{"a":false}}`, "#/properties/a", ""},
		"remote ref":             {`{"$ref":"https://json.test/s.json"}`, "#", "$ref"},
		"ref to a file":          {`{"items":{"$ref":"file:///etc/passwd"}}`, "#/items", "$ref"},
		"anchor":                 {`{"$ref":"#foo"}`, "#", "$ref"},
		"ref to nothing":         {`{"$ref":"#/$defs/a"}`, "#", "$ref"},
		"ref to itself":          {`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}}`, "#", ""},
		"no end":                 {`{"properties":{"a":{"$ref":"#"}},"required":["a"]}`, "#", ""},
		"beside ref":             {`{"$ref":"#/$defs/a","minLength":1,"$defs":{"a":{"type":"string"}}}`, "#", "minLength"},
		"beside anyOf":           {`{"anyOf":[{"type":"string"}],"properties":{}}`, "#", "properties"},
		"type beside anyOf":      {`{"type":"object","anyOf":[{"type":"string"}]}`, "#", "type"},
		"beside enum":            {`{"enum":["a"],"minLength":1}`, "#", "minLength"},
		"unknown keyword":        {`{"minLenght":1}`, "#", "minLenght"},
		"not":                    {`{"not":{}}`, "#", "not"},
		"if":                     {`{"if":{}}`, "#", "if"},
		"patternProperties":      {`{"type":"object","patternProperties":{}}`, "#", "patternProperties"},
		"uniqueItems":            {`{"type":"array","uniqueItems":true}`, "#", "uniqueItems"},
		"multipleOf":             {`{"type":"number","multipleOf":0.1}`, "#", "multipleOf"},
		"unknown format":         {`{"type":"string","format":"color"}`, "#", "format"},
		"pattern with length":    {`{"type":"string","pattern":"^a$","minLength":1}`, "#", "pattern"},
		"lookahead":              {`{"properties":{"a":{"pattern":"^(?=a)"}}}`, "#/properties/a", "pattern"},
		"word border":            {`{"pattern":"\\bfoo"}`, "#", "pattern"},
		"back reference":         {`{"pattern":"(a)\\1"}`, "#", "pattern"},
		"open count":             {`{"pattern":"a{,3}"}`, "#", "pattern"},
		"huge count":             {`{"pattern":"a{1,5000}"}`, "#", "pattern"},
		"count upside down":      {`{"pattern":"a{3,1}"}`, "#", "pattern"},
		"deep pattern":           {`{"pattern":"` + strings.Repeat("(", 500) + strings.Repeat(")", 500) + `"}`, "#", "pattern"},
		"loops of nothing":       {`{"pattern":"^(a*)*$"}`, "#", ""},
		"maxLength":              {`{"type":"string","maxLength":5000}`, "#", "maxLength"},
		"minItems over maxItems": {`{"type":"array","minItems":3,"maxItems":1}`, "#", "minItems"},
		"negative count":         {`{"type":"string","minLength":-1}`, "#", "minLength"},
		"bounds upside down":     {`{"type":"integer","minimum":3,"maximum":1}`, "#", "minimum"},
		"numbers upside down":    {`{"type":"number","minimum":3,"maximum":1}`, "#", "minimum"},
		"no integer between":     {`{"type":"integer","minimum":0.2,"maximum":0.8}`, "#", "minimum"},
		"huge exponent":          {`{"type":"number","minimum":1e999999999}`, "#", "minimum"},
		"tiny exponent":          {`{"type":"number","minimum":1e-999999999}`, "#", "minimum"},
		"too many decimals":      {`{"type":"number","minimum":0.12345678901234567}`, "#", "minimum or maximum"},
		"17 digits":              {`{"type":"integer","minimum":123456789012345678}`, "#", "minimum or maximum"},
		"bound in words":         {`{"type":"integer","minimum":"1"}`, "#", "minimum"},
		"draft 4's exclusive":    {`{"type":"integer","minimum":1,"exclusiveMinimum":true}`, "#", "exclusiveMinimum"},
		"required, forbidden":    {`{"type":"object","required":["a"],"additionalProperties":false}`, "#", "required"},
		"required in words":      {`{"type":"object","required":"a"}`, "#", "required"},
		"empty enum":             {`{"enum":[]}`, "#", "enum"},
		"const of another type":  {`{"type":"string","const":3}`, "#", "const"},
		"format with length":     {`{"type":"string","format":"date","maxLength":9}`, "#", "format"},
		"format with pattern":    {`{"type":"string","format":"date","pattern":"^2"}`, "#", "format"},
		"half a pair":            {`{"pattern":"\\ud83d"}`, "#", "pattern"},
		"class of nothing":       {`{"pattern":"[]"}`, "#", "pattern"},
		"class upside down":      {`{"pattern":"[z-a]"}`, "#", "pattern"},
		"tuple too short":        {`{"type":"array","prefixItems":[{}],"minItems":2}`, "#", "prefixItems"},
		"no items, some wanted":  {`{"type":"array","items":false,"minItems":1}`, "#", "minItems"},
		"ref past a list":        {`{"anyOf":[{"$ref":"#/anyOf/7"}]}`, "#/anyOf/0", "$ref"},
		"branches that require":  {`{"allOf":[{"type":"object"},{"anyOf":[{"required":["a"]},{"required":["b"]}]}]}`, "#", "allOf"},
		"two closed parts":       {`{"allOf":[{"properties":{"a":{}},"additionalProperties":{"type":"null"}},{"properties":{"a":{}},"additionalProperties":{"type":"null"}}]}`, "#", "allOf"},
		"empty anyOf":            {`{"anyOf":[]}`, "#", "anyOf"},
		"allOf of texts":         {`{"allOf":[{"minLength":1},{"maxLength":2}]}`, "#", "allOf"},
		"allOf without values":   {`{"allOf":[{"enum":[1]},{"enum":[2]}]}`, "#", "allOf"},
		"closed part of allOf":   {`{"allOf":[{"properties":{"a":{}},"additionalProperties":false},{"properties":{"b":{}}}]}`, "#/allOf/0", "additionalProperties"},
		"allOf in itself":        {`{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"properties":{"x":{"$ref":"#/$defs/a"}},"required":["x"]},{"type":"object"}]}}}`, "#", ""},
		"allOf is itself":        {`{"allOf":[{"$ref":"#"},{"$ref":"#"}]}`, "#", "allOf"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			grammar, err := FromSchema(json.RawMessage(c.schema))
			e, ok := errors.AsType[*Unsupported](err)
			if !ok {
				t.Fatalf("error is %v, grammar\n%s", err, grammar)
			}
			if e.Path != c.path || e.Keyword != c.keyword {
				t.Errorf("refuses %q at %s: %v", e.Keyword, e.Path, err)
			}
		})
	}
}

// TestBlowUp: schemas that would grow without bounds end soon, with an error or not.
func TestBlowUp(t *testing.T) {
	double := func(format string) string {
		var defs []string
		for i := range 60 {
			defs = append(defs, fmt.Sprintf(`"a%d":`+strings.ReplaceAll(format, "NEXT", fmt.Sprintf(`{"$ref":"#/$defs/a%d"}`, i+1)), i))
		}
		return `{"$ref":"#/$defs/a0","$defs":{` + strings.Join(defs, ",") + `,"a60":{"type":"object","properties":{"z":{}}}}}`
	}
	var many []string
	for i := range 2500 {
		many = append(many, fmt.Sprintf(`"p%04d":{"type":"null"}`, i))
	}
	cases := map[string]string{
		"allOf twice":      double(`{"allOf":[NEXT,NEXT]}`),
		"allOf of objects": double(`{"allOf":[{"properties":{"x":NEXT,"y":NEXT}},{"properties":{"z":{}}}]}`),
		"anyOf twice":      double(`{"anyOf":[NEXT,NEXT]}`),
		"many properties":  `{"properties":{` + strings.Join(many, ",") + `}}`,
		"many others":      `{"properties":{` + strings.Join(many, ",") + `},"additionalProperties":true}`,
		"nested types":     strings.Repeat(`{"type":["object","array","object"],"properties":{"a":`, 30) + "{}" + strings.Repeat("}}", 30),
		"long names":       strings.Repeat(`{"properties":{"`+strings.Repeat("n", 900)+`":`, 31) + "{}" + strings.Repeat("}}", 31),
	}
	for name, schema := range cases {
		t.Run(name, func(t *testing.T) {
			grammar, err := FromSchema(json.RawMessage(schema))
			if _, ok := errors.AsType[*Unsupported](err); err != nil && !ok {
				t.Errorf("error is %v", err)
			}
			t.Logf("%d bytes, %v", len(grammar), err)
		})
	}
}
