package layer

// The file in which the daemon has when each VM was last snapshotted on schedule.
//
//	{"0":{"sum":"6b5e2a91"},"3":{"schedule":"0 * * * *","since":"2026-03-04T13:00:00Z"}}
//
// The sum is crc32c of the store's id and of the file, newline included, with zeros for the sum itself. No VM has the id 0: a
// version that knows no sum passes it over, and writes the file without one.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Plan is when a VM's next run on schedule counts from: the last one, or when that schedule was first seen.
type Plan struct {
	Schedule string    `json:"schedule"`
	Since    time.Time `json:"since"`
	Missed   string    `json:"missed,omitempty"` // why the last run made no snapshot
}

const (
	scheduleSum  = `{"0":{"sum":"` // the beginning of the file, up to the sum
	scheduleZero = "00000000"
)

var errSchedule = errors.New("is damaged, or another store's")

// EncodeSchedule is the text of the file.
func (s *Store) EncodeSchedule(plans map[VMID]Plan) ([]byte, error) {
	rest, err := json.Marshal(plans)
	if err != nil {
		return nil, err
	}
	text := []byte(scheduleSum + scheduleZero + `"}`)
	if len(plans) > 0 {
		text = append(text, ',')
	}
	text = append(append(text, rest[1:]...), '\n')
	copy(text[len(scheduleSum):], sumOfSchedule(s.id, text))
	return text, nil
}

// DecodeSchedule reads such a text, also one that an older version wrote.
func (s *Store) DecodeSchedule(text []byte) (map[VMID]Plan, error) { return decodeSchedule(s.id, text) }

func decodeSchedule(store string, text []byte) (map[VMID]Plan, error) {
	var plans map[VMID]Plan
	if err := json.Unmarshal(text, &plans); err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	if after, ok := bytes.CutPrefix(text, []byte(scheduleSum)); ok && len(after) > len(scheduleZero) {
		zeroed := bytes.Clone(text)
		copy(zeroed[len(scheduleSum):], scheduleZero)
		if sumOfSchedule(store, zeroed) != string(after[:len(scheduleZero)]) {
			return nil, errSchedule
		}
	} else if again, err := json.Marshal(plans); err != nil || !bytes.Equal(append(again, '\n'), text) {
		return nil, errSchedule // not as an older version writes it
	}
	delete(plans, 0)
	return plans, nil
}

func sumOfSchedule(store string, zeroed []byte) string {
	return fmt.Sprintf("%08x", crc32.Update(crc32.Checksum([]byte(store), castagnoli), castagnoli, zeroed))
}
