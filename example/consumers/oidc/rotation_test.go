package oidc_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

// stubborn is a key set that is fetched anew when it is as old as Cache-Control
// allows, and for no other reason: the least that a verifier must do.
type stubborn struct {
	issuer *consumertest.Issuer
	t      *testing.T

	mu      sync.Mutex
	keys    jose.JSONWebKeySet
	fetched time.Time
	fetches int
}

const maxAge = time.Minute // of consumertest.StartManaged

func (s *stubborn) VerifySignature(_ context.Context, token string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.fetched) > maxAge {
		resp, err := s.issuer.Client.Get(s.issuer.URL + "/.well-known/jwks.json")
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &s.keys); err != nil {
			return nil, err
		}
		if got := resp.Header.Get("Cache-Control"); got != "public, max-age=60" {
			s.t.Errorf("Cache-Control is %q", got)
		}
		s.fetched, s.fetches = time.Now(), s.fetches+1
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, err
	}
	return jws.Verify(s.keys)
}

// The key is changed under load, and no verifier notices: neither go-oidc nor one
// that never looks for a key that it does not know.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	i := consumertest.StartManaged(t, "  web: {allowAnyInstance: true, audience: ["+audience+"]}\n")
	ctx, stop := context.WithCancel(oidc.ClientContext(t.Context(), i.Client))
	provider, err := oidc.NewProvider(ctx, i.URL)
	if err != nil {
		t.Fatal(err)
	}
	strict := &stubborn{issuer: i, t: t}
	verifiers := []*oidc.IDTokenVerifier{
		provider.Verifier(&oidc.Config{ClientID: audience}),
		oidc.NewVerifier(i.URL, strict, &oidc.Config{ClientID: audience}),
	}
	var verified atomic.Int64
	var mu sync.Mutex
	byKey := map[string]int{}
	var load sync.WaitGroup
	first := i.Token(t, "web", "")
	for range 4 {
		load.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				token := i.Token(t, "web", "")
				for _, v := range verifiers {
					for _, token := range []string{first, token} {
						if _, err := v.Verify(context.WithoutCancel(ctx), token); err != nil {
							t.Errorf("after %d: %v", verified.Load(), err)
							return
						}
						verified.Add(1)
					}
				}
				mu.Lock()
				byKey[kid(t, token)]++
				mu.Unlock()
				<-tick.C
			}
		})
	}
	// Before verifiers can know the next key it does not sign.
	out, err := i.Command(t, "keys", "rotate")
	if err == nil || !strings.Contains(out, "verifiers may not know the next key") {
		t.Errorf("rotated at once: %v, %s", err, out)
	}
	consumertest.AwaitFor(t, 4*time.Minute, "rotation", func() bool {
		_, err := i.Command(t, "keys", "rotate")
		return err == nil
	})
	changed := strict.fetches
	consumertest.AwaitFor(t, 2*time.Minute, "the next fetch of the key set", func() bool {
		strict.mu.Lock()
		defer strict.mu.Unlock()
		return strict.fetches > changed
	})
	stop()
	load.Wait()
	if len(byKey) != 2 {
		t.Errorf("tokens were signed with %d keys: %v", len(byKey), byKey)
	}
	t.Logf("%d verifications, tokens by key %v", verified.Load(), byKey)
}

func kid(t *testing.T, token string) string {
	t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	return jws.Signatures[0].Header.KeyID
}
