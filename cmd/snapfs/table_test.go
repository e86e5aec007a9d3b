package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func snapshotRows() []listed {
	base := "base"
	unique, shared := int64(4096), int64(0)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	return []listed{
		{VM: "web", SnapshotInfo: layer.SnapshotInfo{
			Name: base, Created: at, State: "ready", Consistency: "crash", Description: "first\nof\tall",
			Unique: &unique, Shared: &shared,
			Files: []layer.FileInfo{{Name: "root.img", Size: 10 << 30, Allocated: 1 << 20}, {Name: "nvram.fd", Size: 0}},
		}},
		{VM: "数据库", SnapshotInfo: layer.SnapshotInfo{
			Name: "später", Parent: &base, Created: at, State: "ready", Consistency: "off",
			Files: []layer.FileInfo{{Name: "d", Size: 512, Allocated: 4096}},
		}},
	}
}

func TestTable(t *testing.T) {
	columns, err := pickColumns(listColumns, listOfMount)
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, writeTable(&b, columns, snapshotRows(), false))
	require.Equal(t, strings.TrimPrefix(`
VM      NAME    CREATED               SIZE  UNIQUE  SHARED  CONSISTENCY  DESCRIPTION
web     base    2026-01-02 03:04:05  10GiB  4.0KiB      0B  crash        first of all
数据库  später  2026-01-02 03:04:05   512B       -       -  off          -
`, "\n"), b.String())
}

func TestBareTable(t *testing.T) {
	columns, err := pickColumns(listColumns, "name,parent,files,size")
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, writeTable(&b, columns, snapshotRows(), true))
	require.Equal(t, "base\t-\troot.img,nvram.fd\t10GiB\nspäter\tbase\td\t512B\n", b.String())
}

func TestUnknownColumn(t *testing.T) {
	_, err := pickColumns(listColumns, "name,colour")
	require.ErrorContains(t, err, `no column "colour"; there are vm, name, parent`)
}

func TestStatusForPeople(t *testing.T) {
	var b strings.Builder
	require.NoError(t, showStatus(&b, []byte(`{"vm":"web","head":"base","preview":null,
		"files":[{"name":"root.img","size":1073741824,"allocated":4096},{"name":"x","size":0,"allocated":0}],
		"virtual":1073741824,"compliant":true,"reasons":[],"worker_pid":12}`), tableFlags{}))
	require.Equal(t, strings.TrimPrefix(`
PROPERTY    VALUE
vm          web
head        base
preview     -
files       root.img (size 1.0GiB, allocated 4.0KiB), x (size 0B, allocated 0B)
virtual     1.0GiB
compliant   true
reasons     -
worker_pid  12
`, "\n"), b.String())
	require.Error(t, showStatus(&b, []byte("nonsense"), tableFlags{}))
}
