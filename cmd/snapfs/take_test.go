package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/fs"
	"github.com/snapfs/snapfs/layer"
	"github.com/snapfs/snapfs/quiesce"
)

// kept is a store with a VM, whose disk a guest has open, and the keeper of its policy; nothing is mounted.
type kept struct {
	*testing.T
	*keeper
	store  *layer.Store
	vm     *layer.VM
	disk   *layer.File
	agent  *guestAgent
	events *fs.EventLog
}

const (
	guestHandle = 1
	waitStep    = 5 * time.Millisecond
)

func newKept(t *testing.T) *kept {
	k := &kept{T: t, agent: newAgent(t), events: fs.NewEventLog()}
	k.open(t.TempDir())
	vm, err := k.store.CreateVM("web", 0o755, 0, 0)
	require.NoError(t, err)
	k.vm = vm
	k.disk, _, err = vm.Create("root.img", 0o600, 0, 0, true)
	require.NoError(t, err)
	k.startGuest()
	t.Cleanup(func() { k.shut() })
	return k
}

func (k *kept) open(dir string) {
	var err error
	k.store, err = layer.Open(dir, layer.Options{Event: k.events.Add, Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(k, err)
	k.keeper = startKeeper(k.store, k.events, "/mnt")
}

func (k *kept) shut() {
	k.keeper.close()
	require.NoError(k, k.store.Close())
}

func (k *kept) startGuest() {
	require.NoError(k, k.disk.Open(guestHandle, true))
	k.guestWrites()
}

func (k *kept) stopGuest() { k.disk.Close(guestHandle) }

// guestWrites writes and flushes, as a guest does to thaw.
func (k *kept) guestWrites() {
	_, err := k.disk.Write([]byte("guest"), 0, true)
	require.NoError(k, err)
	require.NoError(k, k.disk.Flush(true))
}

// policy sets the policy's part of quiescing; AGENT stands for the agent's socket.
func (k *kept) policy(quiesce string) {
	k.Helper()
	p, err := layer.ParsePolicy([]byte(strings.ReplaceAll(`{"quiesce": `+quiesce+`}`, "AGENT", k.agent.path)))
	require.NoError(k, err)
	require.NoError(k, k.vm.SetPolicy(p))
	k.policyChanged(k.vm)
}

func (k *kept) create(name string, hooks ...string) (layer.SnapshotInfo, error) {
	made, err := k.taker.take(k.vm, fs.CreateRequest{CreateOptions: layer.CreateOptions{Name: name}, Hooks: hooks})
	return made.SnapshotInfo, err
}

func (k *kept) made(name string) layer.SnapshotInfo {
	k.Helper()
	info, err := k.create(name)
	require.NoError(k, err)
	n, err := k.vm.Snapshot(name)
	require.NoError(k, err)
	require.Equal(k, n.Info().Consistency, info.Consistency)
	return info
}

func (k *kept) frozenFile() string {
	return filepath.Join(k.store.Dir(), "frozen", fmt.Sprint(uint64(k.vm.ID())))
}

// script makes a program that adds what it is told of to a file, and returns both paths.
func (k *kept) script(name, then string) (path, said string) {
	dir := k.TempDir()
	path, said = filepath.Join(dir, name), filepath.Join(dir, "said")
	text := "#!/bin/sh\necho $SNAPFS_VM $SNAPFS_SNAPSHOT $SNAPFS_TYPE >>" + said + "\n" + then + "\n"
	require.NoError(k, os.WriteFile(path, []byte(text), 0o755))
	return path, said
}

func TestQuiesced(t *testing.T) {
	k := newKept(t)
	k.policy(`{"mode": "agent", "agent": "AGENT"}`)
	k.agent.answers("guest-fsfreeze-freeze", func() string {
		require.FileExists(t, k.frozenFile(), "it is written down before")
		require.Empty(t, k.vm.Snapshots())
		k.guestWrites() // what a freeze does first
		return `{"return": 2}`
	})
	k.agent.answers("guest-fsfreeze-thaw", func() string {
		k.guestWrites()
		require.Empty(t, k.vm.Snapshots(), "nobody sees it before the verdict")
		return `{"return": 2}`
	})
	info := k.made("one")
	require.Equal(t, layer.ConsistencyFilesystem, info.Consistency)
	require.Nil(t, info.Warning)
	require.Equal(t, []string{"freeze", "thaw"}, k.agent.asked())
	require.NoFileExists(t, k.frozenFile())
	require.Contains(t, k.events.Text("web"), "guest-held vm=web snapshot=one mode=agent ms=")
	require.Empty(t, k.taker.reasons(k.vm))

	k.agent.answers("guest-fsfreeze-freeze", nil)
	k.agent.answers("guest-fsfreeze-thaw", nil)
	k.policy(`{"mode": "agent", "agent": "AGENT", "guest_hooks": true}`)
	require.Equal(t, layer.ConsistencyApplication, k.made("two").Consistency)
}

// Without a guest there is nobody to freeze; whatever the mode.
func TestNobodyToQuiesce(t *testing.T) {
	k := newKept(t)
	k.stopGuest()
	k.policy(`{"mode": "agent", "agent": "/nonexistent"}`)
	require.Equal(t, layer.ConsistencyOff, k.made("one").Consistency)
	k.startGuest()
	k.policy(`{}`)
	require.Equal(t, layer.ConsistencyCrash, k.made("two").Consistency)
	require.Empty(t, k.agent.asked())
}

func TestNotQuiesced(t *testing.T) {
	const failing = `{"error": {"class": "GenericError", "desc": "it says no"}}`
	for name, test := range map[string]struct {
		policy string
		on     map[string]string // answers; an empty one is none
		errno  syscall.Errno     // in mode agent
		says   string
	}{
		"no agent":              {`"agent": "/nonexistent"`, nil, syscall.EIO, "/nonexistent"},
		"freeze fails":          {`"agent": "AGENT"`, map[string]string{"freeze": failing}, syscall.EIO, "it says no"},
		"nothing is frozen":     {`"agent": "AGENT"`, map[string]string{"freeze": `{"return": 0}`}, syscall.EIO, "no file system"},
		"no answer":             {`"agent": "AGENT", "timeout": "300ms"`, map[string]string{"freeze": ""}, syscall.ETIMEDOUT, "no answer"},
		"somebody else froze":   {`"agent": "AGENT"`, map[string]string{"status": `{"return": "frozen"}`}, syscall.EIO, "frozen already"},
		"thawed what it hadn't": {`"agent": "AGENT"`, map[string]string{"thaw": `{"return": 1}`}, 0, "thawed 1"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t)
			for command, answer := range test.on {
				k.agent.answers("guest-fsfreeze-"+command, func() string { return answer })
			}
			k.policy(`{"mode": "agent", ` + test.policy + `}`)
			info, err := k.create("one")
			if test.errno == 0 {
				require.NoError(t, err)
				require.Equal(t, layer.ConsistencyCrash, info.Consistency)
				require.Contains(t, *info.Warning, test.says)
				return
			}
			require.Equal(t, test.errno, layer.Errno(err))
			require.ErrorContains(t, err, test.says)
			require.Empty(t, k.vm.Snapshots(), "nothing is left behind")
			require.Contains(t, k.taker.reasons(k.vm)[0], test.says)
			k.guestWrites()

			k.policy(`{"mode": "agent-or-crash", ` + test.policy + `}`)
			require.NotContains(t, strings.Join(k.reasons(k.vm), ""), "the last snapshot", "that was another policy")
			info = k.made("two")
			require.Equal(t, layer.ConsistencyCrash, info.Consistency)
			require.Contains(t, *info.Warning, test.says)
			require.Contains(t, k.taker.reasons(k.vm)[0], test.says)
			dir := k.store.Dir()
			k.shut()
			k.open(dir)
			k.vm, err = k.store.VM("web")
			require.NoError(t, err)
			require.Contains(t, strings.Join(k.reasons(k.vm), ""), "the last snapshot missed mode agent-or-crash: ", "over a restart")
		})
	}
}

func TestScripts(t *testing.T) {
	k := newKept(t)
	pre, preSaid := k.script("db", "")
	post, postSaid := k.script("db", "")
	other, otherSaid := k.script("web", "")
	scripts := fmt.Sprintf(`"pre": [%q, %q], "post": [%q]`, pre, other, post)

	k.policy(`{` + scripts + `}`)
	require.Equal(t, layer.ConsistencyCrash, k.made("one").Consistency, "scripts alone freeze nothing")
	for _, path := range []string{preSaid, postSaid, otherSaid} {
		said, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "web one copy\n", string(said))
	}
	k.policy(`{"mode": "agent", "agent": "AGENT", ` + scripts + `}`)
	info, err := k.create("two", "db")
	require.NoError(t, err)
	require.Equal(t, layer.ConsistencyApplication, info.Consistency)
	said, err := os.ReadFile(otherSaid)
	require.NoError(t, err)
	require.Equal(t, "web one copy\n", string(said), "only the scripts so named run")

	k.policy(`{"pre": ["/mnt/web/stop-db"]}`)
	_, err = k.create("three")
	require.Equal(t, syscall.EINVAL, layer.Errno(err))
	require.ErrorContains(t, err, "lies in the mount")
	k.policy(`{"mode": "agent", "agent": "AGENT", ` + scripts + `}`)
	_, err = k.create("three", "nosuch")
	require.Equal(t, syscall.EINVAL, layer.Errno(err))
	_, err = k.create("two")
	require.Equal(t, syscall.EEXIST, layer.Errno(err))
	said, err = os.ReadFile(postSaid)
	require.NoError(t, err)
	require.Equal(t, "web one copy\nweb two copy\n", string(said), "what is refused runs no script")
}

func TestFailingScripts(t *testing.T) {
	k := newKept(t)
	good, said := k.script("good", "")
	bad, _ := k.script("bad", "echo no database >&2; exit 1")
	k.policy(fmt.Sprintf(`{"mode": "agent", "agent": "AGENT", "pre": [%q], "post": [%q]}`, bad, good))
	_, err := k.create("one")
	require.Equal(t, syscall.EIO, layer.Errno(err))
	require.ErrorContains(t, err, "no database")
	require.Empty(t, k.vm.Snapshots())
	require.FileExists(t, said, "what comes after runs all the same")
	require.Empty(t, k.agent.asked())

	k.policy(fmt.Sprintf(`{"mode": "agent", "agent": "AGENT", "post": [%q]}`, bad))
	info := k.made("two")
	require.Equal(t, layer.ConsistencyFilesystem, info.Consistency)
	require.Contains(t, *info.Warning, "no database")
}

// A post script may use the VM's directory: no operation on the VM waits for it.
func TestPostScriptIsAfterTheSnapshot(t *testing.T) {
	k := newKept(t)
	dir := k.TempDir()
	post := filepath.Join(dir, "post")
	text := "#!/bin/sh\ntouch " + dir + "/ready\nwhile [ ! -e " + dir + "/go ]; do sleep 0.05; done\n"
	require.NoError(t, os.WriteFile(post, []byte(text), 0o755))
	k.policy(fmt.Sprintf(`{"post": [%q]}`, post))
	done := make(chan error, 1)
	go func() {
		_, err := k.create("one")
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(dir + "/ready"); return err == nil }, patience, waitStep)
	_, _, err := k.vm.Create("made-by-script", 0o600, 0, 0, true)
	require.NoError(t, err)
	_, err = k.vm.DeleteSnapshots([]string{"one"})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/go", nil, 0o600))
	require.NoError(t, <-done)
}

// A daemon that died while a guest was frozen: the next one thaws it, and does not freeze it before.
func TestThawedByTheNextDaemon(t *testing.T) {
	k := newKept(t)
	k.agent.answer("guest-fsfreeze-freeze")
	require.NoError(t, k.held.mark(k.vm.ID(), &quiesce.Held{Agent: k.agent.path}))
	k.stopGuest()
	k.shut()

	k.open(k.store.Dir())
	require.Eventually(t, func() bool { return !k.held.isReleasing(k.vm.ID()) }, patience, waitStep)
	require.False(t, k.agent.isFrozen())
	require.NoFileExists(t, k.frozenFile())
	require.Contains(t, k.events.Text("web"), "thawed vm=web")
}

// Nobody can let go of a guest of whom it can't be read how: that is said, with what to do.
func TestHeldButUnreadable(t *testing.T) {
	k := newKept(t)
	require.NoError(t, k.held.mark(k.vm.ID(), &quiesce.Held{Agent: k.agent.path}))
	k.shut()
	require.NoError(t, os.WriteFile(k.frozenFile(), []byte("{\x00"), 0o600))
	k.open(k.store.Dir())
	require.Contains(t, k.events.Text("web"), "thaw-failed vm=web file="+k.frozenFile())
	require.FileExists(t, k.frozenFile())
}

// A snapshot that is asked for again, because the worker died that had frozen the guest for it, waits for the thaw.
func TestTakenByTheNextDaemon(t *testing.T) {
	k := newKept(t)
	k.policy(`{"mode": "agent", "agent": "AGENT"}`)
	k.agent.answer("guest-fsfreeze-freeze")
	require.NoError(t, k.held.mark(k.vm.ID(), &quiesce.Held{Agent: k.agent.path}))
	k.stopGuest()
	k.shut()

	var refused atomic.Bool
	k.agent.answers("guest-fsfreeze-thaw", func() string {
		if !refused.Swap(true) { // it is tried again
			return `{"error": {"class": "GenericError", "desc": "not yet"}}`
		}
		k.agent.answers("guest-fsfreeze-thaw", nil)
		return k.agent.answer("guest-fsfreeze-thaw")
	})
	k.open(k.store.Dir())
	var err error
	k.vm, err = k.store.VM("web")
	require.NoError(t, err)
	k.disk, err = k.vm.Lookup("root.img")
	require.NoError(t, err)
	k.startGuest()
	require.Equal(t, layer.ConsistencyFilesystem, k.made("one").Consistency)
	require.True(t, refused.Load())
}

// A guest that does not let go is tried for as long as the daemon runs, and then by the next one.
func TestStuckGuest(t *testing.T) {
	k := newKept(t)
	k.policy(`{"mode": "agent", "agent": "AGENT", "timeout": "200ms"}`)
	k.agent.answers("guest-fsfreeze-thaw", func() string { return "" })
	_, err := k.create("one")
	require.Equal(t, syscall.ETIMEDOUT, layer.Errno(err))
	require.Empty(t, k.vm.Snapshots())
	require.FileExists(t, k.frozenFile())
	_, err = k.create("two")
	require.ErrorContains(t, err, "could not be let go of yet")
	require.Contains(t, k.reasons(k.vm)[0], "may still be held")

	k.agent.answers("guest-fsfreeze-thaw", nil)
	k.stopGuest()
	k.shut()
	k.open(k.store.Dir())
	require.Eventually(t, func() bool { return !k.agent.isFrozen() && !k.held.isReleasing(k.vm.ID()) }, patience, waitStep)
	require.NoFileExists(t, k.frozenFile())
}
