//go:build programs

// Package pulumi pins the version of Pulumi's CLI that is built where the user has none.
package pulumi

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
