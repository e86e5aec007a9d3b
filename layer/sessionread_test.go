package layer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A worker that takes over knows where each read begins: one that was noted, and is sent again, where it did.
func TestTextPosition(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	const h = Handle(1 << 40)
	_, known := session.TextOpener(h)
	require.False(t, known)
	require.NoError(t, session.OpenText(h, 1, 1<<32-1))
	rapid.Check(t, func(t *rapid.T) {
		r := TextRead{
			Request: 2 * rapid.Uint64Range(0, 1<<61).Draw(t, "request"), Last: rapid.Bool().Draw(t, "last"),
			End: rapid.IntRange(0, readEndMax).Draw(t, "end"),
		}
		r.Start = r.End - min(r.End, rapid.IntRange(0, readLengthMax).Draw(t, "length"))
		session.SetTextRead(h, r)
		uid, _ := session.TextOpener(h)
		require.Equal(t, uint32(1<<32-1), uid)
		for request, again := range map[uint64]bool{r.Request: true, r.Request + 2: true, r.Request + 4: false} {
			at, over := session.TextPosition(h, request, again)
			if request == r.Request {
				require.Equal(t, r.Start, at)
				require.False(t, over)
				continue
			}
			require.Equal(t, r.End, at)
			require.Equal(t, r.Last, over)
		}
	})
	session.CloseText(h)
	_, known = session.TextOpener(h)
	require.False(t, known)
}

// A text is kept until it is dropped or another one takes its place, for so many handles, if it is not too long.
func TestTextKept(t *testing.T) {
	session, err := NewSession()
	require.NoError(t, err)
	keep := func(h Handle, text string) string {
		session.KeepText(h, []byte(text))
		kept, _ := session.Text(h)
		return string(kept)
	}
	for h := range Handle(maxTexts) {
		require.Equal(t, "long", keep(2+2*h, "long"))
		require.Equal(t, "text", keep(2+2*h, "text"))
	}
	require.Empty(t, keep(2+2*maxTexts, "one too many"))
	session.DropText(4)
	_, kept := session.Text(4)
	require.False(t, kept)
	require.Empty(t, keep(4, strings.Repeat("x", textBytes+1)))
	require.Equal(t, strings.Repeat("x", textBytes), keep(2+2*maxTexts, strings.Repeat("x", textBytes)))
	require.Equal(t, "text", keep(6, "text"))
	session.CloseText(2)
	_, kept = session.Text(2)
	require.False(t, kept)
}
