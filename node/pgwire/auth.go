package pgwire

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"
)

// authenticate runs the exchange. A nil error means that the user is who they say.
func (c *conn) authenticate(ctx context.Context, user, database string) error {
	if c.srv.cfg.Auth == nil {
		return nil
	}
	cred, err := c.srv.cfg.Auth.Credential(ctx, user, database, c.tls)
	if err != nil {
		return err
	}
	if cred.Trust {
		return nil
	}
	failed := fatal(pgerrcode.InvalidPassword, "password authentication failed for user %q", user)
	stored, ok := parseVerifier(cred.Verifier)
	if !ok {
		stored = decoyCredential()
	}
	// PostgreSQL's clients send an empty user name inside SCRAM: the start-up message has it.
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		return err
	}
	conv := server.NewConversation()
	c.send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	first, err := c.saslMessage(pgproto3.AuthTypeSASL)
	if err != nil {
		return err
	}
	reply, err := conv.Step(first)
	if err != nil {
		return failed
	}
	c.send(&pgproto3.AuthenticationSASLContinue{Data: []byte(reply)})
	second, err := c.saslMessage(pgproto3.AuthTypeSASLContinue)
	if err != nil {
		return err
	}
	reply, err = conv.Step(second)
	if err != nil || !conv.Valid() || !ok {
		return failed
	}
	c.send(&pgproto3.AuthenticationSASLFinal{Data: []byte(reply)})
	return nil
}

// saslMessage flushes and reads the client's next SASL message.
func (c *conn) saslMessage(authType uint32) (string, error) {
	if err := c.flush(); err != nil {
		return "", err
	}
	if err := c.backend.SetAuthType(authType); err != nil {
		return "", err
	}
	msg, err := c.backend.Receive()
	if err != nil {
		return "", err
	}
	switch m := msg.(type) {
	case *pgproto3.SASLInitialResponse:
		if m.AuthMechanism != "SCRAM-SHA-256" {
			return "", protocolViolation("client selected an invalid SASL authentication mechanism %q", m.AuthMechanism)
		}
		return string(m.Data), nil
	case *pgproto3.SASLResponse:
		return string(m.Data), nil
	}
	return "", protocolViolation("expected a SASL response, got %T", msg)
}

// parseVerifier reads PostgreSQL's pg_authid.rolpassword form.
func parseVerifier(v string) (scram.StoredCredentials, bool) {
	var none scram.StoredCredentials
	rest, ok := strings.CutPrefix(v, "SCRAM-SHA-256$")
	if !ok {
		return none, false
	}
	params, keys, ok := strings.Cut(rest, "$")
	if !ok {
		return none, false
	}
	iterText, saltText, ok1 := strings.Cut(params, ":")
	storedText, serverText, ok2 := strings.Cut(keys, ":")
	iters, err := strconv.Atoi(iterText)
	if !ok1 || !ok2 || err != nil || iters < 1 {
		return none, false
	}
	salt, err1 := base64.StdEncoding.DecodeString(saltText)
	stored, err2 := base64.StdEncoding.DecodeString(storedText)
	server, err3 := base64.StdEncoding.DecodeString(serverText)
	if errors.Join(err1, err2, err3) != nil || len(stored) != sha256.Size || len(server) != sha256.Size {
		return none, false
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: iters},
		StoredKey:  stored, ServerKey: server,
	}, true
}

// decoyCredential matches no password.
func decoyCredential() scram.StoredCredentials {
	var b [16 + 2*sha256.Size]byte
	_, _ = crand.Read(b[:])
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(b[:16]), Iters: 4096},
		StoredKey:  b[16 : 16+sha256.Size], ServerKey: b[16+sha256.Size:],
	}
}

// checkTLS refuses a plain-text session where TLS is required.
func (c *conn) checkTLS(user, database string) error {
	if c.srv.cfg.RequireTLS && !c.tls {
		e := fatal(pgerrcode.InvalidAuthorizationSpecification,
			"connection for user %q to database %q is not encrypted, and this server accepts only TLS", user, database)
		return e.WithHint("%s", fmt.Sprintf("Connect with sslmode=%s.", "verify-full"))
	}
	return nil
}
