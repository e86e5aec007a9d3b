package layer

// The files in which the daemon has which guests it holds still, one for each VM by its id: what it takes to let go of them,
// with a checksum (sealed.go). What that is, is the daemon's.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

var heldSeal = sealForm{`{"sum":"`, `"`}

var errHeld = errors.New("is damaged, or of another VM or store")

// EncodeHeld is the text of the file about a VM; held is what is to be in it, a struct.
func (s *Store) EncodeHeld(id VMID, held any) ([]byte, error) {
	object, err := json.Marshal(held)
	if err != nil {
		return nil, err
	}
	return heldSeal.seal(whoseHeld(s.id, id), object), nil
}

// DecodeHeld reads such a text, also one that an older version wrote.
func (s *Store) DecodeHeld(id VMID, text []byte, held any) error {
	sealed, err := decodeHeld(s.id, id, text, held)
	if err != nil || sealed {
		return err
	}
	if again, err := json.Marshal(held); err != nil || !bytes.Equal(append(again, '\n'), text) {
		return errHeld // not as an older version writes it
	}
	return nil
}

func decodeHeld(store string, id VMID, text []byte, held any) (sealed bool, err error) {
	if err := json.Unmarshal(text, held); err != nil {
		return false, fmt.Errorf("is damaged: %w", err)
	}
	sealed, sound := heldSeal.verify(whoseHeld(store, id), text)
	if sealed && !sound {
		return false, errHeld
	}
	return sealed, nil
}

func whoseHeld(store string, id VMID) string { return fmt.Sprintf("%s/%d", store, id) }
