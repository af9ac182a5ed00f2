//go:build !race

package storage

const crashSeeds = 3
