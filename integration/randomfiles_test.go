package integration

// What TestRandom does to files, as a guest does or its host.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// span is where a request goes in a file: small or large, aligned or not.
func (r *random) span(f *modelFile) (off, n int) {
	off, n = r.rng.IntN(len(f.data)+10_000), 1+r.rng.IntN([]int{100, 5000, 200_000}[r.rng.IntN(3)])
	if r.rng.IntN(2) == 0 {
		off, n = off&^(modelBlock-1), (n+modelBlock-1)&^(modelBlock-1)
	}
	return off, n
}

const maxModelFile = 5 << 20 // more than a region of the index

// onFile opens a file at random for writing, if there is one.
func (r *random) onFile(dir string, vm *modelVM, flags int, do func(f *os.File, m *modelFile) string) string {
	if vm.files[r.file] == nil || r.rng.IntN(8) == 0 {
		r.file = pick(r.rng, vm.files)
	}
	name := r.file
	if name == "" {
		return "nothing"
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|flags, 0)
	require.NoError(r, err)
	defer f.Close()
	return name + " " + do(f, vm.files[name])
}

func (r *random) writeTo(f *os.File, m *modelFile) (off, end int) {
	off, n := r.span(m)
	if off+n > maxModelFile {
		off = 0
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32() | 1)
	}
	writeAt(r, f, b, int64(off))
	m.write(off, b)
	return off, off + n
}

func (r *random) write(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, end := r.writeTo(f, m)
		return fmt.Sprint(off, "–", end)
	})
}

func (r *random) writeSync(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, unix.O_DSYNC, func(f *os.File, m *modelFile) string {
		off, end := r.writeTo(f, m)
		m.written(off, end)
		return fmt.Sprint(off, "–", end)
	})
}

func (r *random) punch(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		require.NoError(r, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
		m.zero(off, off+n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) zeroRange(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		keep := off+n > maxModelFile || r.rng.IntN(2) == 0
		mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
		if keep {
			mode |= unix.FALLOC_FL_KEEP_SIZE
		}
		require.NoError(r, unix.Fallocate(int(f.Fd()), mode, int64(off), int64(n)))
		m.zero(off, off+n)
		if !keep {
			m.extend(off + n)
		}
		return fmt.Sprint(off, "–", off+n, " keeping the size: ", keep)
	})
}

func (r *random) allocate(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		if off+n > maxModelFile {
			off = 0
		}
		require.NoError(r, unix.Fallocate(int(f.Fd()), 0, int64(off), int64(n)))
		m.extend(off + n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) truncate(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		size := r.rng.IntN([]int{1, len(m.data) + 1, min(maxModelFile, len(m.data)*2+20_000)}[r.rng.IntN(3)])
		require.NoError(r, f.Truncate(int64(size)))
		m.truncate(size)
		return fmt.Sprint("to ", size)
	})
}

func (r *random) fsync(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		if r.rng.IntN(2) == 0 {
			require.NoError(r, unix.Fdatasync(int(f.Fd())))
		} else {
			require.NoError(r, f.Sync())
		}
		m.flushed()
		return ""
	})
}

func (r *random) read(dir string, vm *modelVM) string {
	return r.onFile(dir, vm, 0, func(f *os.File, m *modelFile) string {
		off, n := r.span(m)
		b := make([]byte, n)
		got, err := unix.Pread(int(f.Fd()), b, int64(off))
		require.NoError(r, err)
		want := m.data[min(off, len(m.data)):min(off+n, len(m.data))]
		require.True(r, bytes.Equal(want, b[:got]), "%s differs between %d and %d", f.Name(), off, off+n)
		return fmt.Sprint(off, "–", off+n)
	})
}

func (r *random) createFile(dir string, vm *modelVM) string {
	if len(vm.files) >= 4 {
		return "nothing"
	}
	r.count++
	name := fmt.Sprint("file", r.count)
	writeFile(r, filepath.Join(dir, name), nil)
	vm.files[name] = newModelFile(nil)
	return name
}

func (r *random) unlink(dir string, vm *modelVM) string {
	name := pick(r.rng, vm.files)
	if name == "" {
		return "nothing"
	}
	require.NoError(r, os.Remove(filepath.Join(dir, name)))
	delete(vm.files, name)
	return name
}

func (r *random) renameFile(dir string, vm *modelVM) string {
	from, to := pick(r.rng, vm.files), pick(r.rng, vm.files)
	if from == "" {
		return "nothing"
	}
	if r.rng.IntN(2) == 0 {
		r.count++
		to = fmt.Sprint("file", r.count)
	}
	require.NoError(r, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
	if from != to {
		vm.files[to] = vm.files[from]
		delete(vm.files, from)
	}
	return from + " to " + to
}
