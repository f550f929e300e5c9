package main

import (
	"context"
	"io"
	"net"
	"os"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/autostart"
	"github.com/spf13/cobra"
)

// dialStdioCommand returns "dbuild dial-stdio": what is run on another machine, such as by
// ssh, so that a client here reaches the daemon there.
func (a *app) dialStdioCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dial-stdio",
		Short: "Connect standard input and output to the daemon",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dialRaw(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return splice(cmd.Context(), c, os.Stdin, os.Stdout)
		},
	}
}

// dialRaw connects to the daemon's socket, starting the daemon if nobody said which one.
func (a *app) dialRaw(ctx context.Context) (net.Conn, error) {
	p := a.places()
	addr := chooseAddress(a.addr, a.lookup, p)
	if addr.isDefault() {
		if _, err := autostart.Ensure(ctx, a.autostartConfig(p)); err != nil {
			return nil, err
		}
	}
	network, at, _ := strings.Cut(addr.url, "://")
	if network != "unix" && network != "tcp" {
		return nil, usagef("%s %s: dial-stdio connects to unix:// and tcp:// addresses", addr.from, addr.url)
	}
	c, err := new(net.Dialer).DialContext(ctx, network, at)
	if err != nil {
		return nil, &connectError{addr: addr, err: err}
	}
	return c, nil
}

type halfCloser interface{ CloseWrite() error }

// splice copies both ways until the daemon has said all it had to say. The end of in is
// passed on.
func splice(ctx context.Context, c io.ReadWriteCloser, in io.Reader, out io.Writer) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	go func() {
		// Reading in may block for ever when the daemon has gone: the process ends then, and
		// nobody waits for this.
		_, _ = io.Copy(c, in)
		if h, ok := c.(halfCloser); ok {
			_ = h.CloseWrite()
		}
	}()
	_, err := io.Copy(out, c)
	return err
}
