package remote_test

import (
	"testing"

	"github.com/dbuild/dbuild/cache/remote"
)

// TestPublic keeps what is no secret, and nothing that is not known to be none.
func TestPublic(t *testing.T) {
	for list, want := range map[string]string{
		`[{"Type":"s3","Attrs":{"bucket":"b","secret_access_key":"x","access_key_id":"x","session_token":"x","new_password":"x"}}]`:             `[{"Type":"s3","Attrs":{"bucket":"b"}}]`,
		`[{"Type":"gha","Attrs":{"scope":"s","token":"x","ghtoken":"x","url":"https://u:x@h/p?sig=x#x"}},{"Type":"local","Attrs":{"src":"."}}]`: `[{"Type":"gha","Attrs":{"scope":"s","url":"https://h/p"}},{"Type":"local","Attrs":{"src":"."}}]`,
		`[{"Type":"azblob","Attrs":{"account_url":"://x"}}]`:                                                                                    `[{"Type":"azblob","Attrs":{"account_url":""}}]`,
		"secret": "",
	} {
		if got := remote.Public(list); got != want {
			t.Errorf("%s\n%s, want\n%s", list, got, want)
		}
	}
}
