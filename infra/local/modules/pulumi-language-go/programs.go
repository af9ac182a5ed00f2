//go:build programs

// Package host pins Pulumi's Go language host. Its own module is not served by every proxy; up to
// v3.66.0 it was part of the SDK's module, and that one runs programs written against later SDKs.
package host

import _ "github.com/pulumi/pulumi/sdk/v3/go/pulumi-language-go"
