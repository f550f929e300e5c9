package runc

import (
	"errors"
	"testing"
)

func TestFilterLoopback(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{"nameserver 127.0.0.53\noptions edns0\n", "options edns0\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{"nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"nameserver ::1\nnameserver 2001:db8::1\n", "nameserver 2001:db8::1\n"},
		{"search a b\nnameserver 192.0.2.1\n", "search a b\nnameserver 192.0.2.1\n"},
	} {
		if got := string(filterLoopback([]byte(test.in))); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestCleanParent(t *testing.T) {
	for in, want := range map[string]string{
		"": "/", "/a/b": "/a/b", "a": "/a", "../../x": "/x", "build.slice": "/build.slice",
		"a-b-c.slice:": "/a.slice/a-b.slice/a-b-c.slice", "/x/a-b.slice": "/x/a-b.slice",
	} {
		if got := cleanParent(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestRuncIsVulnerable(t *testing.T) {
	for version, want := range map[string]bool{
		"runc version 1.1.5+ds1": true, "runc version 1.2.9": true, "runc version 1.3.5": true, "runc version 1.3.6": false,
		"runc version 1.4.2": true, "runc version 1.4.3": false, "runc version 1.5.0": false, "crun version 1.8.1": false,
	} {
		if got := runcIsVulnerable(version); got != want {
			t.Errorf("%s: %t", version, got)
		}
	}
}

func TestStartError(t *testing.T) {
	for msg, code := range map[string]int{
		"unable to start container process: error during container init: exec: \"x\": executable file not found in $PATH":  127,
		"unable to start container process: error during container init: exec: \"/x\": stat /x: no such file or directory": 127,
		"error during container init: exec: \"/x\": permission denied":                                                     126,
		"executable file `x` not found in $PATH":                                                                           127,
		"error mounting \"x\": no such file or directory":                                                                  0,
	} {
		var exit *ExitError
		got := 0
		if err := startError(msg); errors.As(err, &exit) {
			got = exit.Code
		}
		if got != code {
			t.Errorf("%s: code %d, want %d", msg, got, code)
		}
	}
}
