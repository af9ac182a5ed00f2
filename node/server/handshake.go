package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Handshake makes one connection between nodes to addr, with the certificate and the CA in certs,
// and ends it. With TLS 1.3 a server's refusal arrives after the client's handshake, so it reads
// until the server has had its say: a server that accepts says nothing at first.
func Handshake(ctx context.Context, certs, addr string) error {
	c, err := openCertificates(certs, slog.Default())
	if err != nil {
		return err
	}
	_, client := c.peer()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	return refused(conn)
}

// refusalWait is how long a refusal may take to arrive.
const refusalWait = time.Second

// refused waits for an alert. Silence is consent.
func refused(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(refusalWait)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}
