package main

// qemu-img bench: QEMU's own block layer on an image, with no FUSE in between.

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
)

var benchTime = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

// imageBench puts loads on an image.
type imageBench struct {
	s      *scope
	image  func() string // which one
	format string
	cache  string // QEMU's cache mode
	aio    string
	size   int64
	rate   map[load]float64 // requests per second, as it was the last time
}

func newImageBench(s *scope, image func() string, format, cache, aio string, size int64) *imageBench {
	return &imageBench{s, image, format, cache, aio, size, make(map[load]float64)}
}

// put runs about as many requests as take the time; how many that is, the first run has to find out.
func (x *imageBench) put(l load, t time.Duration) sample {
	if x.rate[l] == 0 {
		x.bench(l, 2*l.queue)
		x.bench(l, max(2*l.queue, int(x.rate[l]*t.Seconds()/10)))
	}
	n := max(2*l.queue, int(x.rate[l]*t.Seconds()))
	x.bench(l, n)
	return sample{ops: float64(n), perSec: x.rate[l]}
}

func (x *imageBench) bench(l load, n int) {
	args := []string{"bench", "-f", x.format, "-t", x.cache, "-i", x.aio, "-c", fmt.Sprint(n), "-d", fmt.Sprint(l.queue), "-s", fmt.Sprint(l.block)}
	args = append(args, "-S", fmt.Sprint(x.step(l)), "-o", fmt.Sprint(rand.Int64N(x.size/int64(l.block))*int64(l.block)))
	if l.writes() {
		args = append(args, "-w")
	} else {
		args = append(args, "-U")
	}
	if l.synced {
		args = append(args, fmt.Sprint("--flush-interval=", l.queue))
	}
	m := benchTime.FindStringSubmatch(run(x.s, "qemu-img", append(args, x.image())...))
	require.Len(x.s, m, 2)
	seconds, err := strconv.ParseFloat(m[1], 64)
	require.NoError(x.s, err)
	x.rate[l] = float64(n) / max(seconds, 0.001)
}

// step is from one request to the next: qemu-img knows no random order, but steps of an odd number of blocks go once
// through all blocks, whose number is a power of two, and the golden ratio goes far each time.
func (x *imageBench) step(l load) int64 {
	if l.rw == "read" || l.rw == "write" {
		return int64(l.block)
	}
	return (int64(0.618*float64(x.size/int64(l.block))) | 1) * int64(l.block)
}
