package layer

// The file in which the daemon has when each VM was last snapshotted on schedule.
//
//	{"0":{"sum":"6b5e2a91"},"3":{"schedule":"0 * * * *","since":"2026-03-04T13:00:00Z"}}
//
// No VM has the id 0: that member is the checksum (sealed.go).

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Plan is when a VM's next run on schedule counts from: the last one, or when that schedule was first seen.
type Plan struct {
	Schedule string    `json:"schedule"`
	Since    time.Time `json:"since"`
	Missed   string    `json:"missed,omitempty"` // why the last run made no snapshot
}

var scheduleSeal = sealForm{`{"0":{"sum":"`, `"}`}

var errSchedule = errors.New("is damaged, or another store's")

// EncodeSchedule is the text of the file.
func (s *Store) EncodeSchedule(plans map[VMID]Plan) ([]byte, error) {
	if plans == nil {
		plans = map[VMID]Plan{}
	}
	rest, err := json.Marshal(plans)
	if err != nil {
		return nil, err
	}
	return scheduleSeal.seal(s.id, rest), nil
}

// DecodeSchedule reads such a text, also one that an older version wrote.
func (s *Store) DecodeSchedule(text []byte) (map[VMID]Plan, error) { return decodeSchedule(s.id, text) }

func decodeSchedule(store string, text []byte) (map[VMID]Plan, error) {
	var plans map[VMID]Plan
	if err := json.Unmarshal(text, &plans); err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	if sealed, sound := scheduleSeal.verify(store, text); !sealed {
		if again, err := json.Marshal(plans); err != nil || !bytes.Equal(append(again, '\n'), text) {
			return nil, errSchedule // not as an older version writes it
		}
	} else if !sound {
		return nil, errSchedule
	}
	delete(plans, 0)
	return plans, nil
}
