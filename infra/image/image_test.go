package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// staticBinary builds the smallest static program.
func staticBinary(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(src, []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o644))
	out := filepath.Join(dir, "hello")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, string(said))
	return out
}

func options(t testing.TB) Options {
	return Options{
		Name: "localhost/hello:1", Binary: staticBinary(t), Dirs: []string{"/data"},
		Labels: map[string]string{"a": "b"}, Created: time.Unix(1700000000, 0),
	}
}

func TestWrittenImageReadsBack(t *testing.T) {
	o := options(t)
	file := filepath.Join(t.TempDir(), "i.tar")
	require.NoError(t, WriteFile(file, o))
	info, err := ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "localhost/hello:1", info.Name)
	require.Equal(t, runtime.GOARCH, info.Arch)
	require.Equal(t, NonRoot, info.User)
	require.Equal(t, []string{"/hello"}, info.Entry)
	require.Equal(t, map[string]string{"a": "b"}, info.Labels)
	require.Len(t, info.Layers, 1)
}

// One input gives the same bytes at any time, in any folder.
func TestImagesAreReproducible(t *testing.T) {
	o := options(t)
	a, b := filepath.Join(t.TempDir(), "a.tar"), filepath.Join(t.TempDir(), "b.tar")
	require.NoError(t, WriteFile(a, o))
	later := time.Now().Add(time.Hour)
	require.NoError(t, os.Chtimes(o.Binary, later, later))
	require.NoError(t, WriteFile(b, o))
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.True(t, bytes.Equal(x, y), "the two archives differ")
}

func TestLayerContent(t *testing.T) {
	o := options(t)
	img, err := Build(o)
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	r, err := layers[0].Uncompressed()
	require.NoError(t, err)
	found := map[string]tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		found[h.Name] = *h
	}
	require.EqualValues(t, 0o755, found["hello"].Mode)
	require.Zero(t, found["hello"].Uid, "the user must not be able to change what it runs")
	require.Equal(t, 65532, found["data/"].Uid)
	require.EqualValues(t, 0o1777, found["tmp/"].Mode)
	require.Contains(t, found, "etc/passwd")
	z, err := layers[0].Compressed()
	require.NoError(t, err)
	b, err := io.ReadAll(z)
	require.NoError(t, err)
	size, err := layers[0].Size()
	require.NoError(t, err)
	require.EqualValues(t, len(b), size)
}

func TestBadOptions(t *testing.T) {
	o := options(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Name = "Hello" }, `image name "Hello": want a name with a tag`},
		{func(o *Options) { o.User = "me" }, `image user "me": want numbers`},
		{func(o *Options) { o.Dirs = []string{"data"} }, `image folder "data": want an absolute`},
		{func(o *Options) { o.Binary = "image.go" }, "want a static Linux binary"},
		{func(o *Options) { o.Binary = "/nonexistent" }, "no such file"},
	} {
		bad := o
		c.change(&bad)
		_, err := Build(bad)
		require.ErrorContains(t, err, c.want)
	}
	if _, err := os.Stat("/bin/sh"); err == nil && runtime.GOOS == "linux" {
		o.Binary = "/bin/sh"
		_, err := Build(o)
		require.ErrorContains(t, err, "needs a dynamic linker")
	}
}

// Whatever byte of an archive changes, reading it notices, or what it says of the image stays.
func TestDamageIsNoticed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "i.tar")
	require.NoError(t, WriteFile(file, options(t)))
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	info, err := Read(bytes.NewReader(good))
	require.NoError(t, err)
	i := bytes.Index(good, []byte("\x1f\x8b")) // where the layer begins
	require.Positive(t, i)
	bad := bytes.Clone(good)
	bad[i+100] ^= 1
	_, err = Read(bytes.NewReader(bad))
	require.ErrorContains(t, err, "has another content than its name says")
	_, err = Read(bytes.NewReader(good[:len(good)/2]))
	require.Error(t, err)
	_, err = Read(strings.NewReader(""))
	require.ErrorContains(t, err, "no oci-layout")
	require.NotEmpty(t, info.Digest)
}

func FuzzRead(f *testing.F) {
	file := filepath.Join(f.TempDir(), "i.tar")
	o := options(f)
	// A tiny stand-in keeps the corpus small; Read does not look into layers.
	if err := WriteFile(file, o); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4096])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Read(bytes.NewReader(b))
		if err == nil && (info.Name == "" || info.Digest == "" || len(info.Layers) == 0) {
			t.Fatalf("accepted without a name, a digest or a layer: %+v", info)
		}
	})
}
