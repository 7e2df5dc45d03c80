// Package minio_test takes S3 credentials for our tokens from a real MinIO.
package minio_test

import (
	"bytes"
	"crypto/sha1" // MinIO names a role with it
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const (
	audience = "https://minio.example.com"
	rootUser = "root-of-the-test"
	rootWord = "word-of-the-test"
	bucket   = "instances"
)

func TestMinIO(t *testing.T) {
	i := consumertest.Start(t, "", "  app: {allowAnyInstance: true, audience: ["+audience+"]}\n  elsewhere: {allowAnyInstance: true}\n")
	s := start(t, i)
	root := s.client(t, credentials.NewStaticV4(rootUser, rootWord, ""))
	if err := root.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}

	good := i.Token(t, "app", "")
	value, err := s.assume(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(value.Expiration); left < 14*time.Minute || left > 15*time.Minute {
		t.Errorf("the credentials are good for %v, want a quarter of an hour", left)
	}
	instance := s.client(t, credentials.NewStaticV4(value.AccessKeyID, value.SecretAccessKey, value.SessionToken))
	put := func(name string) error {
		_, err := instance.PutObject(t.Context(), bucket, name, bytes.NewReader([]byte("hello")), 5, minio.PutObjectOptions{})
		return err
	}
	if err := put(consumertest.Instance + "/state"); err != nil {
		t.Errorf("to its own folder: %v", err)
	}
	object, err := instance.GetObject(t.Context(), bucket, consumertest.Instance+"/state", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(object); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := put("another/state"); !denied(err) {
		t.Errorf("to another folder: %v, want AccessDenied", err)
	}

	bad := i.Bad(t, good)
	bad["another role's"] = i.Token(t, "elsewhere", "")
	for name, token := range bad {
		_, err := s.assume(t, token)
		// MinIO does not check iss: an issuer with the key may have any name. See README.md.
		if accepted := name == "another issuer"; (err == nil) != accepted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type server struct {
	address string
	policy  string
}

func start(t *testing.T, i *consumertest.Issuer) server {
	t.Helper()
	binary, err := filepath.Abs("minio")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("SKIPPED: MinIO is not built here: run ./build")
	}
	policy, err := os.ReadFile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, "CAs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "CAs", "issuer.pem"), i.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	s := server{address: "127.0.0.1:" + consumertest.FreePort(t), policy: string(policy)}
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, "server", "--address", s.address, "--console-address", "127.0.0.1:"+consumertest.FreePort(t),
		"--certs-dir", certs, t.TempDir())
	cmd.Env = append(os.Environ(),
		"MINIO_ROOT_USER="+rootUser, "MINIO_ROOT_PASSWORD="+rootWord,
		"MINIO_IDENTITY_OPENID_CONFIG_URL="+i.URL+"/.well-known/openid-configuration",
		"MINIO_IDENTITY_OPENID_CLIENT_ID="+audience,
		"MINIO_IDENTITY_OPENID_ROLE_POLICY=readwrite",
		"MINIO_UPDATE=off", "MINIO_BROWSER=off", "NO_PROXY=*", "HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("MinIO said\n%s", &log)
		}
	})
	consumertest.Await(t, "MinIO", func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+"/minio/health/ready", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

func (s server) client(t *testing.T, c *credentials.Credentials) *minio.Client {
	t.Helper()
	client, err := minio.New(s.address, &minio.Options{Creds: c})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// assume is AssumeRoleWithWebIdentity, as an instance calls it.
func (s server) assume(t *testing.T, token string) (credentials.Value, error) {
	t.Helper()
	sum := sha1.Sum([]byte(audience)) // MinIO prints it when it starts
	sts, err := credentials.NewSTSWebIdentity("http://"+s.address, func() (*credentials.WebIdentityToken, error) {
		return &credentials.WebIdentityToken{Token: token, Expiry: 900}, nil
	}, func(i *credentials.STSWebIdentity) {
		i.RoleARN = "arn:minio:iam:::role/" + base64.RawURLEncoding.EncodeToString(sum[:])
		i.Policy = s.policy
	})
	if err != nil {
		t.Fatal(err)
	}
	return sts.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: 30 * time.Second}})
}

func denied(err error) bool {
	var response minio.ErrorResponse
	return errors.As(err, &response) && response.Code == "AccessDenied"
}
