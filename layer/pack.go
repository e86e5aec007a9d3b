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
	err := i.writePacked(m.path(i.id, true))
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
		return edit(tx, catalogKey(tableImage, i.id), func(r *imageRecord) { r.Packed = true })
	})
	if err != nil {
		return err // nobody knows which of the two files counts: both stay
	}
	i.closeSource(func() { i.packed = true })
	return removeIfThere(m.path(i.id, false))
}

func (i *image) writePacked(path string) error {
	from, err := openFile(i.images.path(i.id, false), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	return errors.Join(i.packInto(to, io.LimitReader(from, i.bytes)), syncFile(to), to.Close())
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

// imageSource is where an image's bytes are read from.
type imageSource interface {
	io.ReaderAt
	io.Closer
}

// packedSource unpacks what is read.
type packedSource struct {
	*seekable.Reader
	dec  *zstd.Decoder
	file *os.File
}

func openPacked(path string, size int64) (imageSource, error) {
	file, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	p := &packedSource{file: file}
	p.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(frameSize))
	if err == nil {
		p.Reader, err = seekable.NewReader(file, p.dec)
	}
	if err == nil {
		var table seekable.SeekTable
		if table, err = p.SeekTable(); err == nil {
			err = checkFrames(table, size)
		}
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// checkFrames says whether a table is that of an image of so many bytes. One that was damaged could have frames of any size,
// for which there would have to be memory.
func checkFrames(table seekable.SeekTable, size int64) error {
	const most = frameSize + frameSize/8 // of a frame that did not get smaller
	wrong := table.Size() != uint64(size) || table.NumFrames() != (size+frameSize-1)/frameSize
	for id := int64(0); !wrong && id < table.NumFrames(); id++ {
		e, ok := table.EntryByID(id)
		wrong = !ok || int64(e.DecompressedSize) != min(frameSize, size-id*frameSize) || e.CompressedSize > most
	}
	if wrong {
		return errors.New("it is not what was packed")
	}
	return nil
}

func (p *packedSource) Close() error {
	if p.Reader != nil {
		_ = p.Reader.Close() // it never fails
	}
	if p.dec != nil {
		p.dec.Close()
	}
	return p.file.Close()
}
