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
