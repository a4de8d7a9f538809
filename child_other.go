//go:build !linux

package main

import "syscall"

// childAttr makes a child process that a terminal's Ctrl-C does not reach: the drain ends it, after everything that
// needs it. There is no death signal here: a child that outlives us is ended by the next start.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
