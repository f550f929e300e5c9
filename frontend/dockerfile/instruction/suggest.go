package instruction

import (
	"fmt"
	"unicode/utf8"

	"github.com/agext/levenshtein"
)

// Suggest adds "(did you mean X?)" to err if one of the options is close to got. It does
// not if got is one of them: then the error is about something else.
func Suggest(err error, got string, options []string) error {
	if best := Closest(got, options); best != "" {
		return fmt.Errorf("%w (did you mean %s?)", err, best)
	}
	return err
}

// Closest is the option that is most like got, or "" if none is close or one is equal.
func Closest(got string, options []string) string {
	best, most := "", 6 // more than two edits are another word
	length := utf8.RuneCountInString(got)
	for _, o := range options {
		if o == got {
			return ""
		}
		if l := utf8.RuneCountInString(o); l > length+3 || l < length-3 {
			continue // so many edits it takes at least
		}
		d := 2 * levenshtein.Distance(got, o, nil)
		if o != "" && got != "" && o[0] == got[0] {
			d-- // few get the first letter wrong
		}
		if d < most {
			best, most = o, d
		}
	}
	return best
}
