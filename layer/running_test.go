package layer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What runs is known to who adopts the session, until it is renewed.
func TestRunning(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	session.LoopSlot(0).Store(2)
	session.LoopSlot(63).Store(4)
	session.LoopSlot(64).Store(6) // one too many: not noted
	slots := []int32{session.NoteHanded(8), session.NoteHanded(10)}
	session.EndHanded(slots[0])
	require.Equal(t, []uint64{2, 4, 10}, session.Running())
	session.LoopSlot(0).Store(0)
	require.Equal(t, []uint64{4, 10}, session.Running())
	session.Renew()
	require.Empty(t, session.Running())
}

// With too many requests handed on, more are not noted; the next one is, once one has ended.
func TestRunningFull(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	var last int32
	for i := range uint64(maxHanded) {
		last = session.NoteHanded(2 * (i + 1))
		require.GreaterOrEqual(t, last, int32(0))
	}
	none := session.NoteHanded(1 << 40)
	require.Negative(t, none)
	session.EndHanded(none)
	require.Len(t, session.Running(), maxHanded)
	session.EndHanded(last)
	session.NoteHanded(1 << 40)
	require.Len(t, session.Running(), maxHanded)
	require.Contains(t, session.Running(), uint64(1<<40))
}

// A request's deaths are counted until it is acquitted; those that do not run are left as they are.
func TestSuspects(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	require.Zero(t, session.Blame())
	session.LoopSlot(0).Store(2)
	slot := session.NoteHanded(4)
	require.Equal(t, 2, session.Blame())
	session.EndHanded(slot)
	require.Equal(t, 1, session.Blame())
	session.Renew()
	require.Equal(t, map[uint64]int{2: 2, 4: 1}, session.Suspects())
	session.Acquit(2)
	session.Acquit(6)
	require.Equal(t, map[uint64]int{4: 1}, session.Suspects())
}

// Suspects that nobody hears of again make room, and only they.
func TestSuspectsFull(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	full := func(first uint64) {
		for i := range maxLoops {
			session.LoopSlot(i).Store(first + 2*uint64(i))
		}
		for i := range uint64(maxHanded) {
			session.NoteHanded(first + 2*(maxLoops+i))
		}
		require.Equal(t, maxSuspects, session.Blame())
		session.Renew()
		session.freeSlots.free = nil
		session.freeSlots.fill()
	}
	full(2)
	full(2)
	full(1002) // 500 of them are others
	suspects := session.Suspects()
	require.Len(t, suspects, maxSuspects)
	for i := range uint64(maxSuspects) {
		want := 3
		if i >= maxSuspects-500 {
			want = 1
		}
		require.Equal(t, want, suspects[1002+2*i])
	}
}
