// Package image makes OCI images of one static binary, without a container daemon, a base image or
// a registry. The same binary and options give the same bytes.
//
// An image is written as a tar of an OCI image layout, which `ctr images import`, `podman load`,
// `skopeo copy oci-archive:` and `crane push` read.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NonRoot is the user and group that images run as unless told otherwise: a number, since Kubernetes
// can check only numbers against runAsNonRoot.
const NonRoot = "65532:65532"

// maxBinaryBytes bounds the binary of an image.
const maxBinaryBytes = 1 << 30

// nameAnnotation is what containerd reads an imported image's name from.
const nameAnnotation = "io.containerd.image.name"

// Options say what goes into an image.
type Options struct {
	Name    string            // with a tag: localhost/atoll:dev
	Binary  string            // path of a static ELF binary; its base name becomes the entry point's
	Rename  string            // base name inside the image, if it shall be another
	User    string            // uid:gid; NonRoot when empty
	Dirs    []string          // empty folders of that user, such as /data
	Labels  map[string]string // org.opencontainers.image.version and the like
	Created time.Time         // the build's, or its commit's; the zero time means 1970
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// platforms maps what an ELF header says to what images say.
var platforms = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// Build makes an image in memory.
func Build(o Options) (v1.Image, error) {
	if !namePattern.MatchString(o.Name) {
		return nil, fmt.Errorf("image name %q: want a name with a tag, such as localhost/atoll:dev", o.Name)
	}
	if o.User == "" {
		o.User = NonRoot
	}
	var uid, gid int
	if n, err := fmt.Sscanf(o.User, "%d:%d", &uid, &gid); n != 2 || err != nil || uid < 0 || gid < 0 {
		return nil, fmt.Errorf("image user %q: want numbers, uid:gid", o.User)
	}
	if o.Created.IsZero() {
		o.Created = time.Unix(0, 0)
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	arch, err := staticArch(o.Binary)
	if err != nil {
		return nil, err
	}
	exe := filepath.Base(o.Binary)
	if o.Rename != "" {
		exe = o.Rename
	}
	content, err := layerBytes(o, exe, uid, gid)
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   content,
		History: v1.History{CreatedBy: "atoll image builder", Created: v1.Time{Time: o.Created}},
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", o.Name, err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", o.Name, err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	cf.Created = v1.Time{Time: o.Created}
	cf.Config = v1.Config{
		User:       o.User,
		Entrypoint: []string{"/" + exe},
		Env:        []string{"PATH=/", "HOME=/tmp"},
		WorkingDir: "/",
		Labels:     o.Labels,
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, fmt.Errorf("image %s: %w", o.Name, err)
	}
	return img, nil
}

// staticArch reads which machine a binary is for, and refuses one that needs a dynamic linker: an
// image holds no libraries.
func staticArch(file string) (string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", fmt.Errorf("binary %s: %w; want a static Linux binary", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("binary %s needs a dynamic linker; link it statically (-tags netgo,osusergo -ldflags '-linkmode external -extldflags -static')", file)
		}
	}
	arch, ok := platforms[f.Machine]
	if !ok {
		return "", fmt.Errorf("binary %s is for %v; images are made for x86-64 and arm64", file, f.Machine)
	}
	return arch, nil
}

// layerBytes makes the only layer: the binary, a user, /tmp, and the folders that were asked for.
func layerBytes(o Options, exe string, uid, gid int) (v1.Layer, error) {
	st, err := os.Stat(o.Binary)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxBinaryBytes {
		return nil, fmt.Errorf("binary %s: %d bytes, at most %d", o.Binary, st.Size(), maxBinaryBytes)
	}
	binary, err := os.ReadFile(o.Binary)
	if err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	var werr error
	add := func(h tar.Header, data []byte) {
		h.ModTime, h.Size, h.Format = o.Created, int64(len(data)), tar.FormatPAX
		if werr == nil {
			werr = w.WriteHeader(&h)
		}
		if werr == nil {
			_, werr = w.Write(data)
		}
	}
	dir := func(name string, mode int64, uid, gid int) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(name, "/") + "/", Mode: mode, Uid: uid, Gid: gid}, nil)
	}
	text := func(name, data string) { add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(data)) }
	dir("etc", 0o755, 0, 0)
	passwd, group := "root:x:0:0:root:/:/sbin/nologin\n", "root:x:0:\n"
	if uid != 0 {
		passwd += fmt.Sprintf("nonroot:x:%d:%d:nonroot:/tmp:/sbin/nologin\n", uid, gid)
		group += fmt.Sprintf("nonroot:x:%d:\n", gid)
	}
	text("etc/passwd", passwd)
	text("etc/group", group)
	text("etc/nsswitch.conf", "hosts: files dns\n")
	dir("tmp", 0o1777, 0, 0)
	for _, d := range o.Dirs {
		if !path.IsAbs(d) || path.Clean(d) != d || d == "/" {
			return nil, fmt.Errorf("image folder %q: want an absolute, clean path", d)
		}
		dir(d, 0o755, uid, gid)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: exe, Mode: 0o755}, binary)
	if werr == nil {
		werr = w.Close()
	}
	if werr != nil {
		return nil, fmt.Errorf("image layer: %w", werr)
	}
	return compressed(plain.Bytes())
}

// compressed makes a layer from a tar. gzip's header carries no time, so the bytes depend on the
// content and the Go release only.
func compressed(plain []byte) (v1.Layer, error) {
	var zipped bytes.Buffer
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	diff, _, err := v1.SHA256(bytes.NewReader(plain))
	if err != nil {
		return nil, err
	}
	return &layer{Layer: static.NewLayer(zipped.Bytes(), types.OCILayer), diff: diff, plain: plain}, nil
}

// layer is a compressed layer that knows what it was before.
type layer struct {
	v1.Layer
	diff  v1.Hash
	plain []byte
}

func (l *layer) DiffID() (v1.Hash, error) { return l.diff, nil }

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.plain)), nil
}

// WriteFile makes an image and writes it to file, whole or not at all.
func WriteFile(file string, o Options) error {
	img, err := Build(o)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "atoll-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("image %s: %w", o.Name, err)
	}
	err = at.AppendImage(img, layout.WithAnnotations(map[string]string{
		nameAnnotation:                      o.Name,
		"org.opencontainers.image.ref.name": o.Name[strings.LastIndexByte(o.Name, ':')+1:],
	}))
	if err != nil {
		return fmt.Errorf("image %s: %w", o.Name, err)
	}
	return writeTar(file, os.DirFS(dir), o.Created)
}

// writeTar archives a folder's files in the order of their names.
func writeTar(file string, files fs.FS, created time.Time) error {
	part, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(part.Name())
	w := tar.NewWriter(part)
	if created.IsZero() {
		created = time.Unix(0, 0)
	}
	err = fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: created.UTC().Truncate(time.Second)}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	err = errors.Join(err, w.Close(), part.Chmod(0o644), part.Close())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.Rename(part.Name(), file)
}
