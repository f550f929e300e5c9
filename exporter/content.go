package exporter

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writerTimeout bounds waiting for another writer of the same blob.
const writerTimeout = time.Minute

// WriteBlob writes what open returns to a client's content store, unless it is there
// already. The client checks the digest.
func WriteBlob(ctx context.Context, to content.Ingester, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := time.AfterFunc(writerTimeout, cancel)
	w, err := content.OpenWriter(ctx, to, content.WithRef("dbuild-"+d.Digest.String()), content.WithDescriptor(d))
	if !wait.Stop() {
		return fmt.Errorf("the client does not take %s", d.Digest)
	}
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	rc, err := open(ctx)
	if err != nil {
		return err
	}
	defer rc.Close()
	if st, err := w.Status(); err != nil {
		return err
	} else if st.Offset > 0 {
		if err := w.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{rc}, make([]byte, 1<<20)); err != nil {
		return err
	}
	if err := w.Commit(ctx, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}
