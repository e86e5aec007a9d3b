package quiesce

import (
	"encoding/json"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The defaults are what the interface says, and valid.
func TestDefaultPolicy(t *testing.T) {
	p := DefaultPolicy()
	require.NoError(t, p.Check())
	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.JSONEq(t, `{"mode": "none", "agent": "", "qmp": "", "timeout": "10s", "mountpoints": [],
		"guest_hooks": false, "pre": [], "post": []}`, string(text))
	var again Policy
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, p, again)
}

// A document is read over the defaults, and what it says must make sense.
func TestPolicyDocument(t *testing.T) {
	for document, valid := range map[string]bool{
		`{}`: true,
		`{"mode": "agent", "agent": "/run/web.sock", "timeout": "1s500ms"}`: true,
		`{"mode": "agent-or-crash", "agent": "libvirt:web"}`:                true,
		`{"mode": "pause", "qmp": "/run/web.qmp"}`:                          true,
		`{"mountpoints": ["/", "C:\\"]}`:                                    true,
		`{"pre": ["/etc/snapfs/db"]}`:                                       true,
		`{"timeout": "10.001s"}`:                                            false,
		`{"timeout": "0s"}`:                                                 false,
		`{"timeout": "-1s"}`:                                                false,
		`{"timeout": "10"}`:                                                 false,
		`{"timeout": 10}`:                                                   false,
		`{"mode": "freeze"}`:                                                false,
		`{"mode": ""}`:                                                      false,
		`{"mode": "agent"}`:                                                 false,
		`{"mode": "agent-or-crash", "qmp": "/run/web.qmp"}`:                 false,
		`{"mode": "pause", "agent": "/run/web.sock"}`:                       false,
		`{"agent": "web.sock"}`:                                             false,
		`{"agent": "libvirt:"}`:                                             false,
		`{"qmp": "libvirt:--help"}`:                                         false,
		`{"pre": ["db"]}`:                                                   false,
		`{"post": ["./db"]}`:                                                false,
		`{"post": [""]}`:                                                    false,
	} {
		p := DefaultPolicy()
		err := json.Unmarshal([]byte(document), &p)
		if err == nil {
			err = p.Check()
		}
		if valid {
			require.NoError(t, err, document)
		} else {
			require.ErrorIs(t, err, syscall.EINVAL, document)
		}
	}
}

// Memory goes over a socket only.
func TestMemoryNeedsSocket(t *testing.T) {
	for _, address := range []string{"", "libvirt:web"} {
		p := DefaultPolicy()
		p.QMP = address
		_, err := New(Request{Policy: p, Memory: &Memory{File: os.Stdout}})
		require.ErrorIs(t, err, syscall.EINVAL)
		require.ErrorContains(t, err, address)
	}
}
