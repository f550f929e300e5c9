package buildflags

import "fmt"

// A UsageError says that flags make no sense, whatever files there are.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// A FileError says that a file the flags name cannot be used.
type FileError struct{ Err error }

func (e *FileError) Error() string { return e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

func filef(format string, args ...any) error { return &FileError{fmt.Errorf(format, args...)} }
