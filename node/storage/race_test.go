//go:build race

package storage

// The race detector makes the crash tests some ten times slower.
const crashSeeds = 1
