package layer

// Packed memory images, as they are read: frames, each with its checksum in the table behind them. The index has a checksum
// of that table, so that an image of another time or machine is not taken for the right one.

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Ways in which an image's file is not what it was.
var (
	errImageMissing = errors.New("its file is missing")
	errImageType    = errors.New("something else is in the place of its file")
	errImageSize    = errors.New("its file is not of the size that was saved")
	errImageTable   = errors.New("its file is damaged or cut off: the table at its end can't be read")
	errImageOther   = errors.New("its file is another image's, or damaged: it is not what was packed")
)

// imageSource is where an image's bytes are read from.
type imageSource interface {
	io.ReaderAt
	io.Closer
}

// open opens an image's file, and says whether it is the right one, as far as that shows without reading all of it.
func (m *images) open(id imageID, r imageRecord) (imageSource, error) {
	path := m.path(id, r.Packed)
	if r.Packed {
		p, err := openPacked(path, r)
		if err != nil {
			return nil, err // and not p, which is a nil that would not look like one
		}
		return p, nil
	}
	f, info, err := openImageFile(path)
	if err != nil {
		return nil, err
	}
	if info.Size() != r.Bytes {
		return nil, errors.Join(errImageSize, f.Close())
	}
	return f, nil
}

func openImageFile(path string) (*os.File, os.FileInfo, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil, errImageMissing
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, errImageType
	}
	f, err := openFile(path, os.O_RDONLY|unix.O_NOFOLLOW)
	return f, info, err
}

// packedSource unpacks what is read.
type packedSource struct {
	*seekable.Reader
	dec  *zstd.Decoder
	file *os.File
	sum  uint32 // of the table
}

func openPacked(path string, r imageRecord) (*packedSource, error) {
	file, info, err := openImageFile(path)
	if err != nil {
		return nil, err
	}
	p := &packedSource{file: file}
	if err := p.read(info.Size(), r); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *packedSource) read(fileSize int64, r imageRecord) (err error) {
	if p.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(frameSize)); err != nil {
		return err
	}
	if p.Reader, err = seekable.NewReader(p.file, p.dec); err != nil {
		if errors.Is(err, unix.EIO) {
			return fmt.Errorf("%w: %w", errImageTable, unix.EIO)
		}
		return errImageTable // why, is in the words of the format
	}
	table, err := p.SeekTable()
	if err != nil {
		return err
	}
	end, err := checkFrames(table, r.Bytes)
	if err != nil {
		return err
	}
	const frame, entry, footer = 8, 12, 9 // of a table with checksums, in bytes
	if !table.HasChecksums() || fileSize-end != frame+entry*table.NumFrames()+footer {
		return errImageOther
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(p.file, end, fileSize-end)); err != nil {
		return fmt.Errorf("%w: %w", errImageTable, err)
	}
	p.sum = sum.Sum32()
	if r.Table != 0 && r.Table != p.sum {
		return errImageOther
	}
	return nil
}

// checkFrames says whether a table is that of an image of so many bytes, and where in the file its frames end. One that was
// damaged could have frames of any size, for which there would have to be memory.
func checkFrames(table seekable.SeekTable, size int64) (end int64, err error) {
	const most = frameSize + frameSize/8 // of a frame that did not get smaller
	wrong := table.Size() != uint64(size) || table.NumFrames() != (size+frameSize-1)/frameSize
	for id := int64(0); !wrong && id < table.NumFrames(); id++ {
		e, ok := table.EntryByID(id)
		wrong = !ok || int64(e.DecompressedSize) != min(frameSize, size-id*frameSize) || e.CompressedSize > most
		end += int64(e.CompressedSize)
	}
	if wrong {
		return 0, errImageOther
	}
	return end, nil
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
