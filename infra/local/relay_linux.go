package local

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// relayUserTimeoutMillis ends a connection whose data nobody acknowledges.
const relayUserTimeoutMillis = 5000

// relaySocket prepares a socket before it connects.
func relaySocket(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, relayUserTimeoutMillis)
	})
	if err != nil {
		return err
	}
	return serr
}
