package instruction

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// lineError finds what is wrong with a line of data of what the parser says without the
// right place: directives that are there twice or have no such value, and lines that are too
// long for it. It is nil if it is something else.
func lineError(data []byte) error {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	seen, line, inHead := map[string]int{}, 0, true
	for text := range bytes.Lines(data) {
		line++
		if len(text) >= bufio.MaxScanTokenSize {
			return atLine(line, fmt.Errorf("the line is longer than %d bytes, break it into several", bufio.MaxScanTokenSize-1))
		}
		if !inHead {
			continue
		}
		var fresh parser.DirectiveParser // so that it does not know the lines before
		d, err := fresh.ParseLine(text)
		switch {
		case err != nil || d == nil:
			inHead = false
		case seen[d.Name] > 0:
			return atLine(line, fmt.Errorf("a second %s directive: there is one on line %d", d.Name, seen[d.Name]))
		case d.Name == "escape" && d.Value != "`" && d.Value != `\`:
			return atLine(line, fmt.Errorf("the escape character can be \\ or `, not %s", d.Value))
		default:
			seen[d.Name] = line
		}
	}
	return nil
}

func atLine(line int, err error) error {
	at := parser.Position{Line: line}
	return parseError(err, []parser.Range{{Start: at, End: at}})
}

// syntaxError places what the parser complains about.
func syntaxError(data []byte, err error) error {
	if better := lineError(data); better != nil {
		return better
	}
	var at *parser.LocationError
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		return parseError(err, at.Locations[0])
	}
	return err
}
