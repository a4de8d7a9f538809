package engine

// Speed is what a model does on the device at hand, in tokens a second.
type Speed struct {
	// Prompt is of one prompt of 256 tokens, Alone of an answer that nothing runs beside, Together of 8 answers.
	Prompt   float64 `json:"prompt_per_second"`
	Alone    float64 `json:"alone_per_second"`
	Together float64 `json:"together_per_second"`
}

// Job is how many seconds a job of 200 tokens in and 32 out takes of a full batch: what formats are compared by.
func (s Speed) Job() float64 { return 200/s.Prompt + 32/s.Together }

// Measured is a model's file and what it does here.
type Measured struct {
	File   string `json:"file"`
	Format string `json:"format"` // as "q4_0"
	Bytes  int64  `json:"bytes"`
	Speed
	// Perplexity is over a text of Lorry's own: how many tokens the model wavers between at each. Only the ratio of two
	// formats of one model says something. Error is its standard error.
	Perplexity float64 `json:"perplexity"`
	Error      float64 `json:"perplexity_error"`
}

// Quantized is a model in two formats. The measures are zero where none were asked for.
type Quantized struct {
	Device string   `json:"device"`
	Before Measured `json:"before"`
	After  Measured `json:"after"`
	// Tried are all formats that were compared, After among them; none where the format was given.
	Tried []Measured `json:"tried,omitempty"`
	// Seconds is the time to write After.
	Seconds float64 `json:"seconds"`
}

// Setting is how an engine runs: what [Tuning] suggests, and what was tried.
type Setting struct {
	Threads int    `json:"threads"`
	Slots   int    `json:"slots"`
	Rows    int    `json:"rows"` // most tokens of one native call
	KVType  string `json:"kv_type"`
	Flash   bool   `json:"flash_attention"`
}

// Trial is one setting, and what the model does with it.
type Trial struct {
	// Knob is what was varied: threads, rows, slots, kv_type or flash_attention.
	Knob    string `json:"knob"`
	Setting `json:"setting"`
	Speed
	// Error says why it can't be.
	Error string `json:"error,omitempty"`
}

// Tuning is a model measured on a device with many settings, and the one that is suggested.
type Tuning struct {
	File    string  `json:"file"`
	Format  string  `json:"format"`
	Device  string  `json:"device"`
	Cores   int     `json:"cores"` // that this process may use
	Trials  []Trial `json:"trials"`
	Suggest Setting `json:"suggest"`
}
