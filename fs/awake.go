package fs

// Awake. A request wakes a loop, and its answer wakes who waits for it; where the processors have gone to sleep by then, waking them
// takes longer than all the rest: half of the time of a read from memory, a third of that of a synced write. So while many requests
// come, and the processors have little to do nevertheless, the kernel is asked not to let them sleep; one that has nothing to do looks
// out for work instead, and gives way to whatever there is. Where they are busy, waking them is no matter, and one that looks out
// takes time from another that shares its core: then they are left alone, as they are when little comes.
//
// The kernel forgets what was asked when the descriptor is closed, and so when this process dies
// (Documentation/power/pm_qos_interface.rst).

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

const (
	// awakeRequests is how many requests a second there are for each processor of the host where they are kept awake.
	awakeRequests = 500

	// awakeIdle is how much of their time they have nothing to do then.
	awakeIdle = 1.0 / 8

	// awakeEvery is how often that is looked at. The kernel tells idle time in hundredths of a second.
	awakeEvery = 50 * time.Millisecond

	qosPath    = "/dev/cpu_dma_latency"
	driverPath = "/sys/devices/system/cpu/cpuidle/current_driver"

	// lightSleep is the longest time to wake up from the sleep that a processor of the host's own may still fall into, in µs. That
	// of a virtual machine is said to be short, and is not: the host beneath wakes it.
	lightSleep = 5
)

// keeper keeps processors awake while that helps. It belongs to the watchman.
type keeper struct {
	path     string               // of the device to ask by
	idleTime func() time.Duration // that processors have had nothing to do, of all together; 0: not known
	logf     func(format string, args ...any)
	off      bool
	held     *os.File // not nil: they are

	looked   time.Time
	requests uint64        // that had come by then
	idle     time.Duration // by then; 0 where too little came to ask
}

func newKeeper(o Options) keeper {
	return keeper{path: qosPath, idleTime: idleTime, off: o.LetSleep, logf: o.Logf}
}

// look decides anew, if it is time to, by how many requests came so far.
func (k *keeper) look(now time.Time, requests uint64) {
	passed := now.Sub(k.looked)
	if k.off || passed < awakeEvery {
		return
	}
	all := passed.Seconds() * float64(runtime.NumCPU()) // of all processors
	var idle time.Duration
	if float64(requests-k.requests) >= awakeRequests*all {
		idle = k.idleTime()
	}
	// At first it is not known how busy they are: a burst is over by the time that it would be.
	keep := idle > 0 && (k.idle == 0 || (idle-k.idle).Seconds() >= awakeIdle*all)
	k.looked, k.requests, k.idle = now, requests, idle
	switch {
	case keep && k.held == nil:
		k.hold()
	case !keep:
		k.release()
	}
}

// idleTime is how long the processors have had nothing to do since the host's start, all together: the fourth and fifth number in
// the first line, where what waits for a disk is the fifth's, in hundredths of a second (proc_stat(5)). 0: not known.
func idleTime() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	var user, nice, system, idle, disk int64
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d", &user, &nice, &system, &idle, &disk); err != nil {
		return 0
	}
	return time.Duration(idle+disk) * 10 * time.Millisecond
}

func (k *keeper) hold() {
	file, err := os.OpenFile(k.path, os.O_WRONLY, 0)
	if err == nil {
		if _, err = file.Write(binary.NativeEndian.AppendUint32(nil, longestSleep())); err == nil {
			k.held = file
			return
		}
		file.Close()
	}
	k.off = true
	k.logf("the processors can't be kept awake while there are many requests, which take longer so: %v", err)
}

func (k *keeper) release() {
	if k.held != nil {
		k.held.Close()
		k.held = nil
	}
}

// longestSleep is how long it may take a processor to wake up, in µs.
func longestSleep() uint32 {
	driver, _ := os.ReadFile(driverPath)
	if strings.TrimSpace(string(driver)) == "haltpoll" { // a virtual machine's
		return 0
	}
	return lightSleep
}
