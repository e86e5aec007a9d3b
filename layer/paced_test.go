package layer

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaced(t *testing.T) {
	var p paced[int]
	var b background
	asked := 0
	find := func() (int, error) {
		asked++
		time.Sleep(10 * time.Millisecond)
		return asked, nil
	}
	began := time.Now()
	for range 3 { // the second and third time it is too early to ask again
		value, known := p.get(time.Minute, b.start, find)
		require.True(t, known)
		require.Equal(t, 1, value)
		require.GreaterOrEqual(t, p.next.Sub(began), (1+paceShare)*10*time.Millisecond)
		p.next = time.Now().Add(time.Hour)
	}
	p.next = time.Time{}
	value, _ := p.get(time.Minute, b.start, find)
	require.Equal(t, 2, value)

	p.next = time.Time{}
	value, known := p.get(time.Minute, b.start, func() (int, error) { return 0, errors.New("failed") })
	require.True(t, known)
	require.Equal(t, 2, value, "what was known before")

	p.next = time.Time{}
	hold := make(chan struct{})
	for range 2 { // nobody waits for longer than they have patience, and one looks at a time
		value, _ = p.get(time.Millisecond, b.start, func() (int, error) { <-hold; return 3, nil })
		require.Equal(t, 2, value)
	}
	close(hold)
	b.end()
	value, _ = p.get(time.Minute, b.start, find)
	require.Equal(t, 3, value)
	p.next = time.Time{}
	value, _ = p.get(time.Minute, b.start, find)
	require.Equal(t, 3, value, "nothing is begun any more")
}
