package child

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// pair makes a connected pair of sockets: one for this process, one to be inherited by a child. Neither leaks into
// another child that is started at the same moment.
func pair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("engine/child: make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "pipe")
	ours, err := connOf(os.NewFile(uintptr(fds[0]), "pipe"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// connOf takes the file over: it is closed, the connection stays.
func connOf(f *os.File) (net.Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("engine/child: fd %d is not the parent's socket: %w", f.Fd(), err)
	}
	return c, nil
}

// FD is the descriptor on which a child finds its parent.
const FD = 3

// Conn is the child's end of the pipe, inherited as descriptor fd (see [FD]). It fails where no parent has put a
// socket there: the process was started by hand.
func Conn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "pipe")
	if f == nil {
		return nil, fmt.Errorf("engine/child: fd %d is no descriptor", fd)
	}
	return connOf(f)
}
