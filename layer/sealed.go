package layer

// Small files of JSON that carry a checksum of themselves: crc32c of what they are to be, such as the store's id, and of the text,
// newline included, with zeros for the sum itself. A version that knows no sum passes it over, and writes the file without one.

import (
	"bytes"
	"fmt"
	"hash/crc32"
)

// sealForm is how a sum is written: the beginning of the object, up to the sum, and what comes behind it.
type sealForm struct{ before, after string }

const unsealed = "00000000"

// seal makes the text of a file of a JSON object.
func (f sealForm) seal(what string, object []byte) []byte {
	text := []byte(f.before + unsealed + f.after)
	if len(object) > len("{}") {
		text = append(text, ',')
	}
	text = append(append(text, object[1:]...), '\n')
	copy(text[len(f.before):], sealOf(what, text))
	return text
}

// verify says whether a text has a sum, and whether it is right.
func (f sealForm) verify(what string, text []byte) (sealed, sound bool) {
	after, ok := bytes.CutPrefix(text, []byte(f.before))
	if !ok || len(after) < len(unsealed) {
		return false, false
	}
	zeroed := bytes.Clone(text)
	copy(zeroed[len(f.before):], unsealed)
	return true, sealOf(what, zeroed) == string(after[:len(unsealed)])
}

func sealOf(what string, zeroed []byte) string {
	return fmt.Sprintf("%08x", crc32.Update(crc32.Checksum([]byte(what), castagnoli), castagnoli, zeroed))
}
