package instruction

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// mayExport finds files in which heredocs may stand behind EXPORT RUN. Moby's grammar
// knows no EXPORT, so it would take the body of such a document for instructions.
var mayExport = regexp.MustCompile(`(?im)^[ \t]*(?:onbuild[ \t]+)?export[ \t]`)

// takesHeredoc is the head of an instruction whose heredocs follow in the next lines.
var takesHeredoc = regexp.MustCompile(`(?i)^(?:onbuild\s+)?(?:add|copy|run|(export)\s+(?:--\S+\s+)*run)\s+(?:--\S+\s+)*`)

// stand-in takes the place of the word EXPORT while moby's grammar reads the file. It has
// the same length.
const standIn = "RUN   "

// parseNodes reads the nodes of a file.
func parseNodes(data []byte) (*parser.Result, error) {
	if !bytes.Contains(data, []byte("<<")) || !mayExport.Match(data) {
		return parser.Parse(bytes.NewReader(data))
	}
	data, marks := markExports(data)
	res, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for _, n := range res.AST.Children {
		m, ok := marks[n.StartLine]
		if !ok {
			continue
		}
		restore(n, m.offset, m.word)
		if m.offset > 0 && n.Next != nil && len(n.Next.Children) == 1 { // behind ONBUILD
			n = n.Next.Children[0]
			restore(n, 0, m.word)
		}
		n.Value = m.word
	}
	return res, nil
}

// restore puts the word back where the stand-in is.
func restore(n *parser.Node, offset int, word string) {
	if len(n.Original) >= offset && strings.HasPrefix(n.Original[offset:], standIn) {
		n.Original = n.Original[:offset] + word + n.Original[offset+len(standIn):]
	}
}

// A mark says where in an instruction the word EXPORT was replaced, and how it was written.
type mark struct {
	offset int
	word   string
}

// markExports replaces the word of each EXPORT RUN with a heredoc. Marks are by the
// instruction's first line. It reads lines as moby's grammar does, to tell an instruction
// from a line in the middle of a document.
func markExports(data []byte) ([]byte, map[int]mark) {
	escape := `\`
	if v, _, _, ok := parser.ParseDirective("escape", data); ok && v == "`" {
		escape = v
	}
	more := regexp.MustCompile(`(^|[^\` + escape + `])\` + escape + `[ \t]*$`)
	lines := bytes.SplitAfter(bytes.Clone(data), []byte("\n"))
	marks := map[int]mark{}
	for i := 0; i < len(lines); {
		head := lines[i]
		start := i + 1
		i++
		indent := len(head) - len(bytes.TrimLeft(head, " \t\v\f\r"))
		text := string(bytes.TrimRight(head[indent:], "\r\n"))
		if text == "" || text[0] == '#' {
			continue
		}
		line, goesOn := cutContinuation(more, text)
		for goesOn && i < len(lines) {
			text = string(bytes.TrimRight(lines[i], "\r\n"))
			i++
			if t := strings.TrimSpace(text); t == "" || t[0] == '#' {
				continue
			}
			text, goesOn = cutContinuation(more, text)
			line += text
		}
		m := takesHeredoc.FindStringSubmatchIndex(line)
		if m == nil || isJSON(line[m[1]:]) {
			continue
		}
		docs := heredocsOf(line)
		if len(docs) > 0 && m[2] >= 0 && m[3] <= len(head)-indent {
			marks[start] = mark{m[2], line[m[2]:m[3]]}
			copy(head[indent+m[2]:], standIn)
		}
		for _, doc := range docs {
			for i < len(lines) {
				end := bytes.TrimRight(lines[i], "\r\n")
				i++
				if doc.Chomp {
					end = bytes.TrimLeft(end, "\t")
				}
				if string(end) == doc.Name {
					break
				}
			}
		}
	}
	return bytes.Join(lines, nil), marks
}

// cutContinuation takes the character away that continues a line.
func cutContinuation(more *regexp.Regexp, line string) (_ string, goesOn bool) {
	m := more.FindStringSubmatchIndex(line)
	if m == nil {
		return line, false
	}
	return line[:m[3]], true
}

func isJSON(text string) bool {
	var words []string
	return strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &words) == nil
}

// heredocsOf lists the documents that a line begins.
func heredocsOf(line string) []parser.Heredoc {
	if !strings.Contains(line, "<<") {
		return nil
	}
	lex := shell.NewLex('\\')
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	words, _ := lex.ProcessWords(line, noEnv{}) // what is wrong with it is said elsewhere
	var docs []parser.Heredoc
	for _, w := range words {
		if h := parser.MustParseHeredoc(w); h != nil {
			docs = append(docs, *h)
		}
	}
	return docs
}

// reparse reads a line under another keyword: moby's grammar has no operands for words
// that it does not know.
func (r *request) reparse(line string) (*request, error) {
	if keyword, _, _ := strings.Cut(line, " "); keyword == "RUN" {
		for _, doc := range r.heredocs {
			line += "\n" + doc.Content + doc.Name
		}
	}
	if r.escape != parser.DefaultEscapeToken {
		line = "# escape=" + string(r.escape) + "\n" + line
	}
	res, err := parser.Parse(strings.NewReader(line))
	if err != nil {
		var at *parser.LocationError // its lines are not those of the file
		if errors.As(err, &at) {
			err = at.Unwrap()
		}
		return nil, err
	}
	if len(res.AST.Children) != 1 {
		return nil, errors.New(r.name + " must be one instruction")
	}
	in := newRequest(res.AST.Children[0], r.escape, Plain)
	in.Pos, in.heredocs, in.stored = r.Pos, r.heredocs, true
	return in, nil
}

// operand is the text behind an instruction's flags.
func (r *request) operand() (string, error) {
	in, err := r.reparse("MAINTAINER" + r.Source[len(r.Keyword):])
	if err != nil || len(in.args) == 0 {
		return "", err
	}
	return in.args[0], nil
}
