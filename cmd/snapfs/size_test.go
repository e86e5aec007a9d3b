package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "4096": 4096, "16MiB": 16 << 20, "16M": 16 << 20, "1.5 GiB": 3 << 29, "2tib": 2 << 40,
	} {
		n, err := parseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "0", "-1", "MiB", "16 apples", "16EiB", "5%"} {
		_, err := parseSize(text)
		require.Error(t, err, text)
	}
}

func TestShowSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 512: "512B", 1 << 10: "1.0KiB", 3 << 29: "1.5GiB", -(1 << 20): "-1.0MiB"} {
		require.Equal(t, want, showSize(n))
	}
}

// What a flag shows must read back as the same, or a daemon would not get what its parent was given.
func TestReserveFlag(t *testing.T) {
	for text, want := range map[string]layer.Reserve{
		"5%": {Percent: 5}, "0.5%": {Percent: 0.5}, "1GiB": {Bytes: 1 << 30}, "12345": {Bytes: 12345},
	} {
		var first, again reserveFlag
		require.NoError(t, first.Set(text))
		require.Equal(t, want, layer.Reserve(first))
		require.NoError(t, again.Set(first.String()))
		require.Equal(t, first, again)
	}
	require.Empty(t, new(reserveFlag).String())
}

func TestMountArguments(t *testing.T) {
	spec := mountSpec{store: "/s", mountpoint: "/m", snapdir: "visible", mapMemory: 1 << 20}
	require.Equal(t, []string{"mount", "--snapdir=visible", "--map-memory=1048576", "--", "/s", "/m"}, spec.args())
	spec.reserve = reserveFlag{Percent: 2.5}
	require.Contains(t, spec.args(), "--reserve=2.5%")
	spec.letSleep = true
	require.NotContains(t, spec.args(), "--let-sleep", "which an older program does not know")
}
