// Command kubeprovider is a stand-in for Pulumi's Kubernetes provider plugin, for machines that
// can't download that: test tooling, no part of the product. Installed as
// pulumi-resource-kubernetes on PATH, it speaks Pulumi's provider protocol for the kinds
// that Atoll's program uses, against a real API server: server-side apply, server-side dry
// runs for previews, diffs with replacements where Kubernetes can't change a field in place,
// reads for refresh, waits that end with a reason, and deletes that wait until the object is gone.
//
// It says what it is in its plugin information and on every Configure. The ensure command
// beside it installs it only where the official plugin is neither installed nor to be had.
//
// Where it follows the official provider's conventions: annotations pulumi.com/skipAwait, patchForce
// and replaceUnready; a failed wait leaves the resource in the state, so that the next update goes on.
// What it lacks: names made up for objects without one, kinds beyond kinds.go, Helm, Kustomize, YAML.
package main
