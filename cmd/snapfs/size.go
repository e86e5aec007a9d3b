package main

// SIZE on the command line, and sizes as people read them.

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/snapfs/snapfs/layer"
)

// parseSize reads a size that is not zero.
func parseSize(text string) (int64, error) {
	n, err := layer.ParseSize(text)
	if err == nil && n == 0 {
		err = fmt.Errorf("%q is not a size such as 256MiB", text)
	}
	return n, err
}

// showSize writes bytes as one word, "1.5GiB".
func showSize(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	return sign + strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "")
}

// sizeFlag is a flag of so many bytes.
type sizeFlag int64

func (s *sizeFlag) String() string { return strconv.FormatInt(int64(*s), 10) }
func (s *sizeFlag) Type() string   { return "SIZE" }

func (s *sizeFlag) Set(text string) error {
	n, err := parseSize(text)
	*s = sizeFlag(n)
	return err
}

// reserveFlag is a size, or a share of the store's file system.
type reserveFlag layer.Reserve

func (r *reserveFlag) Type() string { return "SIZE" }

func (r *reserveFlag) String() string {
	switch {
	case r.Bytes > 0:
		return strconv.FormatInt(r.Bytes, 10)
	case r.Percent > 0:
		return strconv.FormatFloat(r.Percent, 'g', -1, 64) + "%"
	}
	return ""
}

func (r *reserveFlag) Set(text string) error {
	*r = reserveFlag{}
	number, isShare := strings.CutSuffix(text, "%")
	if !isShare {
		n, err := parseSize(text)
		r.Bytes = n
		return err
	}
	percent, err := strconv.ParseFloat(number, 64)
	if err != nil || !(percent > 0 && percent < 100) {
		return fmt.Errorf("%q is not a share such as 5%%", text)
	}
	r.Percent = percent
	return nil
}
