package result

import "lorry/engine"

// Base64 is the encoding of vectors that OpenAI's SDKs ask for by themselves; without it they are numbers.
const Base64 = "base64"

type embeddingsBody struct {
	Object string          `json:"object"`
	Data   []embedding     `json:"data"`
	Model  string          `json:"model"`
	Usage  embeddingsUsage `json:"usage"`
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"`
}

// embeddingsUsage is OpenAI's: an embedding has no answer to count.
type embeddingsUsage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

func embeddings(v *Verdict) embeddingsBody {
	n := v.Completion.Usage.PromptTokens
	out := embeddingsBody{Object: "list", Data: []embedding{}, Model: v.Model.Name, Usage: embeddingsUsage{n, n}}
	for i, x := range v.Completion.Embeddings {
		out.Data = append(out.Data, embedding{"embedding", i, encoded(x, v.Encoding)})
	}
	return out
}

func encoded(x engine.Vector, encoding string) any {
	if encoding == Base64 {
		return x
	}
	return x.Floats()
}
