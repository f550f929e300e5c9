package suggest

import "testing"

func TestNearest(t *testing.T) {
	flags := []string{"tag", "target", "build-arg", "build-context", "platform", "push", "pull"}
	for _, tc := range []struct{ word, want string }{
		{"tagret", "target"},
		{"tga", "tag"},
		{"build-args", "build-arg"},
		{"platfrom", "platform"},
		{"push", "push"},
		{"zzz", ""},
		{"completely-different", ""},
		{"", ""},
	} {
		if got := Nearest(tc.word, flags); got != tc.want {
			t.Errorf("Nearest(%q) = %q, want %q", tc.word, got, tc.want)
		}
	}
}
