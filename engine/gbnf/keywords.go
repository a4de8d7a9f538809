package gbnf

import "slices"

// annotations say something about a schema and nothing about its values.
var annotations = setOf("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
	"$comment", "$schema", "$id", "id", "$defs", "definitions", "contentEncoding", "contentMediaType", "contentSchema",
	"discriminator", "externalDocs", "xml", "strict")

// applicators stand for whole schemas; one at a time is kept.
var applicators = setOf("$ref", "anyOf", "oneOf", "allOf", "const", "enum", "type")

// keywordGroup is the keywords that speak about one type, and are without effect on values of another.
type keywordGroup struct {
	name string
	// implied keywords make a schema without a type one of this type.
	implied map[string]bool
	// unkept keywords are refused: no grammar of ours can hold them.
	unkept map[string]bool
}

// keywordGroups is in llama.cpp's order of guessing.
var keywordGroups = []keywordGroup{
	{"object", setOf("properties", "additionalProperties", "required"),
		setOf("patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired",
			"dependentSchemas", "dependencies", "unevaluatedProperties")},
	{"array", setOf("items", "prefixItems", "minItems", "maxItems"),
		setOf("uniqueItems", "contains", "minContains", "maxContains", "additionalItems", "unevaluatedItems")},
	{"string", setOf("pattern", "minLength", "maxLength", "format"), nil},
	{"number", setOf("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), setOf("multipleOf")},
}

func setOf(names ...string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}

// checkKeywords refuses keywords that are not known: a misspelt bound must not pass for no bound.
func checkKeywords(v *value, path string) {
	for _, m := range v.members {
		if !known(m.key) {
			refuse(path, m.key, "is not supported")
		}
	}
}

func known(keyword string) bool {
	return annotation(keyword) || applicators[keyword] || slices.ContainsFunc(keywordGroups, func(g keywordGroup) bool {
		return g.implied[keyword] || g.unkept[keyword]
	})
}

func annotation(keyword string) bool {
	return annotations[keyword] || len(keyword) > 2 && keyword[:2] == "x-"
}

// refuseBeside refuses what stands beside a keyword that takes the whole schema.
func refuseBeside(v *value, path, keyword string, but ...string) {
	for _, m := range v.members {
		if m.key != keyword && !annotation(m.key) && !slices.Contains(but, m.key) {
			refuse(path, m.key, "cannot be kept beside %s", keyword)
		}
	}
}

// refuseUnkept refuses the keywords of the type that no grammar holds. Those of other types have no effect.
func refuseUnkept(v *value, name, path string) {
	if name == "integer" {
		name = "number"
	}
	for _, group := range keywordGroups {
		if group.name != name && name != "" {
			continue
		}
		for _, m := range v.members {
			if group.unkept[m.key] && !vacuous(m, v) {
				refuse(path, m.key, "is not supported")
			}
		}
	}
}

// vacuous keywords forbid nothing that the grammar would let through.
func vacuous(m member, v *value) bool {
	switch m.key {
	case "uniqueItems":
		return m.value.is("false")
	case "multipleOf":
		return m.value.is("1") && v.get("type").isText("integer")
	case "additionalItems", "unevaluatedItems":
		return v.get("items") != nil && v.get("items").kind == kindArray || v.get("prefixItems") != nil
	case "unevaluatedProperties":
		return m.value.is("true")
	}
	return false
}

// isText says whether v, nil or not, is the string text.
func (v *value) isText(text string) bool { return v != nil && v.kind == kindString && v.text == text }
