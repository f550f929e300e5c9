package dockerfile

import (
	"slices"
	"strings"
)

// An env is an ordered list of variables. Assigning a variable that exists moves it to
// the end, so the order is that of the last assignments. The zero env is empty.
//
// It implements the shell lexer's EnvGetter.
type env struct {
	keys   []string
	values map[string]string
}

// Get returns the value of key.
func (e *env) Get(key string) (string, bool) {
	v, ok := e.values[key]
	return v, ok
}

// Keys returns the names in order. The result must not be changed.
func (e *env) Keys() []string { return e.keys }

func (e *env) set(key, value string) {
	if _, ok := e.values[key]; ok {
		if e.keys[len(e.keys)-1] == key {
			e.values[key] = value
			return
		}
		i := slices.Index(e.keys, key)
		e.keys = slices.Delete(e.keys, i, i+1)
	}
	if e.values == nil {
		e.values = map[string]string{}
	}
	e.keys = append(e.keys, key)
	e.values[key] = value
}

// setAll assigns a list of NAME=value, in time linear in it and in what there is.
func (e *env) setAll(list []string) {
	for _, kv := range list {
		k, _, _ := strings.Cut(kv, "=")
		delete(e.values, k)
	}
	e.keys = slices.DeleteFunc(e.keys, func(k string) bool { _, ok := e.values[k]; return !ok })
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
}

func (e *env) unset(key string) {
	if _, ok := e.values[key]; ok {
		delete(e.values, key)
		i := slices.Index(e.keys, key)
		e.keys = slices.Delete(e.keys, i, i+1)
	}
}

func (e *env) clone() env {
	c := env{keys: slices.Clone(e.keys), values: make(map[string]string, len(e.values))}
	for k, v := range e.values {
		c.values[k] = v
	}
	return c
}

// list returns the variables as NAME=value.
func (e *env) list() []string {
	out := make([]string, len(e.keys))
	for i, k := range e.keys {
		out[i] = k + "=" + e.values[k]
	}
	return out
}

// setConfigEnv sets a variable in an image config, where it keeps its place.
func setConfigEnv(list []string, key, value string) []string {
	for i, kv := range list {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			list[i] = key + "=" + value
			return list
		}
	}
	return append(list, key+"="+value)
}

func hasConfigEnv(list []string, key string) bool {
	return slices.ContainsFunc(list, func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return k == key
	})
}
