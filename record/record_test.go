package record

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// all has a field of each way to read.
type all struct {
	S     string            `json:"s"`
	Named named             `json:"named,omitempty"`
	I     int               `json:"i"`
	I32   int32             `json:"i32"`
	I64   int64             `json:"i64"`
	U     uint64            `json:"u"`
	F     float64           `json:"f"`
	B     bool              `json:"b"`
	P     *all              `json:"p,omitempty"`
	L     []all             `json:"l"`
	Words []string          `json:"words"`
	IDs   []int32           `json:"ids"`
	Bytes []byte            `json:"bytes"`
	Raw   json.RawMessage   `json:"raw"`
	M     map[string]string `json:"m"`
	Any   any               `json:"any"`
	Plain string
	Never string `json:"-"`
	own   string
}

type named string

// odd is read by encoding/json: it embeds.
type odd struct {
	all
	N int `json:"n,string"`
}

var texts = map[string]string{
	"all": `{"s":"a","named":"b","i":-1,"i32":2,"i64":3,"u":18446744073709551615,"f":1.5e3,"b":true,"p":{"s":"c"},"l":[{"i":1},{"i":2}],` +
		`"words":["x","y"],"ids":[1,2],"bytes":"AQI=","raw":{"k": [1, "]"]},"m":{"k":"v"},"any":[1,"a",null],"Plain":"p"}`,
	"white space":           " {\n\t\"s\" : \"a\" ,\r\n \"l\" : [ ] , \"p\" : { } , \"ids\" : [ 1 , 2 ] } \n",
	"empty":                 `{}`,
	"nulls":                 `{"s":null,"i":null,"u":null,"f":null,"b":null,"p":null,"l":null,"raw":null,"m":null,"any":null}`,
	"null":                  `null`,
	"escapes":               `{"s":"a\"b\\c\ndA😀\/","words":["\t"]}`,
	"escaped quote last":    `{"s":"a\\"}`,
	"escape in a name":      `{"\u0073":"a"}`,
	"half a surrogate":      `{"s":"\ud83d"}`,
	"bad escape":            `{"s":"\x"}`,
	"other characters":      `{"s":"Größe 漢字 😀"}`,
	"no UTF-8":              "{\"s\":\"a\xff\"}",
	"control in a string":   "{\"s\":\"a\nb\"}",
	"zero byte":             "{\"s\":\"a\"}\x00",
	"zero in a string":      "{\"s\":\"a\x00\"}",
	"name in another case":  `{"PLAIN":"p","S":"a"}`,
	"unknown":               `{"unknown":{"deep":[1,2]},"s":"a"}`,
	"twice":                 `{"s":"a","s":"b","l":[{"s":"x","i":1}],"l":[{"i":2}],"p":{"s":"x"},"p":{"i":2}}`,
	"never":                 `{"-":"a","Never":"b","own":"c"}`,
	"minus zero":            `{"i":-0,"f":-0}`,
	"bounds":                `{"i32":2147483647,"i64":-9223372036854775808}`,
	"over int32":            `{"i32":2147483648}`,
	"over int64":            `{"i64":9223372036854775808}`,
	"over uint64":           `{"u":18446744073709551616}`,
	"minus in unsigned":     `{"u":-1}`,
	"fraction in a whole":   `{"i":1.5}`,
	"exponent in a whole":   `{"i":1e3}`,
	"leading zero":          `{"i":01}`,
	"leading zero, float":   `{"f":01}`,
	"plus":                  `{"i":+1}`,
	"hex float":             `{"f":0x1p-2}`,
	"not a number":          `{"f":NaN}`,
	"huge float":            `{"f":1e999}`,
	"underscore":            `{"f":1_0}`,
	"minus alone":           `{"i":-}`,
	"true in a string":      `{"s":true}`,
	"text in a number":      `{"i":"1"}`,
	"almost true":           `{"b":truex}`,
	"list in an object":     `{"p":[1}`,
	"crossed":               `{"raw":[1}]}`,
	"comma at the end":      `{"s":"a",}`,
	"comma in a list's end": `{"ids":[1,]}`,
	"no comma":              `{"s":"a" "i":1}`,
	"no colon":              `{"s" "a"}`,
	"cut":                   `{"s":"a","l":[{"i":1`,
	"cut string":            `{"s":"a`,
	"cut escape":            `{"s":"a\`,
	"more behind":           `{"s":"a"} {}`,
	"nothing":               ``,
	"list":                  `[1]`,
	"raw text":              `{"raw":"a, ]","any":"}"}`,
	"raw nothing":           `{"raw":}`,
	"raw bad":               `{"raw":[1,]}`,
	"map bad":               `{"m":{"a":1}}`,
}

// agree reads a text both ways.
func agree[T any](t *testing.T, text []byte) {
	t.Helper()
	var got, want T
	gotErr, wantErr := Unmarshal(text, &got), json.Unmarshal(text, &want)
	if (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
		t.Fatalf("%q: error %v, encoding/json's is %v", text, gotErr, wantErr)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(all{}, odd{}), cmp.Comparer(sameFloat)); d != "" && wantErr == nil {
		t.Fatalf("%q:\n%s", text, d)
	}
}

// none has nothing of what no text may fill.
func (a all) none() bool { return a.own == "" && a.Never == "" }

func sameFloat(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

func TestUnmarshal(t *testing.T) {
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			agree[all](t, []byte(text))
			agree[odd](t, []byte(text))
			agree[[]all](t, []byte("["+text+"]"))
			agree[*all](t, []byte(text))
		})
	}
}

// TestShort: the short way is taken, or nothing is won.
func TestShort(t *testing.T) {
	var a all
	s := scanner{text: []byte(texts["all"])}
	if !s.value(readerOf(reflect.TypeFor[all]()), reflect.ValueOf(&a).Elem()) || a.Plain != "p" || !a.none() {
		t.Errorf("stopped at byte %d", s.at)
	}
}

func TestDeep(t *testing.T) {
	for _, depth := range []int{maxDepth / 2, maxDepth, 2 * maxDepth} {
		agree[all](t, []byte(strings.Repeat(`{"s":"a","p":`, depth)+"{}"+strings.Repeat("}", depth)))
	}
}

func TestNoPointer(t *testing.T) {
	if Unmarshal([]byte(`{}`), all{}) == nil || Unmarshal([]byte(`{}`), nil) == nil || Unmarshal([]byte(`{}`), (*all)(nil)) == nil {
		t.Error("read into nothing")
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		agree[all](t, text)
		agree[odd](t, text)
	})
}
