package store

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/atolldb/atoll/node/storage"
)

// Engines are a store's two databases.
type Engines struct {
	State *storage.StateEngine
	Log   *storage.LogEngine
}

// EngineOptions say where a store lives.
type EngineOptions struct {
	Dir        string
	FS         storage.FS // nil: the disk
	Small      bool       // about 1 MiB of memory: tests, simulation
	CacheBytes int64      // of the state engine; 0: default
	OnFatal    func(error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// PlantUnsyncedLog is a bug that the simulator plants; see storage.Options.
	PlantUnsyncedLog bool
}

// OpenEngines opens or creates the engines in Dir/log and Dir/state.
func OpenEngines(o EngineOptions) (*Engines, error) {
	fs := o.FS
	if fs == nil {
		fs = storage.DiskFS()
	}
	opts := storage.Options{FS: o.FS, Small: o.Small, OnFatal: o.OnFatal, Logger: o.Logger, Registerer: o.Registerer, PlantUnsyncedLog: o.PlantUnsyncedLog}
	opts.Dir = fs.PathJoin(o.Dir, "log")
	log, err := storage.OpenLog(opts)
	if err != nil {
		return nil, err
	}
	opts.Dir = fs.PathJoin(o.Dir, "state")
	opts.CacheBytes = o.CacheBytes
	state, err := storage.OpenState(opts)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &Engines{State: state, Log: log}, nil
}

// Close closes both engines; the store is closed before.
func (e *Engines) Close() error { return errors.Join(e.State.Close(), e.Log.Close()) }

// Crash closes both engines without a flush, as a crash does. Tests and the simulator use it.
func (e *Engines) Crash() error { return errors.Join(e.State.CloseWithoutFlush(), e.Log.Close()) }
