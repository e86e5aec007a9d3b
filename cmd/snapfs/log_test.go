package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLog(t *testing.T) {
	got := parseLog("2026-01-02T03:04:05Z create vm=web name=\"a \\\"b\\\" c\" files=1\n" +
		"2026-01-02T03:04:06Z mount\n\n" +
		"2026-01-02T03:04:07Z fail error=\"\" code=EEXIST\n")
	require.Equal(t, []map[string]string{
		{"time": "2026-01-02T03:04:05Z", "event": "create", "vm": "web", "name": `a "b" c`, "files": "1"},
		{"time": "2026-01-02T03:04:06Z", "event": "mount"},
		{"time": "2026-01-02T03:04:07Z", "event": "fail", "error": "", "code": "EEXIST"},
	}, got)
	require.Equal(t, []map[string]string{}, parseLog(""))
}
