//go:build !linux

package child

import "syscall"

// attributes: a group of its own, so that a terminal's interrupt reaches the parent alone and it can drain. Here the
// child learns of its parent's end by the pipe's.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
