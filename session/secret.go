package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/session/secrets"
)

// ErrNoSecret says that no session of the group has a secret of that name.
var ErrNoSecret = errors.New("no such secret")

// Secret asks the sessions of g for the secret named id. It returns ErrNoSecret, wrapped,
// if none has it.
func (m *Manager) Secret(ctx context.Context, g Group, id string) ([]byte, error) {
	var value []byte
	err := m.Any(ctx, g, func(ctx context.Context, _ string, c Caller) (err error) {
		value, err = secrets.GetSecret(ctx, c, id)
		return err
	})
	switch {
	case errors.Is(err, secrets.ErrNotFound):
		return nil, fmt.Errorf("secret %s: %w", id, ErrNoSecret)
	case err != nil:
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	return value, nil
}
