package dockerfile

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// testArgs are build arguments; UNSET has no value.
func testArgs(name string) (value string, set, declared bool) {
	switch name {
	case "ARG":
		return `a$HOME\b}"`, true, true
	case "EMPTY":
		return "", true, true
	case "VERSION":
		return "1.2.3", true, true
	case "UNSET":
		return "", false, true
	}
	return "", false, false
}

func newTestFreezer(escape rune) *freezer {
	return &freezer{escape: escape, arg: testArgs, lex: shell.NewLex(escape)}
}

func TestFreeze(t *testing.T) {
	for in, want := range map[string]string{
		`/usr/local/go/bin:$PATH`:  `/usr/local/go/bin:$PATH`,
		`"$X"y`:                    `${X}y`,
		`$X'y'`:                    `${X}y`,
		`$VERSION-$X`:              `1.2.3-$X`,
		`${X:-$VERSION}`:           `${X:-1.2.3}`,
		`${X:-"a}b"}`:              `${X:-a\}b}`,
		`${VERSION:-$X}`:           `1.2.3`,
		`${UNSET:-$X}`:             `$X`,
		`${EMPTY-$X}/${EMPTY:-$X}`: `/$X`,
		`${VERSION:+$X}`:           `$X`,
		`${EMPTY:+$X}`:             ``,
		`${VERSION%.*}`:            `1.2`,
		`${X%.*}`:                  `${X%.*}`,
		`\$X '$X' "\$X"`:           `\$X \$X \$X`,
		`$ARG`:                     `a\$HOME\\b}"`,
		`${X:-$ARG}`:               `${X:-a\$HOME\\b\}"}`,
		`a b`:                      `a b`,
		`$X$EMPTY`:                 `${X}`,
		`$`:                        `\$`,
	} {
		got, err := newTestFreezer('\\').word(in)
		if err != nil || got != want {
			t.Errorf("%s became %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		`'`: "matching single-quote", `"`: "matching double-quote", `${`: "missing '}'", `${X`: "missing '}'", `${X:-`: "missing '}'",
		`${}`: "bad substitution", `${X^}`: "unsupported modifier", `${UNSET:?say it}`: "UNSET: say it", `${X#$VERSION}`: "cannot be exported",
	} {
		if got, err := newTestFreezer('\\').word(in); err == nil {
			t.Errorf("%s became %s", in, got)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	if got, err := newTestFreezer('`').word("C:\\go`$x;$PATH"); err != nil || got != `C:\\go\$x;$PATH` {
		t.Errorf("with a backtick: %s, %v", got, err)
	}
}

// What a stage freezes and an importer thaws is what the stage itself would get from the
// arguments it has and the importer's variables.
func FuzzFreeze(f *testing.F) {
	for _, s := range []string{`/bin:$PATH`, `"$X"y${X:-'a}$b'}$ARG`, `${EMPTY:-${X}}`, "a\\$b\\\\\"\\x\"", `$$ $1x ${1} <<x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, word string) {
		var importer, both env
		importer.set("X", `x$y}"'\`)
		importer.set("PATH", "/bin")
		both = importer
		for _, name := range []string{"ARG", "EMPTY", "VERSION"} {
			v, _, _ := testArgs(name)
			both.set(name, v)
		}
		cold, err := newTestFreezer('\\').word(word)
		if err != nil {
			return
		}
		want, _, err := shell.NewLex('\\').ProcessWord(word, &both)
		if err != nil {
			return
		}
		got, err := thaw(cold, &importer)
		if err != nil || got != want {
			t.Errorf("%q is %q, frozen %q, thawed %q, %v", word, want, cold, got, err)
		}
	})
}
