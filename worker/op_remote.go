package worker

import (
	"errors"

	"github.com/dbuild/dbuild/solver"
)

func (w *Worker) httpOp(url string, attrs map[string]string) (solver.Op, error) {
	return nil, errors.New("not implemented: http sources")
}

func (w *Worker) gitOp(name string, attrs map[string]string) (solver.Op, error) {
	return nil, errors.New("not implemented: git sources")
}
