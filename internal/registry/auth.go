package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	bksession "github.com/moby/buildkit/session"
	sessionauth "github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	clientID = "dbuild"
	// defaultLife is how long a token is good for if its server does not say; see the
	// distribution token specification.
	defaultLife = 60 * time.Second
	// joinTimeout is how long a session may take to appear.
	joinTimeout = 5 * time.Second
)

// tokens remembers what registries ask for, and what was shown to them last. Nothing
// here is written down, and what came from a session is forgotten with it.
type tokens struct {
	sm *bksession.Manager
	// timeout bounds one question to a client, which may be asking its user.
	timeout time.Duration
	client  *http.Client

	mu         sync.Mutex // guards the maps
	challenges map[challengeKey]auth.Challenge
	granted    map[grantKey]grant
	asking     map[askKey]chan struct{} // one at a time; grows with registries and scopes
}

type challengeKey struct{ host, scopes string }

type grantKey struct {
	session string // "" if there was none to ask
	host    string
	scopes  string
}

type askKey struct{ host, scopes string }

// A grant is the value of an Authorization header; "" is anonymous.
type grant struct {
	header string
	until  time.Time
}

func newTokens(sm *bksession.Manager, client *http.Client, timeout time.Duration) *tokens {
	return &tokens{
		sm: sm, client: client, timeout: timeout,
		challenges: map[challengeKey]auth.Challenge{},
		granted:    map[grantKey]grant{},
		asking:     map[askKey]chan struct{}{},
	}
}

// An authorizer shows what sessions of one group have to show.
type authorizer struct {
	tokens *tokens
	group  bksession.Group
}

var _ docker.Authorizer = (*authorizer)(nil)

// Authorize adds a header if the host is known to want one.
func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	host := req.URL.Host
	scopes := docker.GetTokenScopes(ctx, nil)
	ch, ok := a.tokens.challenge(host, scopes)
	if !ok {
		return nil
	}
	header, err := a.tokens.header(ctx, a.group, host, ch, scopes)
	if err != nil {
		return err
	}
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	return nil
}

// AddResponses learns from a 401. It returns nil if it is worth trying again.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	host := last.Request.URL.Host
	scopes := docker.GetTokenScopes(ctx, nil)
	shown := last.Request.Header.Get("Authorization")
	if shown != "" {
		// A token may have come to its end since somebody else fetched it; a new one has not.
		if tokensShown(responses) != 1 && len(responses) > 1 {
			return a.denied(last)
		}
		a.tokens.forget(shown)
	}
	for _, ch := range auth.ParseAuthHeader(last.Header) {
		if ch.Scheme == auth.BearerAuth || ch.Scheme == auth.BasicAuth {
			if ch.Scheme == auth.BearerAuth && ch.Parameters["realm"] == "" {
				continue
			}
			if known, ok := a.tokens.challenge(host, scopes); ok && shown == "" && len(responses) > 1 && known.Scheme == ch.Scheme {
				return a.denied(last) // we have nothing to show
			}
			a.tokens.learn(host, scopes, ch)
			return nil
		}
	}
	return a.denied(last)
}

func tokensShown(responses []*http.Response) (n int) {
	for _, r := range responses {
		if strings.HasPrefix(r.Request.Header.Get("Authorization"), "Bearer ") {
			n++
		}
	}
	return n
}

func (a *authorizer) denied(resp *http.Response) error {
	e := &deniedError{text: serverMessage(resp)}
	switch shown := resp.Request.Header.Get("Authorization"); {
	case shown == "":
		e.why = noLogin
	case strings.HasPrefix(shown, "Basic "):
		e.why = wrongLogin
	}
	return e
}

func (t *tokens) challenge(host string, scopes []string) (auth.Challenge, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ch, ok := t.challenges[challengeKey{host, strings.Join(scopes, " ")}]; ok {
		return ch, true
	}
	// What it wants for other repositories differs in scope only.
	ch, ok := t.challenges[challengeKey{host: host}]
	return ch, ok
}

// maxChallenges bounds memory in a daemon that sees very many repositories.
const maxChallenges = 4096

func (t *tokens) learn(host string, scopes []string, ch auth.Challenge) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.challenges) > maxChallenges {
		clear(t.challenges)
	}
	if len(scopes) > 0 {
		t.challenges[challengeKey{host, strings.Join(scopes, " ")}] = ch
	}
	general := auth.Challenge{Scheme: ch.Scheme, Parameters: map[string]string{}}
	for k, v := range ch.Parameters {
		if k != "scope" && k != "error" && k != "error_description" {
			general.Parameters[k] = v
		}
	}
	t.challenges[challengeKey{host: host}] = general
}

func (t *tokens) forget(header string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, g := range t.granted {
		if g.header == header {
			delete(t.granted, k)
		}
	}
}

// header returns what to show to host, asking the sessions of the group if it must.
func (t *tokens) header(ctx context.Context, g bksession.Group, host string, ch auth.Challenge, scopes []string) (string, error) {
	if s := ch.Parameters["scope"]; s != "" {
		scopes = docker.GetTokenScopes(ctx, strings.Fields(s))
	}
	if ch.Scheme == auth.BasicAuth {
		scopes = nil // one password for all
	}
	joined := strings.Join(scopes, " ")
	ids := bksession.AllSessionIDs(g)
	if gr, ok := t.cached(ids, host, joined); ok {
		return gr.header, nil
	}

	// Blobs are pushed in parallel; one of them asks.
	t.mu.Lock()
	turn := t.asking[askKey{host, joined}]
	if turn == nil {
		if len(t.asking) > maxChallenges {
			clear(t.asking) // at worst somebody asks twice
		}
		turn = make(chan struct{}, 1)
		t.asking[askKey{host, joined}] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if gr, ok := t.cached(ids, host, joined); ok {
		return gr.header, nil
	}

	id, gr, err := t.ask(ctx, ids, host, ch, scopes)
	if err != nil {
		return "", err
	}
	t.keep(grantKey{id, host, joined}, gr)
	return gr.header, nil
}

func (t *tokens) cached(ids []string, host, scopes string) (grant, bool) {
	if len(ids) == 0 {
		ids = []string{""}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if gr, ok := t.granted[grantKey{id, host, scopes}]; ok && time.Now().Before(gr.until) {
			return gr, true
		}
	}
	return grant{}, false
}

// keep remembers a grant and drops those that are no longer of use.
func (t *tokens) keep(k grantKey, gr grant) {
	t.mu.Lock()
	old := make(map[string]bool)
	now := time.Now()
	for k, gr := range t.granted {
		if now.After(gr.until) {
			delete(t.granted, k)
		} else if k.session != "" {
			old[k.session] = true
		}
	}
	t.granted[k] = gr
	t.mu.Unlock()

	for id := range old {
		if t.alive(id) {
			delete(old, id)
		}
	}
	if len(old) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.granted {
		if old[k.session] {
			delete(t.granted, k)
		}
	}
}

func (t *tokens) alive(id string) bool {
	c, err := t.sm.Get(context.Background(), id, true)
	return err == nil && c != nil
}

// caller returns a session, waiting shortly for one that is about to join.
func (t *tokens) caller(ctx context.Context, id string) (bksession.Caller, error) {
	if c, err := t.sm.Get(ctx, id, true); err == nil && c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return t.sm.Get(ctx, id, false)
}

// ask goes through the sessions until one has something to show; the first that has
// nothing stands for anonymous access if none has.
func (t *tokens) ask(ctx context.Context, ids []string, host string, ch auth.Challenge, scopes []string) (string, grant, error) {
	var (
		anonymous string
		found     bool
		failure   error
	)
	if t.sm == nil {
		ids = nil
	}
	for _, id := range ids {
		c, err := t.caller(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return "", grant{}, context.Cause(ctx)
			}
			continue // that client has left
		}
		gr, ok, err := t.askOne(ctx, c, host, ch, scopes)
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return "", grant{}, context.Cause(ctx)
			}
			failure = err
		case ok:
			return id, gr, nil
		case !found:
			anonymous, found = id, true
		}
	}
	if !found && failure != nil {
		return "", grant{}, failure
	}
	if ch.Scheme == auth.BasicAuth {
		return "", grant{}, &deniedError{why: noLogin}
	}
	gr, err := t.fetch(ctx, host, "", "", ch, scopes)
	if err != nil && failure != nil {
		err = failure
	}
	return anonymous, gr, err
}

// askOne asks one client: for a token if it can fetch one itself, so that the password
// stays where it is, else for user and password. ok is false if it has nothing.
func (t *tokens) askOne(ctx context.Context, c bksession.Caller, host string, ch auth.Challenge, scopes []string) (_ grant, ok bool, _ error) {
	ctx = c.Context(ctx)
	if t.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.timeout)
		defer cancel()
	}
	client := sessionauth.NewAuthClient(c.Conn())
	if ch.Scheme == auth.BearerAuth && c.Supports(sessionauth.Auth_GetTokenAuthority_FullMethodName) {
		resp, err := client.GetTokenAuthority(ctx, &sessionauth.GetTokenAuthorityRequest{Host: host, Salt: salt()})
		if err == nil && len(resp.PublicKey) > 0 {
			tok, err := client.FetchToken(ctx, &sessionauth.FetchTokenRequest{
				ClientID: clientID,
				Host:     host,
				Realm:    ch.Parameters["realm"],
				Service:  ch.Parameters["service"],
				Scopes:   scopes,
			})
			if err != nil {
				return grant{}, false, tokenRefusal(status.Convert(err).Message())
			}
			return bearer(tok.Token, int(tok.ExpiresIn)), true, nil
		}
	}
	cred, err := client.Credentials(ctx, &sessionauth.CredentialsRequest{Host: host})
	if err != nil {
		if code := status.Code(err); code == codes.Unimplemented {
			return grant{}, false, nil
		}
		return grant{}, false, &deniedError{why: noLogin, text: status.Convert(err).Message()}
	}
	if cred.Secret == "" {
		return grant{}, false, nil
	}
	if ch.Scheme == auth.BasicAuth {
		plain := cred.Username + ":" + cred.Secret
		return grant{"Basic " + base64.StdEncoding.EncodeToString([]byte(plain)), time.Now().Add(time.Hour)}, true, nil
	}
	gr, err := t.fetch(ctx, host, cred.Username, cred.Secret, ch, scopes)
	return gr, err == nil, err
}

// fetch gets a token from the server that the challenge names. A secret without a user
// is an identity token.
func (t *tokens) fetch(ctx context.Context, host, user, secret string, ch auth.Challenge, scopes []string) (grant, error) {
	to, err := auth.GenerateTokenOptions(quiet(ctx), host, user, secret, ch)
	if err != nil {
		return grant{}, &deniedError{text: err.Error()}
	}
	to.Scopes = scopes
	if secret != "" {
		resp, err := auth.FetchTokenWithOAuth(ctx, t.client, nil, clientID, to)
		if err == nil {
			return bearer(resp.AccessToken, resp.ExpiresInSeconds), nil
		}
		// Token servers older than OAuth know GET only, and say so in various ways.
		var st remoteerrors.ErrUnexpectedStatus
		if user == "" || !errors.As(err, &st) || st.StatusCode >= 500 {
			return grant{}, tokenError(err, wrongLogin)
		}
	}
	resp, err := auth.FetchToken(ctx, t.client, nil, to)
	if err != nil {
		why := wrongLogin
		if secret == "" {
			why = noLogin
		}
		return grant{}, tokenError(err, why)
	}
	return bearer(resp.Token, resp.ExpiresInSeconds), nil
}

func tokenError(err error, why refusal) error {
	var st remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &st) && st.StatusCode < 500 {
		text := bodyMessage(st.Body)
		if text == "" {
			text = "its token server answered " + st.Status
		}
		return &deniedError{why, text}
	}
	return err
}

// bearer gives up a token a little before its server does.
func bearer(token string, seconds int) grant {
	life := defaultLife
	if seconds > 0 {
		life = time.Duration(seconds) * time.Second
	}
	return grant{"Bearer " + token, time.Now().Add(life - life/10)}
}
