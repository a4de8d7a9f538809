package child

import "syscall"

// attributes: a group of its own, so that a terminal's interrupt reaches the parent alone and it can drain; and an end
// together with the parent's, even where that was killed and the child is deaf in a native call. The kernel means the
// parent's *thread*: see process.spawn.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
