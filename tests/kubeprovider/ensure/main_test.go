package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	official := filepath.Join(dir, "home", "plugins", "resource-kubernetes-v"+plugin, "pulumi-resource-kubernetes")
	write := func(path string) error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte("x"), 0o755)
	}
	e := ensurer{out: filepath.Join(dir, "out"), home: filepath.Join(dir, "home"), progress: io.Discard,
		install: func(context.Context) error { return errors.New("403") },
		build:   func(_ context.Context, binary string) error { return write(binary) }}
	path, err := e.run(context.Background())
	require.NoError(t, err)
	require.Equal(t, e.out, path)
	require.FileExists(t, filepath.Join(e.out, "pulumi-resource-kubernetes"))

	e.install = func(context.Context) error { return write(official) }
	path, err = e.run(context.Background())
	require.NoError(t, err)
	require.Empty(t, path)
	require.NoFileExists(t, filepath.Join(e.out, "pulumi-resource-kubernetes"), "it must not stand before the official one")

	e.install = func(context.Context) error { t.Fatal("it is there already"); return nil }
	path, err = e.run(context.Background())
	require.NoError(t, err)
	require.Empty(t, path)
}
