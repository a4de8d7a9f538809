package main

import "syscall"

// childAttr makes a child process that dies with this one, whatever ends it, and that a terminal's Ctrl-C does not
// reach: the drain ends it, after everything that needs it.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
