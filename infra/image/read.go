package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Limits of an archive that is read.
const (
	maxArchiveEntries = 1000
	maxDocumentBytes  = 4 << 20 // of an index, a manifest, a configuration
)

// Info is what an archive says about its image.
type Info struct {
	Name   string // as the image is called once it is loaded
	Digest string // of the manifest: sha256:…
	Arch   string
	User   string
	Labels map[string]string
	Entry  []string
	Layers []string // digests
}

// ReadFile reads an OCI archive with one image in it and checks that every part is there and has the
// digest that it is called by.
func ReadFile(file string) (Info, error) {
	f, err := os.Open(file)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	info, err := Read(f)
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w; want an OCI image archive, as make image writes it", file, err)
	}
	return info, nil
}

// Read is ReadFile for any reader.
func Read(r io.Reader) (Info, error) {
	docs, sizes, err := readArchive(r)
	if err != nil {
		return Info{}, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(docs["index.json"], &index); err != nil {
		return Info{}, fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) != 1 {
		return Info{}, fmt.Errorf("index.json: %d images, want one", len(index.Manifests))
	}
	top := index.Manifests[0]
	info := Info{Name: top.Annotations[nameAnnotation], Digest: top.Digest.String()}
	if info.Name == "" {
		return Info{}, fmt.Errorf("index.json: the image has no name (annotation %s)", nameAnnotation)
	}
	find := func(what string, d v1.Descriptor, into any) error {
		name := "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex
		size, ok := sizes[name]
		if !ok {
			return fmt.Errorf("%s %s is missing", what, d.Digest)
		}
		if size != d.Size {
			return fmt.Errorf("%s %s: %d bytes, want %d", what, d.Digest, size, d.Size)
		}
		if into == nil {
			return nil
		}
		if err := json.Unmarshal(docs[name], into); err != nil {
			return fmt.Errorf("%s %s: %w", what, d.Digest, err)
		}
		return nil
	}
	var manifest v1.Manifest
	if err := find("manifest", top, &manifest); err != nil {
		return Info{}, err
	}
	var config v1.ConfigFile
	if err := find("configuration", manifest.Config, &config); err != nil {
		return Info{}, err
	}
	for _, l := range manifest.Layers {
		if err := find("layer", l, nil); err != nil {
			return Info{}, err
		}
		info.Layers = append(info.Layers, l.Digest.String())
	}
	if len(info.Layers) == 0 || len(info.Layers) != len(config.RootFS.DiffIDs) {
		return Info{}, fmt.Errorf("%d layers, and %d in the configuration", len(info.Layers), len(config.RootFS.DiffIDs))
	}
	info.Arch, info.User, info.Labels, info.Entry = config.Architecture, config.Config.User, config.Config.Labels, config.Config.Entrypoint
	return info, nil
}

// readArchive returns the small documents and the sizes of all parts of an archive, having compared
// every part with the digest in its name.
func readArchive(r io.Reader) (docs map[string][]byte, sizes map[string]int64, err error) {
	docs, sizes = map[string][]byte{}, map[string]int64{}
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if n >= maxArchiveEntries {
			return nil, nil, fmt.Errorf("more than %d parts", maxArchiveEntries)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		sum := sha256.New()
		head, err := io.ReadAll(io.TeeReader(io.LimitReader(t, maxDocumentBytes), sum))
		if err != nil {
			return nil, nil, err
		}
		rest, err := io.Copy(sum, t)
		if err != nil {
			return nil, nil, err
		}
		if rest == 0 {
			docs[h.Name] = head
		}
		sizes[h.Name] = int64(len(head)) + rest
		if want, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && want != hex.EncodeToString(sum.Sum(nil)) {
			return nil, nil, fmt.Errorf("%s has another content than its name says", h.Name)
		}
	}
	if _, ok := sizes["oci-layout"]; !ok {
		return nil, nil, errors.New("no oci-layout in it")
	}
	return docs, sizes, nil
}
