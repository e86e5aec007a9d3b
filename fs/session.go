package fs

// A session: the mount, its descriptors and loops, and the goroutines of requests that had to wait.

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// Options of a mount.
type Options struct {
	Mountpoint     string
	SnapdirVisible bool                             // list .snapshots in directories
	Readers        int                              // reader loops; 0: twice the CPUs, 4 to 32
	LetSleep       bool                             // never keep processors awake
	Devices        []int                            // what Attach returned; nil: Mount attaches
	Supervision    func() Supervision               // nil: there is none
	Version        string                           // of the program, for status
	Logf           func(format string, args ...any) // the daemon's own troubles; may be nil
	Log            *EventLog                        // what `log` shows; nil: a new one
	Fault          func(request []byte)             // sees each request before it is served, some twice; nil but in tests

	// What is done with policies is not this package's: each of these may be nil, and is called from any goroutine.
	Create        func(vm *layer.VM, r CreateRequest) (Created, error) // nil: no guest is brought to rest
	PolicyChanged func(vm *layer.VM)
	Reasons       func(vm *layer.VM) []string  // why a VM is not as its policy wants it, beside what the store knows
	Progress      func(vm *layer.VM) *Progress // how far a snapshot is that takes its time; nil without one
}

// CreateRequest is a snapshot that somebody asked for.
type CreateRequest struct {
	layer.CreateOptions
	Hooks  []string // of the policy's scripts, those to run; nil: all
	Memory bool     // of the machine, too
}

// Created is a snapshot that was taken, and how long its guest was held still for it.
type Created struct {
	layer.SnapshotInfo
	Paused time.Duration
}

// Supervision says who restarts this process, and how often that was done.
type Supervision struct {
	PID      int // 0: nobody does
	Restarts int
	LastExit string // of the worker before this one; empty for the first
	Refusal  *Refusal
}

// Refusal says how many programs could not take over, and why the last one could not.
type Refusal struct {
	Count int    `json:"count"`
	Why   string `json:"last"`
}

// Progress is how far something is.
type Progress struct {
	Snapshot string `json:"snapshot,omitempty"` // if it is of one
	What     string `json:"what"`               // "memory" or "scrub"
	Percent  int    `json:"percent"`
}

func (o *Options) ensureDefaults() {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Log == nil {
		o.Log = NewEventLog()
	}
	if o.Create == nil {
		o.Create = createCrash
	}
	if o.PolicyChanged == nil {
		o.PolicyChanged = func(*layer.VM) {}
	}
	if o.Supervision == nil {
		o.Supervision = func() Supervision { return Supervision{} }
	}
	if o.Progress == nil {
		o.Progress = func(*layer.VM) *Progress { return nil }
	}
	if o.Reasons == nil {
		o.Reasons = func(*layer.VM) []string { return nil }
	}
}

// createCrash makes a snapshot without asking anybody: as after pulling the plug.
func createCrash(vm *layer.VM, r CreateRequest) (Created, error) {
	switch {
	case r.Memory:
		return Created{}, invalid("there is no monitor here to save the memory")
	case len(r.Hooks) > 0:
		return Created{}, invalid("there are no scripts here to run %s", r.Hooks[0])
	}
	info, err := vm.CreateSnapshot(r.CreateOptions)
	return Created{SnapshotInfo: info}, err
}

// Session is a mounted store.
type Session struct {
	mountpoint string
	files      *server
	protocol   *fuse.ProtocolServer
	devices    []device // one for each loop
	aside      *device  // one more, that does not block; nil if there is but one
	turns      turns
	pool       pool
	running    sync.WaitGroup // loops and the goroutines of requests
	turn       sync.Mutex     // held by the one command that is under suspicion and runs
	syncing    atomic.Int32   // loops that wait for the disk
	relief     relief
	done       chan struct{}
	failure    error // why a loop ended, once done is closed
}

// Attach mounts, and returns a descriptor for each reader loop, and one that they all share; 0 readers: twice the CPUs, 4
// to 32. Who holds them keeps the mount: while nobody reads them, those who use it wait.
func Attach(source, mountpoint string, readers int) (devices []int, err error) {
	if readers <= 0 {
		readers = min(max(4, 2*runtime.NumCPU()), 32)
	}
	mountpoint, err = checkMountpoint(mountpoint)
	if err != nil {
		return nil, err
	}
	first, err := mountFUSE(source, mountpoint)
	if err != nil {
		return nil, err
	}
	devices = append(devices, first)
	for len(devices) <= readers {
		clone, err := cloneDevice(first)
		if err != nil {
			closeAll(devices)
			return nil, errors.Join(err, unmountFUSE(mountpoint))
		}
		devices = append(devices, clone)
	}
	return devices, nil
}

func closeAll(devices []int) {
	for _, fd := range devices {
		unix.Close(fd)
	}
}

// ErrOver is Mount's answer to descriptors whose mount is gone: there is nothing more to serve.
var ErrOver = errors.New("the mount is over")

// Mount mounts the store, or serves what is mounted with o.Devices on, and returns when the kernel and we agree on what
// both can do. The store stays the caller's, to be closed after Wait has returned.
func Mount(store *layer.Store, o Options) (*Session, error) {
	o.ensureDefaults()
	mountpoint, err := filepath.Abs(o.Mountpoint)
	if err != nil {
		return nil, fmt.Errorf("mountpoint %s: %w", o.Mountpoint, err)
	}
	o.Mountpoint = mountpoint
	attached := o.Devices != nil
	if !attached {
		if o.Devices, err = Attach(store.Dir(), mountpoint, o.Readers); err != nil {
			return nil, err
		}
	}
	s := newSession(store, o)
	if err := s.start(); err != nil {
		s.closeDevices()
		if !attached {
			err = errors.Join(err, unmountFUSE(mountpoint))
		}
		return nil, err
	}
	return s, nil
}

func newSession(store *layer.Store, o Options) *Session {
	files := newServer(store, o)
	s := &Session{
		mountpoint: o.Mountpoint,
		files:      files,
		protocol:   fuse.NewProtocolServer(files, protocolOptions(o.Logf)),
		pool:       pool{logf: o.Logf},
		relief:     relief{over: make(chan struct{})},
		done:       make(chan struct{}),
	}
	for _, fd := range o.Devices {
		s.devices = append(s.devices, device{fd, store.Session(), o.Logf})
	}
	if last := len(s.devices) - 1; last > 0 {
		s.aside, s.devices = &s.devices[last], s.devices[:last]
	}
	return s
}

// protocolOptions say what to agree on with the kernel.
func protocolOptions(logf func(string, ...any)) *fuse.MountOptions {
	return &fuse.MountOptions{
		Name:                fsType,
		MaxWrite:            maxIO,
		MaxBackground:       16384, // far above the sum of all disks' queue depths
		CongestionThreshold: 16384,
		DisableXAttrs:       true,
		DisableReadDirPlus:  true,
		DisableSplice:       true,
		ExtraCapabilities:   fuse.CAP_ASYNC_DIO, // without it a queue's depth is wasted
		// Opens are never answered ENOSYS, and no file is passed through.
		DisabledCapabilities: fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_PASSTHROUGH,
		// go-fuse would answer EIO in the panic's stead, and nobody would know.
		PanicHandler: func(v any) fuse.Status { panic(v) },
		Logger:       log.New(logWriter(logf), "", 0),
	}
}

// logWriter passes lines on to logf.
type logWriter func(format string, args ...any)

func (w logWriter) Write(p []byte) (int, error) {
	w("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// start answers INIT on the first descriptor, unless a worker before this one did, and runs a loop on each.
func (s *Session) start() error {
	if err := s.setBlocking(); err != nil {
		return err
	}
	if err := s.begin(s.devices[0]); err != nil {
		return err
	}
	if err := s.tryAlone(s.devices[0]); err != nil {
		return err
	}
	failures := make(chan error, len(s.devices))
	w := &watchman{s: s, keeper: newKeeper(s.files.options)}
	over := sync.OnceFunc(func() { close(s.relief.over) })
	for i, d := range s.devices {
		l := &loop{s: s, dev: d, slot: d.session.LoopSlot(i)}
		w.loops = append(w.loops, &watched{loop: l})
		s.running.Go(func() {
			err := l.run()
			if err != nil {
				d.logf("a reader loop ended: %v", err)
			}
			over()
			failures <- err
		})
	}
	s.running.Go(w.watch)
	go s.finish(failures)
	return nil
}

// setBlocking sets which descriptors block: a worker before this one may have had them in another order.
func (s *Session) setBlocking() error {
	for _, d := range s.devices {
		if err := unix.SetNonblock(d.fd, false); err != nil {
			return err
		}
	}
	if s.aside == nil {
		return nil
	}
	return unix.SetNonblock(s.aside.fd, true)
}

// begin takes the session's first request, with which the kernel and we agree on what both can do. A worker that takes
// over agrees once more, by itself, and has the kernel send again what the one before it did not answer.
func (s *Session) begin(d device) error {
	first := d.session.Init()
	taking := len(first) > 0
	if !taking {
		b := s.pool.get()
		defer s.pool.put(b)
		n, err := d.read(b.request())
		if err != nil {
			return fmt.Errorf("read the kernel's first request: %w", err)
		}
		first = b.request()[:n]
		if err := d.session.SetInit(first); err != nil {
			return err
		}
	}
	out := make([]byte, pageSize)
	n, status := s.protocol.HandleRequest([][]byte{bytes.Clone(first)}, [][]byte{out})
	if !status.Ok() || n < outHeader {
		return fmt.Errorf("answer the kernel's first request: %v", status)
	}
	if !resends(first) {
		d.logf("this kernel can't send requests again (Linux can from 6.9 on): if the process that serves dies, the mount does")
		s.files.resends = false
	}
	if taking {
		err := d.resend()
		if gone(err) {
			return ErrOver
		}
		return err
	}
	d.send(out[:n])
	return nil
}

// resends says, by its INIT, whether the kernel can send requests again.
func resends(init []byte) bool {
	const hasResend = 1 << (39 - 32) // FUSE_HAS_RESEND of linux/fuse.h, in flags2
	if len(init) < int(unsafe.Sizeof(fuse.InitIn{})) {
		return false
	}
	return (*fuse.InitIn)(unsafe.Pointer(&init[0])).Flags2&hasResend != 0
}

// finish waits for all loops and requests, then lets Wait return.
func (s *Session) finish(failures chan error) {
	s.running.Wait()
	s.closeDevices()
	s.pool.close()
	for range cap(failures) {
		s.failure = errors.Join(s.failure, <-failures)
	}
	close(s.done)
}

func (s *Session) closeDevices() {
	for _, d := range s.devices {
		unix.Close(d.fd)
	}
	if s.aside != nil {
		unix.Close(s.aside.fd)
	}
	s.devices, s.aside = nil, nil
}

// Wait returns when the file system is unmounted and all its requests are done, with what ended a loop too early.
func (s *Session) Wait() error {
	<-s.done
	return s.failure
}

// Unmount unmounts, or returns EBUSY when a file is open or a directory in use. Wait still has to be called.
func (s *Session) Unmount() error { return unmountFUSE(s.mountpoint) }

// AwaitCommands waits until no command is under way, for so long at most.
func (s *Session) AwaitCommands(atMost time.Duration) {
	for began := time.Now(); s.files.commands.Load() > 0 && time.Since(began) < atMost; {
		time.Sleep(10 * time.Millisecond)
	}
}
