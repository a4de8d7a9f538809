package batch

import "iter"

// Set is a set of line numbers, 1 to its size.
type Set struct {
	words   []uint64
	size, n int
}

// NewSet is an empty set of lines up to size.
func NewSet(size int) *Set { return &Set{words: make([]uint64, size/64+1), size: size} }

// Add says whether the line was not there before. A line beyond the size is never added.
func (s *Set) Add(n int) bool {
	if n < 1 || n > s.size || s.Has(n) {
		return false
	}
	s.words[n/64] |= 1 << (n % 64)
	s.n++
	return true
}

// Has says whether a line is in the set.
func (s *Set) Has(n int) bool { return n >= 1 && n <= s.size && s.words[n/64]&(1<<(n%64)) != 0 }

// Len is how many lines are in the set.
func (s *Set) Len() int { return s.n }

// Full says whether all are.
func (s *Set) Full() bool { return s.n == s.size }

// Missing walks over the lines that are not.
func (s *Set) Missing() iter.Seq[int] {
	return func(yield func(int) bool) {
		for n := 1; n <= s.size; n++ {
			if !s.Has(n) && !yield(n) {
				return
			}
		}
	}
}
