package layer

// Packing memory images: seekable zstd, that is independent frames, and behind them a table of where each begins. Any
// zstd can unpack the whole.
//
//	write the packed file, sync it and memory/   crash: the start begins anew
//	commit the image as packed                   crash: the start removes the other file
//	let readers go on from it, remove the other  done

import (
	"errors"
	"io"
	"os"
	"syscall"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"

	"github.com/snapfs/snapfs/blockmap"
)

// frameSize is how much memory a frame holds, in bytes: what has to be unpacked at once.
const frameSize = 1 << 20

// errGivenUp ends packing when the store closes or the snapshot goes.
var errGivenUp = errors.New("given up")

func (i *image) isPacked() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.packed
}

// pack packs the image. After an error it is as it was.
func (i *image) pack() error {
	m := i.images
	table, err := i.writePacked(m.path(i.id, true))
	if err == nil {
		err = syncDirectory(m.dir)
	}
	if err != nil {
		err = errors.Join(err, removeIfThere(m.path(i.id, true)))
		if errors.Is(err, errGivenUp) {
			return nil
		}
		return err
	}
	err = m.store.update(func(tx *blockmap.Tx) error {
		return edit(tx, catalogKey(tableImage, i.id), func(r *imageRecord) { r.Packed, r.Table = true, table })
	})
	if err != nil {
		return err // nobody knows which of the two files counts: both stay
	}
	i.closeSource(func() { i.packed, i.table = true, table })
	return removeIfThere(m.path(i.id, false))
}

// writePacked returns the checksum of the table.
func (i *image) writePacked(path string) (table uint32, err error) {
	from, err := openFile(i.images.path(i.id, false), os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	to, err := openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(i.packInto(to, io.LimitReader(from, i.bytes)), syncFile(to), to.Close()); err != nil {
		return 0, err
	}
	packed, err := openPacked(path, imageRecord{Bytes: i.bytes})
	if err != nil {
		return 0, err
	}
	return packed.sum, packed.Close()
}

func (i *image) packInto(to io.Writer, from io.Reader) error {
	// Memory is large, and the host's processors are its guests'.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer enc.Close()
	w, err := seekable.NewWriter(to, enc)
	if err != nil {
		return err
	}
	frame := make([]byte, frameSize)
	for left := i.bytes; left > 0; {
		if i.removed.Load() || i.images.stopped() {
			return errGivenUp
		}
		if err := i.images.store.space.take(frameSize); err != nil {
			return err
		}
		part := frame[:min(left, frameSize)]
		if _, err := io.ReadFull(from, part); err != nil {
			return Errorf(syscall.EIO, "memory image %s ends too early: %w", fileName(LayerID(i.id)), err)
		}
		if err := faulty("write"); err != nil {
			return err
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return w.Close()
}
