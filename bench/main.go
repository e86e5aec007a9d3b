// Command bench measures snapfs beside what is used otherwise: `make bench`, or `go run ./bench -h` for parts of it.
//
// Whatever is compared is measured in turns within one run, and what counts is the median over the rounds of each
// round's ratio: a machine that others use as well slows both sides of a pair. Absolute figures are for orientation.
// Files lie in $TMPDIR, which should be on a disk and not a tmpfs. docs/performance.md has what came out, and where the
// time goes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// tempVariable tells the child that does the work where its files go.
const tempVariable = "SNAPFS_BENCH_DIR"

func main() {
	o, err := parseOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if !daemon.Private() {
		os.Exit(supervise())
	}
	if err := errors.Join(daemon.DropCopies(), raiseFileLimit(), o.run(os.Getenv(tempVariable))); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	form          form
	groups        []group
	snapfs, other string
	out           string
	verbose       bool
	awake         bool
}

func parseOptions() (o options, err error) {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	isFull := flag.Bool("full", false, "the full form, of up to an hour, instead of the quick one of some 3 minutes")
	isTiny := flag.Bool("tiny", false, "only as much as shows that everything works")
	only := flag.String("only", "", "the `GROUPS` to measure, of "+strings.Join(names, ",")+"; else all that are in the form")
	rounds := flag.Int("rounds", 0, "how many rounds of each comparison, instead of what the form says")
	flag.StringVar(&o.snapfs, "snapfs", "bin/snapfs", "the `BINARY` to measure")
	flag.StringVar(&o.other, "against", "", "another `BINARY` of snapfs, to measure in the same run")
	flag.StringVar(&o.out, "out", "bench/results", "the `DIRECTORY` for the report")
	flag.BoolVar(&o.awake, "awake", false, "keep the processors awake all the time, for everything that is measured, as snapfs does by itself while it is asked for much")
	flag.BoolVar(&o.verbose, "v", false, "say each step, and when it began")
	flag.Parse()
	o.form = quick
	if *isFull {
		o.form = full
	}
	if *isTiny {
		o.form = tiny
	}
	if *rounds > 0 {
		o.form.rounds, o.form.closely, o.form.troubles = *rounds, *rounds, *rounds
	}
	wanted := o.form.groups
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	o.groups, err = pick(wanted)
	return o, err
}

// pick returns the groups of some names, nil for all, in their own order.
func pick(names []string) (picked []group, err error) {
	for _, g := range groups {
		if names == nil || slices.Contains(names, g.name) {
			picked = append(picked, g)
		}
	}
	if len(picked) < len(names) {
		return nil, fmt.Errorf("no such group, or one given twice, in %s", strings.Join(names, ","))
	}
	return picked, nil
}

// programs are the binaries to measure.
func (o options) programs() (all []program, err error) {
	for _, p := range []program{{snapfs, o.snapfs}, {before, o.other}} {
		if p.path == "" {
			continue
		}
		if p.path, err = filepath.Abs(p.path); err != nil {
			return nil, err
		}
		if _, err := os.Stat(p.path); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// supervise has a child do the work in a mount namespace of its own, and removes its files whatever becomes of it.
func supervise() int {
	dir, err := os.MkdirTemp("", "snapfs-bench-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Setenv(tempVariable, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return daemon.Rerun(ctx)
}

// raiseFileLimit lets everything started from here have a chain of 1,000 images open.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, (*syscall.Rlimit)(&l)) // unix's would not count for children
}

// run measures, and says what came out.
func (o options) run(dir string) error {
	_, err := o.measure(dir)
	return err
}

// measure measures, says what came out, and returns it.
func (o options) measure(dir string) (*results, error) {
	programs, err := o.programs()
	if err != nil {
		return nil, err
	}
	if o.awake {
		qos, err := keepAwake()
		if err != nil {
			return nil, err
		}
		defer qos.Close()
	}
	total := disksShare
	for _, g := range o.groups {
		total += g.share
	}
	began := time.Now()
	b := &bench{form: o.form, programs: programs, results: newResults(), progress: newProgress(total, o.verbose), began: began}
	var path string
	save := func() {
		path, err = b.writeReport(o.out, o.groups, began, b.about(dir, o.awake, time.Since(began)))
	}
	problems := b.runAll(o.groups, dir, save) // after each group, too: a run may be interrupted after most of an hour
	save()
	b.writeSummary(os.Stdout, o.groups)
	fmt.Println(path)
	return b.results, errors.Join(append(problems, err)...)
}
