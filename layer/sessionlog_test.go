package layer

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A log that is full has the VM flushed, and guests wait for that: nothing is lost by a worker that dies then.
func TestFullSessionLog(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "disk", 0)
	v.log.limit = 40
	var c crew
	for i := range 4 {
		c.run(1, func(*rand.Rand, int) error {
			for n := range 100 {
				if _, err := waitFor(f.Write, blocksOf(byte(i+1), 1), int64(8*n+2*i)*blockSize); err != nil {
					return err
				}
			}
			return nil
		})
	}
	c.wait(t)
	v.log.limit = 4096 // a discard asks for more
	require.NoError(t, f.Discard(0, 400*blockSize))
	require.Less(t, v.log.used(), uint64(ringRecords))
	want := content(t, f)
	s = takeOver(t, s)
	defer func() { require.NoError(t, s.Close()) }()
	requireSame(t, want, content(t, fileNamed(t, vmNamed(t, s, "web"), "disk")), "the disk")
}

// A VM whose flushes fail writes on until its log is full. Then what needs a record is refused; the rest goes on.
func TestFullSessionLogThatCannotBeFlushed(t *testing.T) {
	var broken sync.Mutex // held: syncs fail
	fault = func(kind string) error {
		if kind == "sync" && !broken.TryLock() {
			return syscall.EIO
		} else if kind == "sync" {
			broken.Unlock()
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "disk", 0)
	other := makeFile(t, makeVM(t, s, "db"), "disk", 0)
	v.log.limit = 40
	broken.Lock()
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = waitFor(f.Write, blocksOf(1, 1), int64(2*n)*blockSize)
	}
	require.ErrorIs(t, err, syscall.EIO)
	require.Less(t, n, 40)
	broken.Unlock()
	require.ErrorIs(t, f.Flush(true), syscall.EIO, "what failed once may be lost")
	write(t, other, blocksOf(1, 1), 0)
	flush(t, other)
	require.Equal(t, blocksOf(1, 1), content(t, f)[:blockSize])
}
