package pgwire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config holds the limits of the SQL port. Zero fields get defaults.
type Config struct {
	// MaxConnections bounds how many clients are connected (SQLSTATE 53300 above it).
	MaxConnections int
	// MaxMessageBytes bounds the body of one message of an authenticated client.
	MaxMessageBytes int
	// StartupTimeout bounds start-up and authentication together.
	StartupTimeout time.Duration
	// WriteTimeout bounds each write to a client that does not read.
	WriteTimeout time.Duration
	// MaxPrepared and MaxPortals bound what one session may hold.
	MaxPrepared, MaxPortals int
	// TLS is nil when the port speaks plain text only.
	TLS *tls.Config
	// RequireTLS refuses plain-text sessions (SQLSTATE 28000).
	RequireTLS bool
	// Auth decides how a client proves who it is; nil trusts everybody.
	Auth Authenticator
	// Log and Registerer may be nil.
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// EnsureDefaults fills the fields that are zero.
func (c *Config) EnsureDefaults() {
	setDefault(&c.MaxConnections, 1000)
	setDefault(&c.MaxMessageBytes, 64<<20)
	setDefault(&c.StartupTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 5*time.Minute)
	setDefault(&c.MaxPrepared, 10000)
	setDefault(&c.MaxPortals, 1000)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
}

// Validate lists every fault at once.
func (c *Config) Validate() error {
	var faults []error
	positive := func(name string, ok bool, v any) {
		if !ok {
			faults = append(faults, fmt.Errorf("%s is %v; it must be positive", name, v))
		}
	}
	positive("MaxConnections", c.MaxConnections > 0, c.MaxConnections)
	positive("MaxMessageBytes", c.MaxMessageBytes > 0, c.MaxMessageBytes)
	positive("StartupTimeout", c.StartupTimeout > 0, c.StartupTimeout)
	positive("WriteTimeout", c.WriteTimeout > 0, c.WriteTimeout)
	positive("MaxPrepared", c.MaxPrepared > 0, c.MaxPrepared)
	positive("MaxPortals", c.MaxPortals > 0, c.MaxPortals)
	if c.RequireTLS && c.TLS == nil {
		faults = append(faults, errors.New("RequireTLS is set, but there is no certificate"))
	}
	return errors.Join(faults...)
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
