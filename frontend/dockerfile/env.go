package dockerfile

import (
	"maps"
	"slices"
	"strings"
)

// An env is an ordered list of variables. Assigning a variable that exists moves it to
// the end, so the order is that of the last assignments. The zero env is empty.
//
// It implements the shell lexer's EnvGetter.
type env struct {
	keys   []string // in order; a variable that has moved leaves its old place until packed
	values map[string]string
	at     map[string]int // where in keys each is; nil until a variable moves
}

// Get returns the value of key.
func (e *env) Get(key string) (string, bool) {
	v, ok := e.values[key]
	return v, ok
}

// Keys returns the names in order. The result must not be changed.
func (e *env) Keys() []string {
	e.pack()
	return e.keys
}

// pack drops the places that variables have left.
func (e *env) pack() {
	if len(e.keys) == len(e.values) {
		return
	}
	kept := make([]string, 0, len(e.values))
	for i, k := range e.keys {
		if last, ok := e.at[k]; ok && last == i {
			kept = append(kept, k)
		}
	}
	e.keys, e.at = kept, nil
}

func (e *env) set(key, value string) {
	if _, ok := e.values[key]; ok {
		if e.keys[len(e.keys)-1] == key {
			e.values[key] = value
			return
		}
		e.index()
	}
	if e.values == nil {
		e.values = map[string]string{}
	}
	if e.at != nil {
		e.at[key] = len(e.keys)
	}
	e.keys = append(e.keys, key)
	e.values[key] = value
}

// index makes sure that places can be left.
func (e *env) index() {
	if e.at != nil {
		return
	}
	e.at = make(map[string]int, len(e.keys))
	for i, k := range e.keys {
		e.at[k] = i
	}
}

// setAll assigns a list of NAME=value.
func (e *env) setAll(list []string) {
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
}

func (e *env) unset(key string) {
	if _, ok := e.values[key]; ok {
		e.index()
		delete(e.values, key)
		delete(e.at, key)
		e.pack()
	}
}

func (e *env) clone() env {
	return env{keys: slices.Clone(e.Keys()), values: maps.Clone(e.values)}
}

// list returns the variables as NAME=value.
func (e *env) list() []string {
	out := make([]string, len(e.Keys()))
	for i, k := range e.keys {
		out[i] = k + "=" + e.values[k]
	}
	return out
}

// setConfigEnv sets a variable in the image config, where it keeps its place.
func (s *stage) setConfigEnv(key, value string) {
	list := &s.image.Config.Env
	if s.configEnv == nil {
		s.configEnv = make(map[string]int, len(*list))
		for i, kv := range *list {
			k, _, _ := strings.Cut(kv, "=")
			if _, twice := s.configEnv[k]; !twice {
				s.configEnv[k] = i
			}
		}
	}
	if i, ok := s.configEnv[key]; ok {
		(*list)[i] = key + "=" + value
		return
	}
	s.configEnv[key] = len(*list)
	*list = append(*list, key+"="+value)
}

func hasConfigEnv(list []string, key string) bool {
	return slices.ContainsFunc(list, func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return k == key
	})
}
