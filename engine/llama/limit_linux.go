package llama

import "syscall"

// limitMemory bounds what this process may write to, in bytes: what is more ends it. Address space that is only
// reserved, which Go's runtime and threads' stacks have much of, does not count.
func limitMemory(most uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: most, Max: most})
}
