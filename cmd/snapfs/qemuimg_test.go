package main

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPercentReader(t *testing.T) {
	var seen []float64
	p := percentReader{func(percent float64) { seen = append(seen, percent) }}
	for _, text := range []string{"    (0.00/100%)\r", "    (1.51/100%)\r    (12.50/100%)\r", "nonsense (", "    (100.00/100%)\r\n"} {
		n, err := p.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
	}
	require.Equal(t, []float64{0, 12.5, 100}, seen)
}

func TestExportFormat(t *testing.T) {
	for image, want := range map[string]string{
		"a.qcow2": "qcow2", "a.VMDK": "vmdk", "a.vdi": "vdi", "a.vhdx": "vhdx", "a.vhd": "vpc", "a.raw": "raw", "a.img": "raw",
	} {
		got, err := exportFormat(image, "")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	got, err := exportFormat("a.img", "qcow2")
	require.NoError(t, err)
	require.Equal(t, "qcow2", got)
	_, err = exportFormat("disk", "")
	require.ErrorContains(t, err, "-O")
}

func TestSplitSource(t *testing.T) {
	for source, want := range map[string][2]string{
		"/m/web/root.img":          {"/m/web/root.img", ""},
		"/m/web/root.img@base":     {"/m/web/root.img", "base"},
		"/m@host/web/root.img@a b": {"/m@host/web/root.img", "a b"},
		"root.img@x":               {"root.img", "x"},
	} {
		path, snapshot := splitSource(source)
		require.Equal(t, want, [2]string{path, snapshot})
	}
}

func TestQemuImgFailures(t *testing.T) {
	err := runQemuImg(context.Background(), []string{"info", "/nonexistent"}, io.Discard)
	require.ErrorContains(t, err, "nonexistent")
	interrupted, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorContains(t, runQemuImg(interrupted, []string{"info", "/"}, io.Discard), "interrupted")
	t.Setenv("PATH", t.TempDir())
	err = runQemuImg(context.Background(), []string{"info", "/"}, io.Discard)
	require.ErrorContains(t, err, "install the package qemu-utils")
}
