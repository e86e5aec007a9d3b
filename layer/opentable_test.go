package layer

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// One VM has its part of the open table, and the others theirs, also when another worker goes on.
func TestOpenTableIsShared(t *testing.T) {
	const one, other = VMID(1 << 30), VMID(1 << 31)
	session, err := NewSession()
	require.NoError(t, err)
	for i := range maxOpensOfVM {
		require.NoError(t, session.OpenText(Handle(2*i+2), one, 0))
	}
	require.Equal(t, syscall.ENFILE, Errno(session.OpenText(1<<40, one, 0)))
	require.NoError(t, session.OpenText(2, one, 0), "it is there already")
	require.NoError(t, session.OpenText(1<<40, other, 0))
	require.NoError(t, session.OpenText(1<<41, 0, 0))
	session.CloseText(2)
	require.NoError(t, session.OpenText(2, one, 0))

	s := openStore(t, filepath.Join(t.TempDir(), "store"), Options{Session: session})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 0)
	for i := range maxOpensOfVM {
		require.NoError(t, f.Open(1<<42+Handle(i), false))
	}
	s = takeOver(t, s)
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	require.Equal(t, syscall.ENFILE, Errno(f.Open(1<<43, false)))
	f.Close(1 << 42)
	require.NoError(t, f.Open(1<<43, false))
}
