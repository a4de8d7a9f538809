package gbnf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	good := map[string]string{
		"JSON":              JSON,
		"one rule":          `root ::= "a"`,
		"all there is":      "# comment\nroot ::= (\"a\" | [^a-z\\]\\-] | . )* \\\n",
		"groups over lines": "root ::= (\n  \"a\" |\n  b\n)\nb ::= [\\x41-\\u00e9\\U0001F600-]{2} # end\r\n",
		"bounds":            `root ::= "a"{0,1000} "b"{3} "c"{2,} "d"{0}`,
		"right recursion":   `root ::= "a" root | ""`,
		"recursion inside":  `root ::= "(" root ")" | "x"`,
		"a class of dash":   `root ::= [a-]`,
	}
	good["all there is"] = strings.Replace(good["all there is"], " \\\n", "\n", 1)
	for name, grammar := range good {
		t.Run(name, func(t *testing.T) {
			if err := Check(grammar); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	var rules, doubling strings.Builder
	for i := range MaxRules {
		fmt.Fprintf(&rules, "r%d ::= \"a\"\n", i)
		fmt.Fprintf(&doubling, "r%d ::= r%d | r%d\n", i, i+1, i+1)
	}
	cases := map[string]struct {
		grammar string
		at      string // line:column
		reason  string
	}{
		"empty":              {"", "1:1", "no rule"},
		"blank":              {" \n# nothing\n", "1:1", "no rule"},
		"NUL":                {"root ::= \"a\"\n\x00", "2:1", "NUL"},
		"not UTF-8":          {"root ::= \"\xff\"", "1:11", "not UTF-8"},
		"too long":           {"root ::= \"" + strings.Repeat("a", MaxSize) + `"`, "1:1", "longer"},
		"no root":            {`a ::= "a"`, "1:1", "root is not defined"},
		"undefined":          {"root ::= a\na ::= \"x\" | b", "2:13", "b is not defined"},
		"twice":              {"root ::= \"a\"\nroot ::= \"b\"", "2:1", "twice"},
		"no ::=":             {`root "a"`, "1:6", "::= is missing"},
		"bad name":           {"root ::= \"a\"\nmy_rule ::= \"b\"", "2:3", "::= is missing"},
		"no name":            {`::= "a"`, "1:1", "name"},
		"open quote":         {`root ::= "a`, "1:12", "ends inside"},
		"open bracket":       {`root ::= [a`, "1:12", "ends inside"},
		"open parenthesis":   {`root ::= ("a"`, "1:14", "not closed"},
		"closed too often":   {`root ::= "a")`, "1:13", "not expected"},
		"bad escape":         {`root ::= "é\q"`, "1:12", "escape"},
		"short hex":          {`root ::= "\x4"`, "1:11", "hexadecimal"},
		"signed hex":         {`root ::= "\x+4"`, "1:11", "hexadecimal"},
		"beyond Unicode":     {`root ::= [\U00110000]`, "1:11", "hexadecimal"},
		"token":              {`root ::= <|end|>`, "1:10", "tokens"},
		"empty class":        {`root ::= []`, "1:10", "empty class"},
		"range upside down":  {`root ::= [z-a]`, "1:11", "upside down"},
		"never returns":      {`root ::= "a"{3,1}`, "1:13", "upside down"},
		"huge bound":         {`root ::= "a"{0,100000}`, "1:16", "count from 0 to 1000"},
		"overflow":           {`root ::= "a"{99999999999999999999}`, "1:14", "count"},
		"bound missing":      {`root ::= "a"{,3}`, "1:14", "count"},
		"open brace":         {`root ::= "a"{3`, "1:15", "} is missing"},
		"nothing to repeat":  {`root ::= *`, "1:10", "nothing to repeat"},
		"empty repeated":     {`root ::= ""*`, "1:12", "nothing to repeat"},
		"deep":               {"root ::= " + strings.Repeat("(", 20000) + strings.Repeat(")", 20000), "1:74", "deeper"},
		"left recursion":     {`root ::= root "a" | "b"`, "1:10", "left-recursive"},
		"indirect":           {"root ::= \"x\" a\na ::= b \"x\" | \"y\"\nb ::= a | \"z\"", "3:7", "left-recursive"},
		"behind nothing":     {"root ::= e root \"a\" | \"b\"\ne ::= f f\nf ::= \"c\" | \"\"", "1:12", "left-recursive"},
		"loops of nothing":   {`root ::= ("a"?)*`, "1:16", "may be empty"},
		"never ends":         {`root ::= "a" root`, "1:1", "has an end"},
		"too many rules":     {rules.String() + `root ::= "a"`, "501:1", "more than 500 rules"},
		"alternatives":       {"root ::= " + strings.Repeat(`"a"|`, 2000) + `"b"`, "", "alternatives"},
		"memory":             {`root ::= "` + strings.Repeat("a", 60000) + `"{1000}`, "", "too large"},
		"nested repetitions": {`root ::= (([a-z] [0-9]?){0,100} "x"){0,100}`, "", "repeats too much"},
		"chained":            {`root ::= "a"{100}{100}`, "1:18", "repeats too much"},
		"doubling":           {"root ::= r0\n" + strings.Replace(doubling.String(), "r499 ::= r500 | r500", "r499 ::= \"a\"", 1), "", "more than 500 rules"},
		"doubling, shorter":  {"root ::= r100\n" + strings.Join(strings.SplitAfter(doubling.String(), "\n")[100:499], "") + `r499 ::= "a"`, "", "ways"},
		"nullable chains":    {"root ::= a{0,100}\na ::= b{0,100}\nb ::= c{0,100}\nc ::= d{0,100}\nd ::= \"x\"?", "", "ways"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, ok := errors.AsType[*SyntaxError](Check(c.grammar))
			if !ok {
				t.Fatal("is accepted")
			}
			if at := fmt.Sprintf("%d:%d", e.Line, e.Column); c.at != "" && at != c.at || !strings.Contains(e.Reason, c.reason) {
				t.Errorf("error is %v", e)
			}
		})
	}
}
