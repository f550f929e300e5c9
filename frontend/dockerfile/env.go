package dockerfile

import "strings"

// An env is an ordered list of variables. Assigning a variable that exists moves it to
// the end, so the order is that of the last assignments. The zero env is empty.
//
// An env is the beginning of a log of assignments. A copy of it, which costs nothing, is the
// same beginning of the same log; whoever assigns first goes on with that log, and others
// begin one of their own. A stage therefore takes over the variables of its base without
// copying them.
//
// It implements the shell lexer's EnvGetter.
type env struct {
	log  *envLog
	n    int      // how many assignments of the log count
	live int      // how many of these count still
	all  []string // what list returned, while that is true
	odd  bool     // there may be a name with "=" in it, so that others take it for another one
}

// An envLog is what several envs begin with. What an env counts on never changes, but for
// notes about what came later.
type envLog struct {
	sets []assignment
	last map[string]int // index of the last assignment of each variable
}

type assignment struct {
	key, value string
	text       string // "key=value" once somebody wanted it
	gone       bool   // it takes the variable away
	before     int    // index of the assignment before it of the same variable, or -1
	after      int    // index of the one after it, or 0
}

// find returns the index of the assignment that a variable has its value of, or -1.
func (e *env) find(key string) int {
	if e.log == nil {
		return -1
	}
	i, ok := e.log.last[key]
	if !ok {
		return -1
	}
	for i >= e.n {
		i = e.log.sets[i].before
	}
	if i < 0 || e.log.sets[i].gone {
		return -1
	}
	return i
}

// Get returns the value of key.
func (e *env) Get(key string) (string, bool) {
	i := e.find(key)
	if i < 0 {
		return "", false
	}
	return e.log.sets[i].value, true
}

// each calls f with the assignments that count, in order.
func (e *env) each(f func(*assignment)) {
	for i := range e.n {
		a := &e.log.sets[i]
		if !a.gone && (a.after == 0 || a.after >= e.n) {
			f(a)
		}
	}
}

// Keys returns the names in order.
func (e *env) Keys() []string {
	out := make([]string, 0, e.live)
	e.each(func(a *assignment) { out = append(out, a.key) })
	return out
}

// list returns the variables as NAME=value. The result must not be changed.
func (e *env) list() []string {
	if e.all == nil && e.live > 0 {
		out := make([]string, 0, e.live)
		e.each(func(a *assignment) {
			if a.text == "" {
				a.text = a.key + "=" + a.value
			}
			out = append(out, a.text)
		})
		e.all = out
	}
	return e.all
}

func (e *env) set(key, value string) { e.assign(assignment{key: key, value: value}) }

func (e *env) unset(key string) {
	if e.find(key) >= 0 {
		e.assign(assignment{key: key, gone: true})
	}
}

func (e *env) assign(a assignment) {
	if e.log == nil || e.n < len(e.log.sets) || e.n > 2*e.live+64 {
		e.renew()
	}
	if e.find(a.key) >= 0 {
		e.live--
	}
	e.odd = e.odd || strings.Contains(a.key, "=")
	if !a.gone {
		e.live++
	}
	e.log.push(a)
	e.n, e.all = len(e.log.sets), nil
}

// renew begins a log of what counts: the old one is longer, or most of it is outdated.
func (e *env) renew() {
	log := &envLog{sets: make([]assignment, 0, e.live+1), last: make(map[string]int, e.live+1)}
	if e.log != nil {
		e.each(func(a *assignment) { log.push(assignment{key: a.key, value: a.value, text: a.text}) })
	}
	e.log, e.n = log, len(log.sets)
}

func (l *envLog) push(a assignment) {
	a.before = -1
	if i, ok := l.last[a.key]; ok {
		a.before = i
		l.sets[i].after = len(l.sets)
	}
	l.last[a.key] = len(l.sets)
	l.sets = append(l.sets, a)
}

// setAll assigns a list of NAME=value.
func (e *env) setAll(list []string) {
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
}

// setBoth sets a variable for what follows and in the image config.
func (s *stage) setBoth(key, value string) {
	s.env.set(key, value)
	if !s.setConfigEnv(key, value) {
		s.settled = false // it is the last one here, and keeps its place there
	}
	if strings.Contains(key, "=") { // the config knows it by another name
		s.settled, s.configEnv = false, nil
	}
}

// setConfigEnv sets a variable in the image config, where it keeps its place. It reports
// whether that is the last.
func (s *stage) setConfigEnv(key, value string) (last bool) {
	list := &s.image.Config.Env
	s.indexConfigEnv()
	if i, ok := s.configEnv[key]; ok {
		(*list)[i] = key + "=" + value
		return i == len(*list)-1
	}
	s.configEnv[key] = len(*list)
	*list = append(*list, key+"="+value)
	return true
}

func (s *stage) hasConfigEnv(key string) bool {
	s.indexConfigEnv()
	_, ok := s.configEnv[key]
	return ok
}

// indexConfigEnv finds the places of variables in the image config, the first of equal ones.
func (s *stage) indexConfigEnv() {
	if s.configEnv != nil {
		return
	}
	list := s.image.Config.Env
	s.configEnv = make(map[string]int, len(list))
	for i, kv := range list {
		k, _, _ := strings.Cut(kv, "=")
		if _, twice := s.configEnv[k]; !twice {
			s.configEnv[k] = i
		}
	}
}
