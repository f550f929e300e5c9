package imagediff

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// compareValues adds to out where two JSON values differ: by the smallest parts that do.
func compareValues(out []Field, name string, first, second any) []Field {
	if a, ok := first.(map[string]any); ok {
		if b, ok := second.(map[string]any); ok {
			all := maps.Clone(a)
			maps.Copy(all, b)
			for _, k := range slices.Sorted(maps.Keys(all)) {
				field := k
				if name != "" {
					field = name + "." + k
				}
				out = compareValues(out, field, a[k], b[k])
			}
			return out
		}
	}
	if a, ok := first.([]any); ok {
		if b, ok := second.([]any); ok && len(a) == len(b) {
			for i := range a {
				out = compareValues(out, fmt.Sprintf("%s[%d]", name, i), a[i], b[i])
			}
			return out
		}
	}
	if reflect.DeepEqual(first, second) {
		return out
	}
	return append(out, Field{Field: name, First: first, Second: second})
}
