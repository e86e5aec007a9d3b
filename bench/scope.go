package main

// A scope of work: what goes wrong in it ends it, and whatever it began is ended with it.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// scope stands where a test has its testing.TB: the checks of testify's require end it. It has a directory to itself.
type scope struct {
	dir    string
	parent *scope // of a sub-scope

	mu       sync.Mutex
	temps    int
	problems []string
	undo     []func()
}

// failure is what a failed check panics with.
type failure struct{}

func newScope(dir string) *scope { return &scope{dir: dir} }

// Errorf notes what is wrong.
func (s *scope) Errorf(format string, args ...any) {
	if s.parent != nil {
		s.parent.Errorf(format, args...)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// FailNow ends the scope, if called by one of its goroutines: see do and parallel.
func (s *scope) FailNow() { panic(failure{}) }

// Helper does nothing; the checks want it.
func (s *scope) Helper() {}

// Failed says whether something was wrong.
func (s *scope) Failed() bool { return s.err() != nil }

func (s *scope) err() error {
	if s.parent != nil {
		return s.parent.err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(s.problems, "\n"))
}

// cleanup has something done when the scope ends, before what was registered earlier.
func (s *scope) cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, f)
}

// sub is a scope within this one, to be ended before it. What goes wrong in there is this one's matter.
func (s *scope) sub() *scope {
	return &scope{dir: s.temp(), parent: s}
}

// temp makes a directory of the scope's own.
func (s *scope) temp() string {
	s.mu.Lock()
	s.temps++
	dir := filepath.Join(s.dir, fmt.Sprint(s.temps))
	s.mu.Unlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.Errorf("%v", err)
		s.FailNow()
	}
	return dir
}

// do runs something to its end or to the first check that fails.
func (s *scope) do(f func()) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(failure); !ok {
				panic(p)
			}
		}
	}()
	f()
}

// parallel runs things at the same time, and fails if one of them does.
func (s *scope) parallel(all ...func()) {
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(func() { s.do(f) })
	}
	wg.Wait()
	if s.Failed() {
		s.FailNow()
	}
}

// end undoes all that the scope began, and removes its files.
func (s *scope) end() {
	for len(s.undo) > 0 {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		s.do(last)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.Errorf("%v", err)
	}
}
