// Package autostart starts a daemon in the background when none listens.
//
// Whoever needs a daemon calls Ensure. The first takes a file lock, starts one and waits
// until it listens; others wait for the lock and then find it listening. The daemon is
// detached: it has its own session, a log file, and none of our file descriptors.
package autostart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// maxLog is the size in bytes from which the log of earlier daemons is set aside.
const maxLog = 8 << 20

// Config says which daemon to start.
type Config struct {
	Command []string      // program and arguments
	Env     []string      // its environment
	Socket  string        // unix socket on which it will listen
	State   string        // directory for its log and our lock; made if missing
	Timeout time.Duration // how long it may take until it listens; 0 means 10 s
}

// LogFile is where the daemon's output goes.
func (c Config) LogFile() string { return filepath.Join(c.State, "daemon.log") }

// Ensure returns when something listens on the socket, starting the daemon if nothing
// does. It tells whether it started one.
func Ensure(ctx context.Context, c Config) (started bool, err error) {
	if listens(ctx, c.Socket) {
		return false, nil
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return false, fmt.Errorf("state directory of the daemon: %w", err)
	}
	lock := flock.New(filepath.Join(c.State, "start.lock"))
	// Whoever has the lock needs at most the timeout, then it is our turn.
	lockCtx, cancel := context.WithTimeout(ctx, 2*c.Timeout)
	defer cancel()
	if ok, err := lock.TryLockContext(lockCtx, 10*time.Millisecond); !ok {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return false, fmt.Errorf("another client has been starting the daemon for too long: %w", err)
	}
	defer lock.Close()
	if listens(ctx, c.Socket) {
		return false, nil
	}
	return true, c.start(ctx)
}

// start starts the daemon and waits until it listens, dies, or takes too long.
func (c Config) start(ctx context.Context) error {
	log, from, err := c.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	// What our parent passed on to us, such as one end of its pipes, is not for a process
	// that outlives us: the parent would wait for it.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("file descriptors of the daemon: %w", err)
	}
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Env = c.Env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }() // ends with the daemon or with this process

	deadline := time.NewTimer(c.Timeout)
	defer deadline.Stop()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if listens(ctx, c.Socket) {
			return nil
		}
		select {
		case <-time.After(pause):
		case err := <-died:
			return &StartError{Why: exitReason(err), LogFile: c.LogFile(), Log: c.tail(from)}
		case <-deadline.C:
			_ = cmd.Process.Kill()
			<-died
			return &StartError{Why: fmt.Sprintf("it did not listen within %s", c.Timeout), LogFile: c.LogFile(), Log: c.tail(from)}
		case <-ctx.Done():
			return ctx.Err() // the daemon may come up for somebody else
		}
	}
}

// A StartError says why a daemon did not come up.
type StartError struct {
	Why     string
	LogFile string
	Log     string // its last lines
}

// Error contains the daemon's last lines, which usually say what is wrong.
func (e *StartError) Error() string {
	msg := "the daemon did not start: " + e.Why
	if e.Log == "" {
		return msg + "; see " + e.LogFile
	}
	return msg + "\n" + e.Log + "\nthe whole log is in " + e.LogFile
}

func exitReason(err error) string {
	if err == nil {
		return "it left"
	}
	return err.Error()
}

// openLog opens the log for appending and returns its size.
func (c Config) openLog() (*os.File, int64, error) {
	if fi, err := os.Stat(c.LogFile()); err == nil && fi.Size() > maxLog {
		_ = os.Rename(c.LogFile(), c.LogFile()+".1")
	}
	f, err := os.OpenFile(c.LogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("log of the daemon: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// tail returns the last lines of what was logged since the log had size from.
func (c Config) tail(from int64) string {
	f, err := os.Open(c.LogFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4096
	if fi, err := f.Stat(); err == nil && fi.Size()-from > most {
		from = fi.Size() - most
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, from, most))
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return strings.TrimSpace(string(bytes.Join(lines, []byte("\n"))))
}

// listens tells whether a connection to the socket is accepted.
func listens(ctx context.Context, socket string) bool {
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
