package dockerfile

import (
	"strings"
	"testing"
)

func TestFreezeScript(t *testing.T) {
	f := newTestFreezer('\\')
	for in, want := range map[string]string{
		`echo $VERSION ${VERSION}x $X ${X:-y} $1`: `echo 1.2.3 1.2.3x $X ${X:-y} $1`,
		`echo '$VERSION' \$VERSION "$VERSION"`:    `echo '$VERSION' \$VERSION "1.2.3"`,
		`echo "$ARG" $ARG`:                        `echo "a\$HOME\\b}\"" a\$HOME\\b\}\"`,
		`echo "it's $VERSION"`:                    `echo "it's 1.2.3"`,
		`echo $UNSET.`:                            `echo .`,
		`awk '{print $1}' $$`:                     `awk '{print $1}' $$`,
		`x\`:                                      `x\`,
		`'open $VERSION`:                          `'open $VERSION`,
	} {
		if got, err := f.script(in); err != nil || got != want {
			t.Errorf("%s became %s, %v, want %s", in, got, err, want)
		}
	}
	if got, err := f.document(`don't $VERSION "$ARG"`); err != nil || got != `don't 1.2.3 "a\$HOME\\b}""` {
		t.Errorf("document: %s, %v", got, err)
	}
	if got, err := f.plain(`$VERSION'$ARG' $X`); err != nil || got != `1.2.3'a$HOME\b}"' $X` {
		t.Errorf("plain: %s, %v", got, err)
	}
	if _, err := f.script("echo ${VERSION%.*}"); err == nil || !strings.Contains(err.Error(), "write ${VERSION}") {
		t.Errorf("a modifier: %v", err)
	}
}
