package layer

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every flipped bit of the file about a guest that is held shows, as does that of another VM or store; what an older version
// wrote is read.
func TestHeldFile(t *testing.T) {
	type guest struct {
		Agent string   `json:"agent,omitempty"`
		Post  []string `json:"post,omitempty"`
	}
	s := newStore(t, Options{})
	for _, want := range []guest{{Agent: "/run/web.sock", Post: []string{`/usr/bin/"post" <web>`}}, {}} {
		text, err := s.EncodeHeld(3, &want)
		require.NoError(t, err)
		var got guest
		require.NoError(t, s.DecodeHeld(3, text, &got))
		require.Equal(t, want, got)
		for at := range text {
			require.Error(t, s.DecodeHeld(3, text[:at], new(guest)), "cut off at %d", at)
			for bit := range 8 {
				spoilt := bytes.Clone(text)
				spoilt[at] ^= 1 << bit
				require.Error(t, s.DecodeHeld(3, spoilt, new(guest)), "%s", spoilt)
			}
		}
		require.Error(t, s.DecodeHeld(4, text, new(guest)), "another VM's")
		require.Error(t, newStore(t, Options{}).DecodeHeld(3, text, new(guest)), "another store's")

		older, err := json.Marshal(want)
		require.NoError(t, err)
		var known guest
		require.NoError(t, s.DecodeHeld(3, append(older, '\n'), &known))
		require.Equal(t, want, known)
		var there guest
		require.NoError(t, json.Unmarshal(text, &there), "and an older version reads this one's")
		require.Equal(t, want, there)
	}
}
