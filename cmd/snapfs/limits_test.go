package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever may not raise the limit of open files is told before guests get errors.
func TestFewOpenFiles(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, c := range []struct {
		allowed, data int
		says          string
	}{
		{40, 0, "only 40 open files are allowed"},
		{511, 0, "only 511 open files are allowed"},
		{512, 256, "few-files allowed=512"},
		{4607, 4095, "few-files allowed=4607"},
		{4608, 4096, ""},
	} {
		t.Run(fmt.Sprint(c.allowed), func(t *testing.T) {
			dir := t.TempDir()
			store, point := filepath.Join(dir, "store"), filepath.Join(dir, "mnt")
			require.NoError(t, os.Mkdir(point, 0o755))
			mount := exec.Command("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "sh", "-c",
				fmt.Sprintf(`ulimit -n %d && exec "$0" mount "$1" "$2"`, c.allowed), self, store, point)
			out, err := mount.CombinedOutput()
			if c.data == 0 {
				require.Error(t, err)
				require.Contains(t, string(out), c.says)
				return
			}
			require.NoError(t, err, "%s", out)
			unmountAtEnd(t, point)
			log := done(t, "log", point)
			require.Contains(t, log, c.says)
			require.Equal(t, c.says != "", strings.Contains(log, "few-files"))
			require.Equal(t, c.data, dataFiles(uint64(c.allowed)))
		})
	}
	require.Equal(t, mostData, dataFiles(1<<20))
}
