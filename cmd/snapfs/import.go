package main

// snapfs import: an image of any format becomes a VM's file.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// sector is what qemu-img counts in: the size of an image is a multiple of it.
const sector = 512

func (a *app) importCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import IMAGE VM/FILE",
		Short: "Make a disk image a file of a VM",
		Long: `Make a disk image, of whatever format qemu-img reads, a file of a VM. The format is what the ending of IMAGE says, else
what its content says. An image that builds on a backing file is read together with that. The file appears when it is
complete: with mode 0600, or the owner and mode of the file it replaces.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if err := a.importImage(ctx, args[0], args[1], force); err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists")
	return cmd
}

// sameSignal is for how long further signals are taken for the first: timeout(1) sends two.
const sameSignal = time.Second

// interruptible gives a command the time to clean up when it is interrupted. A second signal ends it at once.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	return ctx, stop
}

func (a *app) importImage(ctx context.Context, image, target string, force bool) error {
	vm, err := openVM(filepath.Dir(target))
	if err != nil {
		return err
	}
	if err := layer.CheckName(layer.NameFile, filepath.Base(target)); err != nil {
		return err
	}
	if err := checkTarget(target, force); err != nil {
		return err
	}
	a.clearParts(vm.dir)
	lock, err := a.clearTemporary(vm)
	if err != nil {
		return err
	}
	defer lock.Close()
	source, err := os.Stat(image)
	if err != nil {
		return err
	}
	chain, err := a.soundImage(ctx, image)
	if err != nil {
		return err
	}
	info := chain[0]
	size := info.Size
	if info.Format == "raw" && source.Mode().IsRegular() {
		size = source.Size() // qemu-img rounds it up
	}
	return replaceFile(vm.dir, target, force, func(part *os.File) error {
		if err := part.Truncate(roundUp(info.Size, sector)); err != nil {
			return err
		}
		err := a.convertImage(ctx, "importing", "-n", "--target-is-zero", "-f", info.Format, "-O", "raw",
			localFile(image), localFile(part.Name()))
		if err != nil {
			return err
		}
		return part.Truncate(size)
	})
}

// soundImage finds out what an image is, and that it is whole.
func (a *app) soundImage(ctx context.Context, image string) ([]imageInfo, error) {
	defer a.working("checking the image")()
	chain, err := inspectImage(ctx, image)
	if err == nil {
		err = checkImages(ctx, chain)
	}
	return chain, err
}

// checkTarget refuses to write over a file without being told, and over one that a guest writes at all.
func checkTarget(target string, force bool) error {
	st, err := os.Lstat(target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", target)
	case !force:
		return fmt.Errorf("%s exists; replace it with --force", target)
	}
	return refuseIfWritten(filepath.Dir(target), []os.FileInfo{st})
}

// replaceFile has a file written under another name in dir and gives it its name when it is complete and would survive
// power loss. Failure leaves nothing behind.
func replaceFile(dir, target string, force bool, write func(part *os.File) error) (err error) {
	part, err := createPart(dir)
	if err != nil {
		return err
	}
	defer func() {
		part.Close()
		if err != nil {
			os.Remove(part.Name())
		}
	}()
	if err := write(part); err != nil {
		return err
	}
	if err := takeOwner(part, target); err != nil {
		return err
	}
	if err := part.Sync(); err != nil {
		return err
	}
	var flags uint
	if !force {
		flags = unix.RENAME_NOREPLACE
	}
	if err := unix.Renameat2(unix.AT_FDCWD, part.Name(), unix.AT_FDCWD, target, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: part.Name(), New: target, Err: err}
	}
	return nil
}

// takeOwner gives a file the owner and mode of the one it will replace, if there is one: a guest has to find its disk
// as it was.
func takeOwner(part *os.File, target string) error {
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return nil
	}
	return errors.Join(part.Chown(int(st.Uid), int(st.Gid)), part.Chmod(os.FileMode(st.Mode&0o777)))
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
