package quiesce

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const agentInfo = `{"version": "8.2.0", "supported_commands": [{"name": "guest-fsfreeze-freeze", "enabled": true}, ` +
	`{"name": "guest-fsfreeze-thaw", "enabled": true}, {"name": "guest-fsfreeze-freeze-list", "enabled": false}]}`

// A check asks, and holds nobody.
func TestCheck(t *testing.T) {
	p := goodAgent(t, map[string]answer{
		"guest-info":       returning(agentInfo),
		"guest-get-fsinfo": returning(`[{"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1, "total-bytes": 2, "disk": []}]`),
	})
	m := goodMonitor(t, map[string]answer{"query-version": returning(`{"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}`)})
	policy := agentPolicy(ModeAgent, p, long)
	policy.QMP = m.path
	r, err := Check(t.Context(), policy)
	require.NoError(t, err)
	require.Equal(t, &AgentReport{
		Version: "8.2.0", Freeze: true, FileSystems: []FSInfo{{"vda1", "/", "ext4", 1, 2}},
	}, r.Agent)
	require.Equal(t, &QMPReport{Version: "7.2.22", RunState: RunState{true, "running"}}, r.QMP)
	require.Equal(t, []string{"guest-info", "guest-fsfreeze-status", "guest-get-fsinfo"}, p.seen())
	require.Equal(t, []string{"qmp_capabilities", "query-version", "query-status"}, m.seen())
}

// A guest that is frozen answers only some questions.
func TestCheckFrozen(t *testing.T) {
	p := goodAgent(t, map[string]answer{
		"guest-info": returning(agentInfo), "guest-fsfreeze-status": returning(`"frozen"`),
	})
	r, err := Check(t.Context(), agentPolicy(ModeAgent, p, long))
	require.NoError(t, err)
	require.True(t, r.Agent.Frozen)
	require.Empty(t, r.Agent.FileSystems)
}

// Who does not answer fails the check.
func TestCheckFails(t *testing.T) {
	p := goodAgent(t, map[string]answer{"guest-info": silence})
	_, err := Check(t.Context(), agentPolicy(ModeAgent, p, short))
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	m := goodMonitor(t, map[string]answer{"query-version": hangUp})
	_, err = Check(t.Context(), pausePolicy(m, long))
	require.ErrorIs(t, err, syscall.EIO)
}
