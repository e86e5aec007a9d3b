package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

// says waits until a VM is not as its policy wants it for a reason that contains a text, or is if the text is empty.
func (k *kept) says(text string) {
	k.Helper()
	require.Eventually(k, func() bool {
		reasons := strings.Join(k.reasons(k.vm), "; ")
		return text != "" && strings.Contains(reasons, text) || text == reasons
	}, patience, waitStep)
}

// Guests that don't answer are noticed without a snapshot, and only those that run and that snapshots need.
func TestProbe(t *testing.T) {
	k := newKept(t)
	k.policy(`{"mode": "agent", "agent": "/nonexistent"}`)
	k.says("guest agent /nonexistent")
	require.Contains(t, k.events.Text("web"), "not-compliant vm=web reason=\"guest agent /nonexistent")
	k.stopGuest()
	k.compliance.poke()
	k.says("")
	k.startGuest()
	k.compliance.poke()
	k.says("/nonexistent")
	k.policy(`{"mode": "none", "agent": "/nonexistent"}`)
	k.says("")
	k.policy(`{"mode": "pause", "qmp": "/nonexistent"}`)
	k.says("monitor /nonexistent")
	k.policy(`{"mode": "agent", "agent": "AGENT"}`)
	k.says("")
	k.agent.answers("guest-fsfreeze-status", func() string { return `{"return": "frozen"}` })
	k.policy(`{"mode": "agent", "agent": "AGENT"}`)
	k.says("frozen already")
	require.Empty(t, k.agent.asked(), "nothing is frozen for this")
}

// Guests of libvirt's are asked by a program. Nobody is asked again right away.
func TestProbeOfLibvirt(t *testing.T) {
	k := newKept(t)
	t.Setenv("LIBVIRT_DEFAULT_URI", "test:///default")
	k.policy(`{"mode": "agent", "agent": "libvirt:web"}`)
	k.says("failed to get domain 'web'")
	k.policy(`{"mode": "agent", "agent": "libvirt:db"}`)
	k.says("failed to get domain 'db'")
	for _, test := range []struct {
		agent string
		since time.Duration
		may   bool
	}{
		{"libvirt:web", libvirtPause - time.Minute, false}, {"libvirt:web", libvirtPause, true},
		{"/agent", 0, false}, {"/agent", complianceEvery, true},
	} {
		k.taker.mu.Lock()
		k.taker.asked[42] = time.Now().Add(-test.since)
		k.taker.mu.Unlock()
		require.Equal(t, test.may, k.taker.mayAsk(42, layer.QuiescePolicy{Mode: "agent", Agent: test.agent}), test)
	}
}

// A snapshot does not wait for a guest that is just being asked.
func TestSnapshotEndsProbe(t *testing.T) {
	k := newKept(t)
	asked, hang := make(chan struct{}, 1), make(chan struct{})
	defer close(hang)
	k.agent.answers("guest-fsfreeze-status", func() string {
		asked <- struct{}{}
		<-hang
		return ""
	})
	k.policy(`{"mode": "agent", "agent": "AGENT"}`)
	<-asked
	k.agent.answers("guest-fsfreeze-status", nil)
	require.Equal(t, layer.ConsistencyFilesystem, k.made("one").Consistency)
	k.keeper.close()
	require.NotContains(t, k.events.Text("web"), "no answer in time")
}
