package guest

import (
	"encoding/json"
	"time"
)

// Event is something that QEMU tells unasked.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Events returns what QEMU tells on a socket that Config.Args made, which is
// nobody else's meanwhile, until stop is called or QEMU ends: then the channel is
// closed. Who does not read them makes QEMU keep them.
func Events(path string) (events <-chan Event, stop func(), err error) {
	conn, dec, err := converse(path, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	ch, stopped := make(chan Event), make(chan struct{})
	go func() {
		defer close(ch)
		for {
			var e Event
			if dec.Decode(&e) != nil {
				return
			}
			select {
			case ch <- e:
			case <-stopped:
				return
			}
		}
	}()
	return ch, func() { conn.Close(); close(stopped) }, nil
}
