package fs

// A session: the mount, its descriptors and loops, and the goroutines of requests that had to wait.

import (
	"errors"
	"fmt"
	"log"
	"runtime"
	"strings"
	"sync"
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
	Logf           func(format string, args ...any) // the daemon's own troubles; may be nil
	Log            *EventLog                        // what `log` shows; nil: a new one

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

// Progress is how far something is.
type Progress struct {
	Snapshot string `json:"snapshot"`
	What     string `json:"what"` // as "memory"
	Percent  int    `json:"percent"`
}

func (o *Options) ensureDefaults() {
	if o.Readers <= 0 {
		o.Readers = min(max(4, 2*runtime.NumCPU()), 32)
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Log == nil {
		o.Log = NewEventLog(nil)
	}
	if o.Create == nil {
		o.Create = createCrash
	}
	if o.PolicyChanged == nil {
		o.PolicyChanged = func(*layer.VM) {}
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
	devices    []device
	pool       pool
	init       []byte // the kernel's INIT request, which a process that takes over must replay

	running sync.WaitGroup // loops and the goroutines of requests
	done    chan struct{}
	failure error // why a loop ended, once done is closed
}

// Mount mounts the store and returns when the kernel's INIT is answered. The store stays the caller's, to be closed
// after Wait has returned.
func Mount(store *layer.Store, o Options) (*Session, error) {
	o.ensureDefaults()
	mountpoint, err := checkMountpoint(o.Mountpoint)
	if err != nil {
		return nil, err
	}
	o.Mountpoint = mountpoint
	fd, err := mountFUSE(store.Dir(), mountpoint)
	if err != nil {
		return nil, err
	}
	s := newSession(store, o)
	if err := s.start(device{fd, o.Logf}, o.Readers); err != nil {
		s.closeDevices()
		return nil, errors.Join(err, unmountFUSE(mountpoint))
	}
	return s, nil
}

func newSession(store *layer.Store, o Options) *Session {
	files := newServer(store, o)
	return &Session{
		mountpoint: o.Mountpoint,
		files:      files,
		protocol:   fuse.NewProtocolServer(files, protocolOptions(o.Logf)),
		done:       make(chan struct{}),
	}
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

// start answers INIT on the first descriptor and runs a loop on it and on each of its clones.
func (s *Session) start(first device, readers int) error {
	s.devices = append(s.devices, first)
	if err := s.answerInit(first); err != nil {
		return err
	}
	for len(s.devices) < readers {
		d, err := first.clone()
		if err != nil {
			return err
		}
		s.devices = append(s.devices, d)
	}
	failures := make(chan error, len(s.devices))
	for _, d := range s.devices {
		s.running.Go(func() {
			err := (&loop{s: s, dev: d}).run()
			if err != nil {
				d.logf("a reader loop ended: %v", err)
			}
			failures <- err
		})
	}
	go s.finish(failures)
	return nil
}

// answerInit takes the session's first request, with which the kernel and we agree on what both can do.
func (s *Session) answerInit(d device) error {
	b := s.pool.get()
	defer s.pool.put(b)
	n, err := d.read(b.request())
	if err != nil {
		return fmt.Errorf("read the kernel's first request: %w", err)
	}
	s.init = append([]byte(nil), b.request()[:n]...)
	out := make([]byte, pageSize)
	n, status := s.protocol.HandleRequest([][]byte{s.init}, [][]byte{out})
	if !status.Ok() || n < outHeader {
		return fmt.Errorf("answer the kernel's first request: %v", status)
	}
	d.send(out[:n])
	return nil
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
	s.devices = nil
}

// Wait returns when the file system is unmounted and all its requests are done, with what ended a loop too early.
func (s *Session) Wait() error {
	<-s.done
	return s.failure
}

// Unmount unmounts, or returns EBUSY when a file is open or a directory in use. Wait still has to be called.
func (s *Session) Unmount() error { return unmountFUSE(s.mountpoint) }

// spawn answers a request through the protocol server, in a goroutine.
func (s *Session) spawn(d device, req []byte) {
	s.running.Go(func() {
		unique := (*fuse.InHeader)(unsafe.Pointer(&req[0])).Unique
		if status, ok := refusePollHack(req); ok {
			d.answerStatus(unique, status)
			return
		}
		out := make([]byte, answerSize(req))
		n, status := s.protocol.HandleRequest([][]byte{req}, [][]byte{out})
		switch {
		case !status.Ok():
			d.answerStatus(unique, status)
		case n > 0:
			d.send(out[:n])
		}
	})
}

// readLater answers a READ that has to wait.
func (s *Session) readLater(d device, in fuse.ReadIn) {
	s.running.Go(func() {
		size := int(min(in.Size, maxIO))
		if size <= copyLimit {
			s.readInto(d, &in, make([]byte, outHeader+size))
			return
		}
		b := s.pool.get()
		s.readInto(d, &in, b.answer(size))
		s.pool.put(b)
	})
}

// failLater answers a READ or WRITE that failed: a loop does not wait for the log either.
func (s *Session) failLater(d device, h *fuse.InHeader, op string, err error) {
	n, unique := node(h.NodeId), h.Unique
	s.running.Go(func() { d.answerStatus(unique, s.files.result(n, op, err)) })
}

// readInto reads, and answers with it; p has room for the answer's header and all that is asked for.
func (s *Session) readInto(d device, in *fuse.ReadIn, p []byte) {
	n, err := s.files.read(in, p[outHeader:], true)
	if err != nil {
		d.answerStatus(in.Unique, s.files.result(node(in.NodeId), "read", err))
		return
	}
	d.answer(in.Unique, fuse.OK, p[:outHeader+n])
}

// writeLater answers a WRITE that has to wait; buf is the buffer that req lies in, or nil.
func (s *Session) writeLater(d device, req []byte, buf *buffer) {
	s.running.Go(func() {
		in := (*fuse.WriteIn)(unsafe.Pointer(&req[0]))
		unique, size := in.Unique, in.Size
		err := s.files.write(in, req[writeHeader:], true)
		status := s.files.result(node(in.NodeId), "write", err)
		if buf != nil {
			s.pool.put(buf)
		}
		if err != nil {
			d.answerStatus(unique, status)
			return
		}
		d.answerWrite(new([writeAnswer]byte), unique, size)
	})
}
