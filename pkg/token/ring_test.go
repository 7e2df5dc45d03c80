package token_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// breakable is a state that can be cut off.
type breakable struct {
	*state.Memory
	away atomic.Bool
}

var errAway = errors.New("connection refused")

func (b *breakable) Get(ctx context.Context, key string) ([]byte, error) {
	if b.away.Load() {
		return nil, errAway
	}
	return b.Memory.Get(ctx, key)
}

func newRing(t *testing.T, algorithm string, files ...crypto.Signer) (*keyring.Ring, *breakable) {
	t.Helper()
	store := &breakable{Memory: &state.Memory{Size: 10}}
	plan, err := keyring.Config{Algorithm: algorithm, RotationPeriod: 24 * time.Hour, MaxAge: 5 * time.Minute}.Plan(10 * time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	o := keyring.Options{Issuer: issuerURL, Initialize: true}
	if len(files) > 0 {
		o.SigningKeys = load(t, files...)
	}
	r, err := keyring.New(plan, store, o)
	if err != nil {
		t.Fatal(err)
	}
	return r, store
}

func listed(t *testing.T, r *keyring.Ring) []keyring.KeyInfo {
	t.Helper()
	keys, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func ringIssuer(t *testing.T, r *keyring.Ring) *token.Issuer {
	t.Helper()
	i := newIssuer(t, issuerURL, r)
	i.Now = nil
	return i
}

func TestAnIssuerWithoutAKeySetSignsAndPublishesNothing(t *testing.T) {
	r, _ := newRing(t, keyring.ES256)
	i := ringIssuer(t, r)
	if i.Discovery().Body != nil || i.JWKS().Body != nil {
		t.Errorf("published: %s, %s", i.Discovery().Body, i.JWKS().Body)
	}
	in := attesttest.Instance(t)
	if tok, err := i.Issue(t.Context(), attesttest.Identity(t, in, "web")); !errors.Is(err, keyring.ErrKeysStale) || tok.Compact != "" {
		t.Errorf("Issue = %+v, %v", tok, err)
	}
	if tok, err := i.IssueDocument(attesttest.Vouched(t, in), time.Minute); !errors.Is(err, keyring.ErrKeysStale) || tok.Compact != "" {
		t.Errorf("IssueDocument = %+v, %v", tok, err)
	}
	if r.Err() == nil {
		t.Error("what was not loaded is fresh")
	}
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Issue(t.Context(), attesttest.Identity(t, in, "web")); err != nil {
		t.Errorf("after the key set was loaded: %v", err)
	}
	if !strings.Contains(string(i.JWKS().Body), listed(t, r)[1].KeyID) || !strings.Contains(string(i.Discovery().Body), `"id_token_signing_alg_values_supported":["ES256"]`) {
		t.Errorf("published: %s, %s", i.Discovery().Body, i.JWKS().Body)
	}
}

func TestAnIssuerNeedsTheKeySetOfItsOwn(t *testing.T) {
	r, _ := newRing(t, keyring.ES256)
	_, err := token.NewIssuer(plan(t, issuerURL+"/b", nil), r, nil)
	if err == nil || !strings.Contains(err.Error(), issuerURL) {
		t.Errorf("NewIssuer = %v", err)
	}
}

// The documents follow the key set, and tokens end when it is stale.
func TestAnIssuerFollowsItsKeySet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store := newRing(t, keyring.ES256)
		if err := r.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		i := ringIssuer(t, r)
		before := i.JWKS()
		if again := i.JWKS(); &again.Body[0] != &before.Body[0] {
			t.Error("the key set is rendered with each request")
		}
		identity := attesttest.Identity(t, attesttest.Instance(t), "web")
		doc := document(t, i, fullInstance(t))
		revoked := listed(t, r)[0].KeyID
		if err := r.Revoke(t.Context(), revoked); err != nil {
			t.Fatal(err)
		}
		if after := i.JWKS(); strings.Contains(string(after.Body), revoked) || after.ETag == before.ETag {
			t.Errorf("after the revocation: %s", after.Body)
		}
		if _, err := i.VerifyDocument(doc.Compact); !errors.As(err, new(*attest.Denied)) {
			t.Errorf("a document of the revoked key: %v", err)
		}
		store.away.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(4 * time.Minute) //nolint:forbidigo // the bubble's time
		if _, err := i.Issue(t.Context(), identity); err != nil {
			t.Errorf("within maxAge: %v", err)
		}
		served := i.JWKS()
		time.Sleep(2 * time.Minute) //nolint:forbidigo // as above
		if _, err := i.Issue(t.Context(), identity); !errors.Is(err, keyring.ErrKeysStale) {
			t.Errorf("after maxAge: %v", err)
		}
		if now := i.JWKS(); string(now.Body) != string(served.Body) || len(i.Discovery().Body) == 0 {
			t.Error("the key set is no longer served")
		}
		store.away.Store(false)
		time.Sleep(21 * time.Second) //nolint:forbidigo // as above; its own confirmation counts when it is found again
		if _, err := i.Issue(t.Context(), identity); err != nil {
			t.Errorf("after the state is back: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFilesSignWithAStateThatIsAway(t *testing.T) {
	r, store := newRing(t, keyring.RS256, keyringtest.EC(t, elliptic.P256()))
	store.away.Store(true)
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := ringIssuer(t, r)
	if _, err := i.Issue(t.Context(), attesttest.Identity(t, attesttest.Instance(t), "web")); err != nil {
		t.Error(err)
	}
	if i.MaxAge() != 5*time.Minute {
		t.Errorf("MaxAge is %v", i.MaxAge())
	}
}

// told is keys that note how long tokens will live.
type told struct {
	token.KeySource
	life *time.Duration
}

func (k told) WillIssue(life time.Duration) { *k.life = life }

func TestAnIssuerTellsHowLongTokensLive(t *testing.T) {
	long, life := 3*time.Hour, time.Duration(0)
	keys := told{load(t, keyringtest.EC(t, elliptic.P256())), &life}
	if _, err := token.NewIssuer(plan(t, issuerURL, map[string]token.RoleConfig{"web": {TokenExpiry: &long}}), keys, nil); err != nil {
		t.Fatal(err)
	}
	if life != long {
		t.Errorf("tokens live for %v, the keys were told %v", long, life)
	}
}
