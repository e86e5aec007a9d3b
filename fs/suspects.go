package fs

// Requests that workers may have died of. The session counts, for each, at how many deaths by a panic or a fault it was
// running; the kernel sends it again to the next worker, which treats it by that:
//
//	once             as any other
//	twice            it runs alone: nothing else is read from the kernel until it is answered. The innocent pass here
//	three times      it was alone when it did it again: EIO, and it never runs again
//
// The kernel sends requests again before any new one, so they are all sifted before the loops begin. Commands can't run
// alone, as what they do may need the guest to read and write, a script of theirs any file: at two deaths they run
// beside all others, but one after the other.

import (
	"bytes"
	"fmt"
	"path"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

const (
	aloneAfter  = 2
	refuseAfter = 3
)

// aloneTime is for how long the others wait, at most.
var aloneTime = 10 * time.Second

// serveAgain serves, in a goroutine, a request that the kernel sends again. One that is answered is no suspect.
func (s *Session) serveAgain(d device, req []byte) {
	s.handOn(uniqueOf(req), func() {
		s.serve(d, req)
		s.acquit(req)
	})
}

func (s *Session) acquit(req []byte) { s.files.store.Session().Acquit(uniqueOf(req) &^ resent) }

// tryAlone comes before the loops: it refuses requests, and runs others alone, if there is any such; then it serves the
// rest of what it had to read for that.
func (s *Session) tryAlone(d device) error {
	suspects := s.files.store.Session().Suspects()
	if !anyAlone(suspects) {
		return nil
	}
	requests, err := s.readAgain(d)
	if err != nil {
		return err
	}
	sorted := make(map[treatment][][]byte)
	for _, req := range requests {
		as := s.treatment(req, suspects)
		sorted[as] = append(sorted[as], req)
	}
	for _, req := range sorted[refused] { // first: it may be all that this worker comes to
		s.refuse(d, req)
	}
	for _, req := range sorted[alone] {
		s.serveAlone(d, req)
	}
	for _, req := range sorted[inTurn] {
		s.serveInTurn(d, req)
	}
	for _, req := range sorted[ordinary] {
		s.serveAgain(d, req)
	}
	return nil
}

type treatment int

const (
	ordinary treatment = iota
	alone
	inTurn
	refused
)

// treatment says what to do with a request. Of one that is known to be done only the answer is missing, which is tried once
// more.
func (s *Session) treatment(req []byte, suspects map[uint64]int) treatment {
	id := uniqueOf(req) &^ resent
	deaths := suspects[id]
	if deaths == refuseAfter {
		if _, done := s.files.store.Done(id); done {
			deaths = aloneAfter
		}
	}
	switch {
	case deaths < aloneAfter:
		return ordinary
	case deaths >= refuseAfter:
		return refused
	case isCommand(req):
		return inTurn
	}
	return alone
}

func anyAlone(suspects map[uint64]int) bool {
	for _, deaths := range suspects {
		if deaths >= aloneAfter {
			return true
		}
	}
	return false
}

// readAgain reads all requests that the kernel sends again, and the first new one if there is any.
func (s *Session) readAgain(d device) (requests [][]byte, err error) {
	b := s.pool.get()
	defer s.pool.put(b)
	if err := unix.SetNonblock(d.fd, true); err != nil {
		return nil, err
	}
	defer unix.SetNonblock(d.fd, false)
	for {
		n, err := d.readWaiting(b.request())
		switch {
		case err != nil && !gone(err):
			return nil, err
		case err != nil || n < inHeader: // the loops will notice what it is
			return requests, nil
		}
		req := bytes.Clone(b.request()[:n])
		switch opcodeOf(req) {
		case opForget, opBatchForget, opInterrupt: // these come in between, and need no answer
			continue
		}
		requests = append(requests, req)
		if uniqueOf(req)&resent == 0 {
			return requests, nil
		}
	}
}

func opcodeOf(req []byte) uint32 { return (*fuse.InHeader)(unsafe.Pointer(&req[0])).Opcode }
func nodeOf(req []byte) node     { return node((*fuse.InHeader)(unsafe.Pointer(&req[0])).NodeId) }

// isCommand says whether a request is a command, or a change of a name that stands for one.
func isCommand(req []byte) bool {
	switch nodeOf(req).kind() {
	case kindControl:
		return opcodeOf(req) == opWrite
	case kindSnapDir:
		switch opcodeOf(req) {
		case opMkdir, opRmdir, opRename, opRename2:
			return true
		}
	}
	return false
}

// serveAlone serves a request while nothing else runs, and returns when it is answered, or takes too long.
func (s *Session) serveAlone(d device, req []byte) {
	done := make(chan struct{})
	s.handOn(uniqueOf(req), func() { // noted before anything is done for it, so that whatever it dies of counts
		d.logf("a request that ran when two workers died runs alone: %s", s.describe(req))
		s.serve(d, req)
		s.acquit(req)
		close(done)
	})
	select {
	case <-done:
	case <-time.After(aloneTime):
		d.logf("others go on, as after %v it is not answered yet: %s", aloneTime, s.describe(req))
	}
}

// serveInTurn serves a command in a goroutine, when no other that was given to it runs. It is not noted while it waits.
// Nothing is deferred: a panic would do it on its way out.
func (s *Session) serveInTurn(d device, req []byte) {
	s.running.Go(func() {
		s.turn.Lock()
		session := s.files.store.Session()
		slot := session.NoteHanded(uniqueOf(req) &^ resent)
		d.logf("a command that ran when two workers died runs again: %s", s.describe(req))
		s.serve(d, req)
		s.acquit(req)
		session.EndHanded(slot)
		s.turn.Unlock()
	})
}

var errRefused = layer.Errorf(syscall.EIO, "three workers died while this request ran: it is not tried again")

// refuse answers a request that is never run again.
func (s *Session) refuse(d device, req []byte) {
	if isWrite(req) && nodeOf(req).kind() == kindControl {
		s.files.failControl((*fuse.WriteIn)(unsafe.Pointer(&req[0])).Fh, errRefused)
	}
	d.answerStatus(uniqueOf(req), fuse.EIO)
	s.acquit(req)
	_, done := s.files.store.Done(uniqueOf(req) &^ resent)
	s.files.store.Answered(uniqueOf(req) &^ resent)
	d.logf("%s: %v", s.describe(req), errRefused)
	vm, file := s.files.whose(nodeOf(req))
	attrs := []any{"op", opName(opcodeOf(req)), "errno", "EIO", "error", errRefused}
	if done {
		attrs = append(attrs, "done", true)
	}
	if file != "" {
		attrs = append([]any{"file", file}, attrs...)
	}
	s.files.log.Add(vm, "request-refused", attrs...)
}

// describe names a request for the daemon's log.
func (s *Session) describe(req []byte) string {
	vm, file := s.files.whose(nodeOf(req))
	return fmt.Sprintf("%s of %s, node %#x, request %d", opName(opcodeOf(req)), path.Join("/", vm, file), uint64(nodeOf(req)), uniqueOf(req)&^resent)
}
