// Package suggest finds the word somebody probably meant.
package suggest

import "github.com/agext/levenshtein"

// Nearest returns the candidate that is most like word, or "" if none is near enough to
// be worth proposing: a typing error or two, fewer in short words.
func Nearest(word string, candidates []string) string {
	limit := min(len(word)-1, 2)
	if len(word) >= 9 {
		limit = 3
	}
	best := ""
	for _, c := range candidates {
		if c == word {
			return c
		}
		if d := levenshtein.Distance(word, c, nil); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}
