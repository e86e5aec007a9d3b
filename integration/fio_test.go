package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// fioReport is what fio did.
type fioReport struct {
	written, verified int64         // bytes
	longest           time.Duration // that a request took
}

// fioVerify has fio write all of some disks, each a job, in an order and with a content
// that differ each time, so that what an earlier run left would not pass for it, and
// read it back, past the page cache.
func fioVerify(disks map[string][]string, size int64) (r fioReport, err error) {
	args := []string{"--output-format=json", "--direct=1", "--ioengine=libaio", "--rw=randwrite", "--randrepeat=0",
		"--allow_file_create=0", fmt.Sprintf("--size=%d", size), "--verify_fatal=1", "--verify_state_save=0"}
	for path, load := range disks {
		seed := rand.Uint32()
		args = append(args, "--name=disk", "--filename="+path, fmt.Sprintf("--randseed=%d", seed), fmt.Sprintf("--verify_pattern=0x%08x%%o", seed))
		args = append(args, load...)
	}
	cmd := exec.Command("fio", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("%v: %w: %s", cmd.Args, err, stderr.String())
	}
	type direction struct {
		Bytes int64 `json:"io_bytes"`
		Took  struct {
			Max int64 `json:"max"`
		} `json:"clat_ns"`
	}
	var report struct {
		Jobs []struct{ Read, Write direction }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return r, fmt.Errorf("fio's report: %w: %s", err, out)
	}
	for _, job := range report.Jobs {
		r.written += job.Write.Bytes
		r.verified += job.Read.Bytes
		r.longest = max(r.longest, time.Duration(max(job.Read.Took.Max, job.Write.Took.Max)))
	}
	if all := int64(len(disks)) * size; r.written != all || r.verified < all {
		return r, fmt.Errorf("fio wrote %d and verified %d bytes of %d", r.written, r.verified, all)
	}
	return r, nil
}
