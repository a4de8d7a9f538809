package llama

import (
	"runtime"
	"slices"

	"lorry/engine"
)

// resume is how far a run has come. It shares memory with the run, which never changes what it has written once.
func (u *run) resume() *engine.Resume {
	r := &engine.Resume{Usage: u.usage}
	for _, s := range u.seqs {
		r.Choices = append(r.Choices, engine.Partial{Tokens: slices.Clip(s.tokens[len(u.prompt):]), Logprobs: slices.Clip(s.logprobs)})
	}
	return r
}

// replay brings a fresh run to where an earlier one stood. It says false, and leaves a run that is of no use, where that
// can't have been this request's: the caller starts over.
func (u *run) replay(r *engine.Resume, v *vocab) bool {
	if len(r.Choices) != len(u.seqs) {
		return false
	}
	for i, s := range u.seqs {
		if !s.replay(r.Choices[i], v) {
			return false
		}
		if s.finish != "" {
			u.open--
		}
	}
	u.adopt(r.Usage, r.Tokens())
	return true
}

// adopt takes over what the earlier run has spent: the client is told of one answer.
func (u *run) adopt(spent engine.Usage, tokens int) {
	u.usage.CachedTokens = min(spent.CachedTokens, len(u.prompt))
	u.usage.EngineSeconds, u.usage.FirstTokenSeconds = spent.EngineSeconds, spent.FirstTokenSeconds
	u.usage.CompletionTokens, u.usage.ResumedTokens = tokens, tokens
	u.started, u.saved = tokens > 0, tokens
}

func (s *sequence) replay(p engine.Partial, v *vocab) bool {
	begun, lps := s.text.done.Len(), p.Logprobs
	for _, id := range p.Tokens {
		if s.finish != "" || !v.has(id) || s.run.ctx.Err() != nil || !s.sampler.replay(id) {
			return false
		}
		var lp *engine.Logprob
		if s.sampler.Logprobs && !v.end[id] {
			if len(lps) == 0 {
				return false
			}
			lp, lps = &lps[0], lps[1:]
		}
		s.accept(v, id, lp)
	}
	shown := piece{s.text.done.String()[begun:], slices.Clip(s.text.logs)}
	if s.finish != "" || !shown.empty() {
		s.put(shown)
	}
	return true
}

// replay notes a token that was drawn elsewhere, and says whether this sampler could have drawn it.
func (p *sampler) replay(id int32) bool {
	if g := p.grammar; g != nil && !p.gate.holds(id) {
		if !p.gate.lets(id) {
			return false
		}
		p.gate.pass(id)
	} else if g != nil {
		runtime.LockOSThread() // see threadTime
		defer runtime.UnlockOSThread()
		g.begun = threadTime()
		if !g.allows(id) || g.slow {
			return false
		}
		g.accept(id)
		if g.slow {
			return false
		}
		p.reopen()
	}
	if p.counts != nil {
		p.counts[id]++
	}
	return true
}

// unfinished are the answers that are still to be made.
func (u *run) unfinished() (list []*sequence) {
	for _, s := range u.seqs {
		if s.finish == "" {
			list = append(list, s)
		}
	}
	return list
}

// save tells how far a run has come, when that is due or due is false.
func (u *run) save(due bool) {
	drawn := u.usage.CompletionTokens
	if u.request.Save == nil || due && !engine.SaveDue(drawn, u.saved) {
		return
	}
	u.saved = drawn
	u.outbox.save(u.resume())
}
