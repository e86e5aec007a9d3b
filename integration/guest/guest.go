// Package guest boots a small Linux under QEMU's software emulation and runs
// shell scripts in it, so that tests and the demonstration see a disk as a
// virtual machine does.
//
// The kernel is Debian's, unpacked from its package but not installed
// (kernel.go); user space is busybox and e2fsprogs in an initramfs
// (initramfs.go) whose init (init.sh) serves one script after another:
//
//	host to guest:  id SP base64(script) LF
//	guest to host:  id SP exit-status SP length LF, then length bytes of output
//
// This goes over a virtio serial port that QEMU connects to its own standard
// input and output. The kernel's console goes to a file.
package guest

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what machine to start.
type Config struct {
	// Name tells guests of one test apart, in file names and errors.
	Name string
	// Disks are image files, in the guest /dev/vda, /dev/vdb and so on.
	Disks []string
	// Dir receives the initramfs, the console's log and the monitor's socket.
	Dir string
	// Args are further arguments for QEMU.
	Args []string
	// Incoming is what QEMU's -incoming is given: the guest does not boot, but
	// goes on from a memory that was saved. The rest has to be as it was then.
	Incoming string
}

// Guest is a running virtual machine.
type Guest struct {
	cfg     Config
	cmd     *exec.Cmd
	stdin   io.Writer
	replies chan reply
	exited  chan struct{}
	exitErr error // valid once exited is closed

	mu     sync.Mutex // one script at a time; guards lastID
	lastID int
}

type reply struct {
	id, status int
	output     []byte
}

// readyID is the id of the reply that init sends unasked when it has booted.
const readyID = 0

// bootTimeout is far above the few seconds that a boot takes.
const bootTimeout = 3 * time.Minute

// Start boots a guest and returns once it takes scripts. The guest is killed
// when ctx ends.
func Start(ctx context.Context, cfg Config) (*Guest, error) {
	if cfg.Name == "" {
		cfg.Name = "guest"
	}
	kernel, initramfs, err := bootFiles(ctx, cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", cfg.Name, err)
	}
	g := &Guest{cfg: cfg, replies: make(chan reply, 1), exited: make(chan struct{})}
	g.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", g.arguments(kernel, initramfs)...)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.launch(); err != nil {
		return nil, fmt.Errorf("guest %s: %w", cfg.Name, err)
	}
	up := g.booted
	if cfg.Incoming != "" {
		up = g.restored
	}
	if err := up(ctx); err != nil {
		g.Kill()
		return nil, err
	}
	return g, nil
}

func (g *Guest) arguments(kernel, initramfs string) []string {
	args := []string{
		"-name", g.cfg.Name, "-accel", "tcg", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 no_timer_check", "-no-reboot",
		"-serial", "file:" + g.path("console"),
		"-qmp", "unix:" + g.MonitorPath() + ",server=on,wait=off",
		"-device", "virtio-serial-pci",
		"-chardev", "stdio,id=scripts,signal=off",
		"-device", "virtserialport,chardev=scripts,name=scripts",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + g.AgentPath(),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
	}
	for i, disk := range g.cfg.Disks {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=none,aio=%s,discard=unmap,detect-zeroes=off,file=%s",
				i, asyncIO(), strings.ReplaceAll(disk, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=disk%d", i, i))
	}
	if g.cfg.Incoming != "" {
		args = append(args, "-incoming", g.cfg.Incoming)
	}
	return append(args, g.cfg.Args...)
}

// asyncIO is io_uring, unless this kernel does not let us have it.
func asyncIO() string {
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 0, 0, 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return "threads"
	}
	return "io_uring"
}

func (g *Guest) launch() error {
	stderr, err := os.Create(g.path("stderr"))
	if err != nil {
		return err
	}
	defer stderr.Close()
	g.cmd.Stderr = stderr
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	go func() {
		g.receive(stdout)
		g.exitErr = g.cmd.Wait()
		close(g.exited)
	}()
	return nil
}

// receive passes on replies until QEMU closes its output, that is, ends.
func (g *Guest) receive(r io.Reader) {
	br := bufio.NewReader(r)
	for {
		var rep reply
		var length int
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := fmt.Sscanf(line, "%d %d %d\n", &rep.id, &rep.status, &length); err != nil {
			continue
		}
		rep.output = make([]byte, length)
		if _, err := io.ReadFull(br, rep.output); err != nil {
			return
		}
		g.replies <- rep
	}
}

// await drops replies until the one called id comes: others answer scripts
// whose callers gave up.
func (g *Guest) await(ctx context.Context, id int) (reply, error) {
	for {
		select {
		case r := <-g.replies:
			if r.id == id {
				return r, nil
			}
		case <-g.exited:
			return reply{}, fmt.Errorf("QEMU ended: %v%s", g.exitErr, g.tail())
		case <-ctx.Done():
			return reply{}, fmt.Errorf("%w%s", context.Cause(ctx), g.tail())
		}
	}
}

// Run executes a shell script in the guest and returns what it wrote to
// standard output and standard error. An exit status other than 0 is an error
// that quotes both. Jobs left in the background must redirect their output.
func (g *Guest) Run(ctx context.Context, script string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastID++
	line := fmt.Sprintf("%d %s\n", g.lastID, base64.StdEncoding.EncodeToString([]byte(script)))
	if _, err := io.WriteString(g.stdin, line); err != nil {
		return "", fmt.Errorf("guest %s: %q: %w%s", g.cfg.Name, script, err, g.tail())
	}
	r, err := g.await(ctx, g.lastID)
	if err != nil {
		return "", fmt.Errorf("guest %s: %q: %w", g.cfg.Name, script, err)
	}
	out := string(r.output)
	if r.status != 0 {
		return out, fmt.Errorf("guest %s: %q: exit status %d: %s", g.cfg.Name, script, r.status, strings.TrimSpace(out))
	}
	return out, nil
}

// booted waits until init reports.
func (g *Guest) booted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if _, err := g.await(ctx, readyID); err != nil {
		return fmt.Errorf("guest %s: boot: %w", g.cfg.Name, err)
	}
	return nil
}

// restored waits until QEMU has read the memory, and lets the guest go on: it
// may have been saved while it stood still.
func (g *Guest) restored(ctx context.Context) error {
	for {
		answer, err := g.Monitor("query-status", nil)
		if err == nil && !strings.Contains(string(answer), `"inmigrate"`) {
			_, err = g.Monitor("cont", nil)
			return err
		}
		select {
		case <-g.exited:
			return fmt.Errorf("guest %s: QEMU ended: %v%s", g.cfg.Name, g.exitErr, g.tail())
		case <-ctx.Done():
			return fmt.Errorf("guest %s: restore: %w%s", g.cfg.Name, context.Cause(ctx), g.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Reset is the reset button: what the guest had not written is lost, and it
// boots anew. It returns once the guest takes scripts again.
func (g *Guest) Reset(ctx context.Context) error {
	return g.ResetBy(ctx, func() error { _, err := g.Monitor("system_reset", nil); return err })
}

// ResetBy is Reset by somebody else.
func (g *Guest) ResetBy(ctx context.Context, reset func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, step := range []func() error{
		func() error { return g.onReboot("reset") },
		reset,
		func() error { return g.booted(ctx) },
		func() error { return g.onReboot("shutdown") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// onReboot says what QEMU does at a reset. Normally it ends, so that a kernel's
// panic is an error at once and not a guest that boots for ever.
func (g *Guest) onReboot(action string) error {
	_, err := g.Monitor("set-action", map[string]any{"reboot": action})
	return err
}

// Stop unmounts the guest's file systems and switches it off.
func (g *Guest) Stop(ctx context.Context) error {
	if _, err := g.Run(ctx, "cd /; umount -a -t ext4"); err != nil {
		return err
	}
	return g.Quit(ctx)
}

// Quit ends QEMU in an orderly way without telling the guest: the plug is pulled.
func (g *Guest) Quit(ctx context.Context) error {
	if _, err := g.Monitor("quit", nil); err != nil {
		return err
	}
	if err := g.ended(ctx); err != nil {
		g.Kill()
		return fmt.Errorf("guest %s: quit: %w", g.cfg.Name, err)
	}
	return g.exitErr
}

// Kill ends QEMU at once. It may be called at any time, and again.
func (g *Guest) Kill() {
	if err := g.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // our own child: there is no other reason
	}
	_ = g.ended(context.Background())
}

// ended waits until QEMU is gone. Replies that nobody wants must not hold it up.
func (g *Guest) ended(ctx context.Context) error {
	for {
		select {
		case <-g.replies:
		case <-g.exited:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// MonitorPath is the unix socket on which QEMU speaks QMP.
func (g *Guest) MonitorPath() string { return g.path("qmp") }

// AgentPath is the unix socket that leads to the port of the guest agent, in
// the guest /dev/vport0p2. The agent itself is there once a script starts it.
func (g *Guest) AgentPath() string { return g.path("agent") }

func (g *Guest) path(kind string) string {
	return filepath.Join(g.cfg.Dir, g.cfg.Name+"."+kind)
}

// tail is what QEMU and the guest's kernel said last, for error messages.
func (g *Guest) tail() string {
	var b strings.Builder
	for _, kind := range []string{"stderr", "console"} {
		text, err := os.ReadFile(g.path(kind))
		if err != nil || len(text) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n%s", kind, text[max(0, len(text)-2000):])
	}
	return b.String()
}
