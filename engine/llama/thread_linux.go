package llama

import (
	"syscall"
	"time"
	"unsafe"
)

// threadTime is the processor time that this thread has had. What a grammar costs is measured by it: on a busy machine a
// thread may not run for longer than any grammar may take. The caller's goroutine must be bound to its thread.
func threadTime() time.Duration {
	const ofThread = 3 // CLOCK_THREAD_CPUTIME_ID
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, ofThread, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}
