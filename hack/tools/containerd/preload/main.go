// Command preload writes a containerd root folder that holds images, unpacked, as if containerd had imported them:
//
//	preload FOLDER ARCHIVE...
//
// ARCHIVE is an OCI archive with one image of one layer, under the full name that it is annotated with. A guest that
// starts with a copy of FOLDER has nothing to import. Needs neither root nor mounts: layers are written straight to
// where the overlay snapshotter keeps them, by containerd's own code. The same archives give the same bytes; the
// layers' owners and times are not kept, as the image file system sets them anyway.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

const (
	snapshotter = "overlayfs"
	// Folders of containerd's plugins, by their names.
	contentFolder  = "io.containerd.content.v1.content"
	metadataFolder = "io.containerd.metadata.v1.bolt"
	overlayFolder  = "io.containerd.snapshotter.v1." + snapshotter
)

// The page size of every database, whatever the machine's is.
var database = &bolt.Options{PageSize: 4096}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: preload FOLDER ARCHIVE...")
		os.Exit(2)
	}
	if err := preload(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "preload:", err)
		os.Exit(1)
	}
}

func preload(folder string, archives []string) error {
	metadataFile := filepath.Join(folder, metadataFolder, "meta.db")
	overlayFile := filepath.Join(folder, overlayFolder, "metadata.db")
	sizes, err := store(archives, folder, metadataFile)
	if err != nil {
		return err
	}
	// In the one, sizes are of blobs, and as they are.
	if err := normalize(metadataFile, nil); err != nil {
		return fmt.Errorf("%s: %w", metadataFile, err)
	}
	if err := normalize(overlayFile, sizes); err != nil {
		return fmt.Errorf("%s: %w", overlayFile, err)
	}
	return nil
}

// store fills the folder, and returns the sizes of the unpacked layers, by the ids of their chains.
func store(archives []string, folder, metadataFile string) (map[string]int64, error) {
	blobs, err := local.NewStore(filepath.Join(folder, contentFolder))
	if err != nil {
		return nil, err
	}
	layers, err := overlay.NewSnapshotter(filepath.Join(folder, overlayFolder))
	if err != nil {
		return nil, err
	}
	defer layers.Close()
	if err := os.MkdirAll(filepath.Dir(metadataFile), 0o711); err != nil {
		return nil, err
	}
	bolted, err := bolt.Open(metadataFile, 0o644, database)
	if err != nil {
		return nil, err
	}
	defer bolted.Close()
	// The namespace of containerd that Kubernetes uses.
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	db := metadata.NewDB(bolted, blobs, map[string]snapshots.Snapshotter{snapshotter: layers})
	if err := db.Init(ctx); err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, archive := range archives {
		if err := add(ctx, db, archive, sizes); err != nil {
			return nil, fmt.Errorf("%s: %w", archive, err)
		}
	}
	return sizes, nil
}

func add(ctx context.Context, db *metadata.DB, archive string, sizes map[string]int64) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	index, err := imagearchive.ImportIndex(ctx, db.ContentStore(), file)
	if err != nil {
		return err
	}
	target, name, err := onlyManifest(ctx, db.ContentStore(), index)
	if err != nil {
		return err
	}
	// Labels by which containerd's garbage collector finds what the image needs.
	keep := images.SetChildrenMappedLabels(db.ContentStore(), images.ChildrenHandler(db.ContentStore()), nil)
	if err := images.Walk(ctx, keep, target); err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := read(ctx, db.ContentStore(), target, &manifest); err != nil {
		return err
	}
	// As containerd's CRI plugin names what it pulls: image volumes are looked for by the image's id.
	id := manifest.Config.Digest.String()
	for _, name := range []string{name, id} {
		_, err = metadata.NewImageStore(db).Create(ctx, images.Image{
			Name:   name,
			Target: target,
			Labels: map[string]string{
				// The plugin lists nothing else, and the kubelet removes no pinned image.
				"io.cri-containerd.image":  "managed",
				"io.cri-containerd.pinned": "pinned",
			},
		})
		// Two names of one image share its id.
		if err != nil && !(name == id && errdefs.IsAlreadyExists(err)) {
			return err
		}
	}
	return unpack(ctx, db, manifest, sizes)
}

// read decodes a JSON document of the store.
func read(ctx context.Context, blobs content.Store, document ocispec.Descriptor, into any) error {
	bytes, err := content.ReadBlob(ctx, blobs, document)
	if err != nil {
		return err
	}
	return json.Unmarshal(bytes, into)
}

// onlyManifest returns the archive's image and its name.
func onlyManifest(ctx context.Context, blobs content.Store, index ocispec.Descriptor) (ocispec.Descriptor, string, error) {
	var list ocispec.Index
	if err := read(ctx, blobs, index, &list); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if len(list.Manifests) != 1 {
		return ocispec.Descriptor{}, "", fmt.Errorf("the archive must hold one image, not %d", len(list.Manifests))
	}
	manifest := list.Manifests[0]
	name := manifest.Annotations[images.AnnotationImageName]
	if name == "" {
		return ocispec.Descriptor{}, "", fmt.Errorf("the image has no annotation %s", images.AnnotationImageName)
	}
	// Said of the archive, not of the image.
	manifest.Annotations = nil
	return manifest, name, nil
}

// unpack unpacks the image's layer, unless another image had it already, and adds its size by the id of its chain.
func unpack(ctx context.Context, db *metadata.DB, manifest ocispec.Manifest, sizes map[string]int64) error {
	blobs, layers := db.ContentStore(), db.Snapshotter(snapshotter)
	var config ocispec.Image
	if err := read(ctx, blobs, manifest.Config, &config); err != nil {
		return err
	}
	if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
		return errors.New("the image must have one layer")
	}
	// One layer: the chain's id is its own.
	chain := config.RootFS.DiffIDs[0].String()
	if _, there := sizes[chain]; !there {
		size, err := apply(ctx, blobs, layers, manifest.Layers[0], chain)
		if err != nil {
			return err
		}
		sizes[chain] = size
	}
	label := "containerd.io/gc.ref.snapshot." + snapshotter
	_, err := blobs.Update(ctx, content.Info{
		Digest: manifest.Config.Digest,
		Labels: map[string]string{label: chain},
	}, "labels."+label)
	return err
}

// apply writes a layer as the snapshot of its chain, and returns its size.
func apply(ctx context.Context, blobs content.Store, layers snapshots.Snapshotter, layer ocispec.Descriptor, chain string) (int64, error) {
	const key = "unpack"
	mounts, err := layers.Prepare(ctx, key, "")
	if err != nil {
		return 0, err
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return 0, fmt.Errorf("the first layer should be a plain folder, not %v", mounts)
	}
	packed, err := blobs.ReaderAt(ctx, layer)
	if err != nil {
		return 0, err
	}
	defer packed.Close()
	size, err := archive.Apply(ctx, mounts[0].Source, content.NewReader(packed), archive.WithNoSameOwner())
	if err != nil {
		return 0, err
	}
	return size, layers.Commit(ctx, chain, key)
}

// normalize makes the database depend on nothing but what was stored: times become 1970, a layer's size what its files'
// sizes add up to (not what this machine's file system spends on them), and all is written anew in order.
func normalize(path string, sizes map[string]int64) error {
	source, err := bolt.Open(path, 0o644, database)
	if err != nil {
		return err
	}
	defer source.Close()
	epoch, err := time.Unix(0, 0).UTC().MarshalBinary()
	if err != nil {
		return err
	}
	fixed := map[string][]byte{
		"createdat": epoch,
		"updatedat": epoch,
	}
	err = source.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error { return replace(bucket, name, fixed, sizes) })
	})
	if err != nil {
		return err
	}
	ordered := path + ".ordered"
	target, err := bolt.Open(ordered, 0o644, database)
	if err != nil {
		return err
	}
	// A transaction for each entry: within one, bbolt numbers new pages in the random order of a Go map.
	if err := errors.Join(bolt.Compact(target, source, 1), target.Close()); err != nil {
		return err
	}
	return os.Rename(ordered, path)
}

func replace(bucket *bolt.Bucket, name []byte, fixed map[string][]byte, sizes map[string]int64) error {
	values := maps.Clone(fixed)
	for chain, size := range sizes {
		// A snapshot is called by its namespace, a number and its chain.
		if strings.HasSuffix(string(name), "/"+chain) {
			values["size"] = binary.AppendVarint(nil, size)
		}
	}
	var keys [][]byte
	err := bucket.ForEach(func(key, value []byte) error {
		if inner := bucket.Bucket(key); value == nil && inner != nil {
			return replace(inner, key, fixed, sizes)
		}
		if _, ok := values[string(key)]; ok {
			keys = append(keys, key)
		}
		return nil
	})
	for _, key := range keys {
		err = errors.Join(err, bucket.Put(key, values[string(key)]))
	}
	return err
}
