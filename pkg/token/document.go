package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// A document differs from a token of a role in algorithm, typ and audience, so that neither
// can be used as the other (RFC 8725, section 3.12).
const (
	documentType      = "openstack-instance-document+jwt"
	documentAlgorithm = "HS256"
	// maxDocument is the longest document that is parsed, in bytes.
	maxDocument = 4 << 10
)

// CheckDocumentExpiry returns an error unless a document may live for d.
func CheckDocumentExpiry(d time.Duration) error { return checkRange(d, minExpiry, time.Hour) }

type documentClaims struct {
	jwt.RegisteredClaims
	ProjectID string `json:"project_id"`
	ImageID   string `json:"image_id"`
	Launched  string `json:"launched_at"` // RFC 3339, "" while a launch is under way
}

// IssueDocument returns a document of an instance that Nova vouched for.
func (i *Issuer) IssueDocument(v attest.Vouched, life time.Duration) (Token, error) {
	if v.IsZero() {
		return Token{}, errNothingProven
	}
	if err := i.keys.Usable(); err != nil {
		return Token{}, err
	}
	in, now, issuer := v.Instance(), i.now().Truncate(time.Second), i.plan.issuer.String()
	t := Token{ID: rand.Text(), Expires: now.Add(life).Truncate(time.Second).UTC()}
	claims := documentClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: in.ID.String(), Audience: jwt.ClaimStrings{issuer}, ID: t.ID,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(t.Expires),
		},
		ProjectID: in.ProjectID, ImageID: in.ImageID,
	}
	if at := v.Launched(); !at.IsZero() {
		claims.Launched = at.UTC().Format(time.RFC3339Nano)
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	unsigned.Header["typ"] = documentType
	secrets := i.current().documents
	if len(secrets) == 0 {
		return Token{}, errNoKey
	}
	var err error
	if t.Compact, err = unsigned.SignedString(secrets[0]); err != nil {
		return Token{}, fmt.Errorf("sign a document: %w", err)
	}
	return t, nil
}

// VerifyDocument implements [attest.Verifier]. Whether the document is still about the
// instance, as Nova knows it now, attest decides.
func (i *Issuer) VerifyDocument(compact string) (attest.Document, error) {
	if err := i.keys.Usable(); err != nil {
		return attest.Document{}, err
	}
	invalid := func(err error) (attest.Document, error) {
		return attest.Document{}, &attest.Denied{Reason: attest.DocumentInvalid, Detail: "the document is not valid: " + err.Error()}
	}
	if len(compact) > maxDocument {
		return invalid(fmt.Errorf("it is longer than %d bytes", maxDocument))
	}
	var claims documentClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{documentAlgorithm}), jwt.WithIssuer(i.plan.issuer.String()), jwt.WithAudience(i.plan.issuer.String()),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(i.now), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(compact, &claims, func(t *jwt.Token) (any, error) {
		if t.Header["typ"] != documentType {
			return nil, fmt.Errorf("its typ is %q", t.Header["typ"])
		}
		var set jwt.VerificationKeySet
		for _, secret := range i.current().documents {
			set.Keys = append(set.Keys, secret)
		}
		return set, nil
	})
	if err != nil {
		return invalid(err)
	}
	d := attest.Document{ID: claims.ID, ProjectID: claims.ProjectID, ImageID: claims.ImageID, Expires: claims.ExpiresAt.Time}
	if claims.IssuedAt == nil || d.ID == "" {
		return invalid(errors.New("it lacks a claim"))
	}
	d.Issued = claims.IssuedAt.Time
	if d.Instance, err = attest.ParseInstanceID(claims.Subject); err != nil {
		return invalid(err)
	}
	if claims.Launched != "" {
		if d.Launched, err = time.Parse(time.RFC3339Nano, claims.Launched); err != nil {
			return invalid(err)
		}
	}
	return d, nil
}

// IssueVouched signs a token without a role for an instance that Nova vouched for.
func (i *Issuer) IssueVouched(v attest.Vouched, audiences []string) (Token, error) {
	if v.IsZero() || len(audiences) == 0 {
		return Token{}, errNothingProven
	}
	if err := v.MayHaveToken(); err != nil {
		return Token{}, err
	}
	if err := i.keys.Usable(); err != nil {
		return Token{}, err
	}
	in := v.Instance()
	var aud any = audiences
	if len(audiences) == 1 {
		aud = audiences[0]
	}
	claims := jwt.MapClaims{"sub": in.ID.String(), "aud": aud, "amr": []attest.Proof{attest.ProofVendordata}}
	return i.sign(claims, in, profile{expiry: i.plan.expiry})
}
