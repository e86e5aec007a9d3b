// Demo shows snapfs at work with a real virtual machine: it serves a disk,
// snapshots it while the guest writes, looks into the snapshot, and goes back.
// Everything happens in a temporary directory that is removed at the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/snapfs/snapfs/integration/guest"
)

func main() {
	binary := flag.String("snapfs", "bin/snapfs", "the program to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is the state that the steps share.
type demo struct {
	ctx                    context.Context
	binary                 string
	base, store, mnt, look string
	vm, disk               string
	guest                  *guest.Guest
	done                   []string // the summary, line by line
}

func run(ctx context.Context, binary string) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "snapfs-demo-")
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, binary: binary, base: base, store: filepath.Join(base, "store"),
		mnt: filepath.Join(base, "mnt"), look: filepath.Join(base, "look")}
	d.vm = filepath.Join(d.mnt, "web")
	d.disk = filepath.Join(d.vm, "root.img")
	defer func() { err = d.cleanup(err) }()
	for _, step := range []struct {
		title string
		do    func() (string, error)
	}{
		{"A store is mounted", d.mount},
		{"A virtual machine gets an empty disk of 4 GiB", d.createDisk},
		{"The machine boots from scratch, makes a file system and starts to write", d.fill},
		{"Snapshot “before-upgrade”, while the guest writes on", d.snapshot},
		{"The upgrade goes wrong", d.upgrade},
		{"A look into the snapshot, while the guest still runs", d.browse},
		{"The machine is switched off, and its disk reverted", d.revert},
		{"The machine boots from the reverted disk", d.bootAgain},
		{"What the revert left behind is deleted", d.delete},
	} {
		fmt.Printf("\n== %s\n", step.title)
		start := time.Now()
		shown, err := step.do()
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		took := time.Since(start).Round(time.Millisecond)
		fmt.Printf("   %s\n", shown)
		d.done = append(d.done, fmt.Sprintf("%9s  %s: %s", took, step.title, shown))
	}
	return nil
}

func (d *demo) mount() (string, error) {
	for _, dir := range []string{d.mnt, d.look} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	_, err := d.snapfs("mount", d.store, d.mnt)
	return "a directory of the host now holds virtual machines, each a directory, their disks plain files", err
}

func (d *demo) createDisk() (string, error) {
	if err := os.Mkdir(d.vm, 0o755); err != nil {
		return "", err
	}
	if _, err := d.shell("truncate -s 4G " + d.disk); err != nil {
		return "", err
	}
	used, err := d.used()
	return fmt.Sprintf("the store occupies %s for it", used), err
}

func (d *demo) fill() (string, error) {
	if err := d.boot(); err != nil {
		return "", err
	}
	// Unmounted once, so that the letter has left the journal and can be read
	// without replaying that.
	_, err := d.inGuest(`mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo "All is well." >/mnt/letter && umount /mnt &&
		mount /dev/vda /mnt && seq 1000 >/mnt/diary && sync && { while seq 1000 >>/mnt/diary; do sync; done >/dev/null 2>&1 & }`)
	return "a real kernel under QEMU keeps a diary on the disk, without pause", err
}

func (d *demo) snapshot() (string, error) {
	start := time.Now()
	if _, err := d.snapfs("create", d.vm, "before-upgrade", "-m", "the last good state"); err != nil {
		return "", err
	}
	took := time.Since(start).Round(100 * time.Microsecond)
	before, err := d.inGuest("wc -l </mnt/diary")
	if err != nil {
		return "", err
	}
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		after, err := d.inGuest("wc -l </mnt/diary")
		if err != nil {
			return "", err
		}
		if after != before {
			return fmt.Sprintf("taken in %v, and the diary goes on", took), nil
		}
	}
	return "", fmt.Errorf("the guest stopped writing")
}

func (d *demo) upgrade() (string, error) {
	letter, err := d.inGuest(`echo "All is lost." >/mnt/letter && head -c 50000000 /dev/urandom >/mnt/rubbish && sync && cat /mnt/letter`)
	return fmt.Sprintf("the guest's letter now says %q, and there are 50 MB of rubbish", letter), err
}

func (d *demo) browse() (string, error) {
	image := filepath.Join(d.vm, ".snapshots", "before-upgrade", "root.img")
	// noload: the guest was running, so there is a journal, and nobody may write to replay it.
	if _, err := d.shell("mount -o loop,ro,noload " + image + " " + d.look); err != nil {
		return "", err
	}
	letter, err := d.shell("cat " + d.look + "/letter && umount " + d.look)
	return fmt.Sprintf("mounted read-only on the host, the old disk's letter says %q", letter), err
}

func (d *demo) revert() (string, error) {
	if err := d.guest.Quit(d.ctx); err != nil {
		return "", err
	}
	start := time.Now()
	if _, err := d.snapfs("revert", d.vm, "before-upgrade"); err != nil {
		return "", err
	}
	took := time.Since(start).Round(100 * time.Microsecond)
	tree, err := d.snapfs("tree", d.vm)
	fmt.Println(tree)
	return fmt.Sprintf("reverted in %v, whatever the disk's size; the state left behind is kept as a snapshot too", took), err
}

func (d *demo) bootAgain() (string, error) {
	if err := d.boot(); err != nil {
		return "", err
	}
	letter, err := d.inGuest("mount /dev/vda /mnt && test ! -e /mnt/rubbish && test -s /mnt/diary && cat /mnt/letter")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("its letter says %q again, and the rubbish is gone", letter), d.guest.Stop(d.ctx)
}

func (d *demo) delete() (string, error) {
	before, err := d.used()
	if err != nil {
		return "", err
	}
	kept, err := d.shell("ls " + filepath.Join(d.vm, ".snapshots") + " | grep ^before-revert-")
	if err != nil {
		return "", err
	}
	if _, err := d.snapfs("delete", d.vm, kept); err != nil {
		return "", err
	}
	after := before
	for range 100 { // the space comes back in the background
		if after, err = d.used(); err != nil || after != before {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	after, err = d.used()
	return fmt.Sprintf("no data was copied for that; the store went from %s to %s", before, after), err
}

func (d *demo) boot() (err error) {
	d.guest, err = guest.Start(d.ctx, guest.Config{Name: "web", Dir: d.base, Disks: []string{d.disk}})
	return err
}

func (d *demo) inGuest(script string) (string, error) {
	out, err := d.guest.Run(d.ctx, script)
	return strings.TrimSpace(out), err
}

// snapfs shows a command line and runs it.
func (d *demo) snapfs(args ...string) (string, error) {
	fmt.Println("   $ snapfs", strings.Join(args, " "))
	return output(exec.CommandContext(d.ctx, d.binary, args...))
}

// shell shows a line for the host's shell and runs it.
func (d *demo) shell(line string) (string, error) {
	fmt.Println("   $", line)
	return output(exec.CommandContext(d.ctx, "sh", "-c", line))
}

// used is what the disks' data occupy on the host.
func (d *demo) used() (string, error) {
	out, err := output(exec.CommandContext(d.ctx, "du", "-sh", filepath.Join(d.store, "layers")))
	size, _, _ := strings.Cut(out, "\t")
	return size, err
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text)
	}
	return text, nil
}

// cleanup leaves nothing behind, whatever happened, and then tells the summary.
func (d *demo) cleanup(err error) error {
	if d.guest != nil {
		d.guest.Kill()
	}
	_ = exec.Command("umount", "-q", d.look).Run() // mounted only if a step failed halfway
	if out, e := output(exec.Command(d.binary, "umount", d.mnt)); e != nil && err == nil {
		err = fmt.Errorf("%w: %s", e, out)
	}
	if err == nil {
		_, err = output(exec.Command(d.binary, "check", d.store))
	}
	_ = exec.Command("umount", "-q", "-l", d.mnt).Run() // if it is still there: removing must not reach into it
	if e := os.RemoveAll(d.base); e != nil && err == nil {
		err = e
	}
	if err == nil {
		fmt.Printf("\n== In short\n%s\n\nThe store passed `snapfs check`; the mount, the guest and all files of this demo are gone again.\n", strings.Join(d.done, "\n"))
	}
	return err
}
