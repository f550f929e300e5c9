package policy

import (
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// A rule is a rule of a request that has been checked.
type rule struct {
	*spb.Rule
	match *regexp.Regexp // of the identifier; nil: it must be equal
	attrs []constraint
}

type constraint struct {
	key, value string
	negate     bool
	match      *regexp.Regexp // nil: the value must be equal
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// newRule checks a rule.
func newRule(r *spb.Rule) (*rule, error) {
	if r == nil {
		return nil, invalid("a rule of the source policy is empty")
	}
	if r.Selector == nil {
		return nil, invalid("invalid nil selector in policy: a rule must say which sources it is about")
	}
	if spb.PolicyAction_name[int32(r.Action)] == "" {
		return nil, invalid("source policy: unknown type of action %d", r.Action)
	}
	if r.Action == spb.PolicyAction_CONVERT && r.Updates == nil {
		return nil, invalid("source policy: missing destination for convert rule of %q", r.Selector.Identifier)
	}
	out := &rule{Rule: r}
	var err error
	switch r.Selector.MatchType {
	case spb.MatchType_EXACT:
	case spb.MatchType_WILDCARD:
		out.match, err = wildcard(r.Selector.Identifier)
	case spb.MatchType_REGEX:
		out.match, err = regexp.Compile(r.Selector.Identifier)
	default:
		err = fmt.Errorf("unknown type of match %d", r.Selector.MatchType)
	}
	if err != nil {
		return nil, invalid("source policy: selector %q: %v", r.Selector.Identifier, err)
	}
	for _, c := range r.Selector.Constraints {
		k := constraint{key: c.GetKey(), value: c.GetValue()}
		switch c.GetCondition() {
		case spb.AttrMatch_EQUAL:
		case spb.AttrMatch_NOTEQUAL:
			k.negate = true
		case spb.AttrMatch_MATCHES:
			if k.match, err = regexp.Compile(k.value); err != nil {
				return nil, invalid("source policy: constraint of %s: %v", k.key, err)
			}
		default:
			return nil, invalid("source policy: constraint of %s: unknown type of condition %d", k.key, c.GetCondition())
		}
		out.attrs = append(out.attrs, k)
	}
	return out, nil
}

// wildcard makes a pattern in which * stands for any text, and only that is special.
func wildcard(s string) (*regexp.Regexp, error) {
	parts := strings.Split(s, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.Compile("^" + strings.Join(parts, "(.*)") + "$")
}

// selects reports whether r is about a source.
func (r *rule) selects(identifier string, attrs map[string]string) bool {
	for _, c := range r.attrs {
		v, ok := attrs[c.key]
		switch {
		case c.match != nil && (!ok || !c.match.MatchString(v)),
			c.match == nil && (ok && v == c.value) == c.negate:
			return false
		}
	}
	if r.match == nil {
		return identifier == r.Selector.Identifier
	}
	return r.match.MatchString(identifier)
}

// convert returns what a conversion makes of a source, or op itself if that is what it is
// already.
func (r *rule) convert(op *pb.SourceOp, identifier string) (*pb.SourceOp, error) {
	out := &pb.SourceOp{Identifier: op.Identifier, Attrs: op.Attrs}
	if to := r.Updates.Identifier; to != "" {
		if r.match != nil {
			var err error
			if to, err = replaceAll(r.match, identifier, to); err != nil {
				return nil, err
			}
		}
		if to != identifier {
			out.Identifier = to
		}
	}
	changed := out.Identifier != op.Identifier
	for k, v := range r.Updates.Attrs {
		if old, ok := out.Attrs[k]; !ok || old != v {
			changed = true
		}
	}
	if !changed {
		return op, nil
	}
	out.Attrs = maps.Clone(op.Attrs)
	if out.Attrs == nil {
		out.Attrs = map[string]string{}
	}
	maps.Copy(out.Attrs, r.Updates.Attrs)
	return out, nil
}

// maxExpansion bounds what one match may expand to before it is known how much that is, in
// bytes: a destination may repeat what was matched as often as it is long.
const maxExpansion = 1 << 20

// replaceAll is ReplaceAllString for a result that may be called a source.
func replaceAll(match *regexp.Regexp, id, to string) (string, error) {
	var out []byte
	end := 0
	for _, m := range match.FindAllStringSubmatchIndex(id, -1) {
		out = append(out, id[end:m[0]]...)
		// No group is longer than the whole.
		if most := len(to) + strings.Count(to, "$")*(m[1]-m[0]); most > maxExpansion {
			return "", invalid("source policy: the destination of %q repeats what is matched too often: up to %d bytes would come of it", match, most)
		}
		out = match.ExpandString(out, to, id, m)
		if len(out) > maxIdentifier {
			return "", tooLong(len(out))
		}
		end = m[1]
	}
	return string(append(out, id[end:]...)), nil
}

func tooLong(n int) error {
	return invalid("source policy: a conversion makes an identifier of %d bytes or more, and it can have %d", n, maxIdentifier)
}
