package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
)

// A file that other users can read is a problem or a warning. One that they can change is a
// problem if that gives them tokens.
func TestFilesOfSecretsMustBeClosed(t *testing.T) {
	const (
		managed  = "listen: 127.0.0.1:0\nauth: {tokenIssuer: https://id.example.com}\nkeys: {encryptionKeyFile: encryption.key}\n"
		own      = "listen: 127.0.0.1:0\nauth: {tokenIssuer: https://id.example.com, signingKeyFile: signing-key.pem}\nstate: {type: memory}\n"
		redis    = managed + "state: {type: redis, redis: {passwordFile: word.secret}}\n"
		metadata = own + "tls: {certFile: server.pem, keyFile: server-key.pem}\nmetadataService: {listen: 127.0.0.1:0, sharedSecretFile: metadata.secret, agents: 127.0.0.1,\n  tls: {certFile: server.pem, keyFile: server-key.pem, clientCAFile: ca.pem}}\n"
	)
	read := func(file, harm string) string {
		return "every user of this host can read " + file + " (mode MODE), and then " + harm + "; correct that with: chmod o= " + file
	}
	change := func(file string) string {
		return "every user of this host can change " + file + " (mode MODE); correct that with: chmod o= " + file
	}
	replace := func(file, folder string) string {
		return "every user of this host can replace " + file + ", because all can write to " + folder + "; correct that with: chmod o-w " + folder
	}
	chmod := func(mode os.FileMode, names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, tt := range []struct {
		name, text       string
		edit             func(*testing.T, string)
		refused, warning []string
	}{
		{"all closed", managed, chmod(0o600), nil, nil},
		{"encryption key that all can read", managed, chmod(0o644, "encryption.key"), []string{"keys.encryptionKeyFile: " + read("DIR/encryption.key", "decrypt the signing keys")}, nil},
		{"encryption key that others than the group can read", managed, chmod(0o604, "encryption.key"), []string{"keys.encryptionKeyFile: " + read("DIR/encryption.key", "decrypt the signing keys")}, nil},
		{"encryption key that the group can read", managed, chmod(0o640, "encryption.key"), nil, nil},
		{"encryption key that all can write", managed, chmod(0o602, "encryption.key"), []string{"keys.encryptionKeyFile: " + change("DIR/encryption.key")}, nil},
		{"encryption key that the group can write", managed, chmod(0o660, "encryption.key"), nil, []string{"keys.encryptionKeyFile: the group of DIR/encryption.key can change it (mode 0660); correct that with: chmod g-w DIR/encryption.key"}},
		{"link to an encryption key that all can read", managed, func(t *testing.T, dir string) {
			link(t, dir, "encryption.key", 0o644)
		}, []string{"keys.encryptionKeyFile: " + read("DIR/encryption.key", "decrypt the signing keys")}, nil},
		{"encryption key in a folder that all can write to", managed, chmod(0o777, ""), []string{"keys.encryptionKeyFile: " + replace("DIR/encryption.key", "DIR")}, nil},
		{"link to an encryption key in a folder that all can write to", managed, func(t *testing.T, dir string) {
			link(t, dir, "encryption.key", 0o600)
			chmod(0o777, "data")(t, dir)
		}, []string{"keys.encryptionKeyFile: " + replace("DIR/encryption.key", "DIR/data")}, nil},
		{"folder as /tmp is", managed, chmod(0o777|os.ModeSticky, ""), nil, nil},
		{"signing key that a Kubernetes secret has", own, func(t *testing.T, dir string) {
			link(t, dir, "signing-key.pem", 0o644)
			chmod(0o777|os.ModeSticky, "")(t, dir)
		}, nil, []string{"auth.signingKeyFile: " + read("DIR/signing-key.pem", "sign any token")}},
		{"signing key that all can write", own, chmod(0o666, "signing-key.pem"), []string{"auth.signingKeyFile: " + change("DIR/signing-key.pem")}, nil},
		{"signing key that all can replace", own, chmod(0o777, ""), []string{"auth.signingKeyFile: " + replace("DIR/signing-key.pem", "DIR")}, nil},
		{"configuration that all can write", own, chmod(0o666, "config.yml"), nil, []string{change("DIR/config.yml")}},
		{"configuration that all can read", own, chmod(0o644, "config.yml"), nil, nil},
		{"password that all can read", redis, chmod(0o644, "word.secret"), nil, []string{"state.redis.passwordFile: " + read("DIR/word.secret", "reset the attempts of instances")}},
		{"shared secret that all can read", metadata, chmod(0o644, "metadata.secret"), nil, []string{"metadataService.sharedSecretFile: " + read("DIR/metadata.secret", "get the tokens of any instance")}},
		{"shared secret that all can write", metadata, chmod(0o622, "metadata.secret"), []string{"metadataService.sharedSecretFile: " + change("DIR/metadata.secret")}, nil},
		{"CA of the agents that all can write", metadata, chmod(0o666, "ca.pem"), []string{"metadataService.tls.clientCAFile: " + change("DIR/ca.pem")}, nil},
		{"certificates that all can read", metadata, chmod(0o644, "ca.pem", "server.pem"), nil, nil},
		{"certificate that all can write", metadata, chmod(0o666, "server.pem"), nil, []string{"tls.certFile: " + change("DIR/server.pem"), "metadataService.tls.certFile: " + change("DIR/server.pem")}},
		{"key of the certificate that all can read", metadata, chmod(0o644, "server-key.pem"), nil, []string{
			"tls.keyFile: " + read("DIR/server-key.pem", "impersonate this server"),
			"metadataService.tls.keyFile: " + read("DIR/server-key.pem", "impersonate this server to metadata agents"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := newDir(t)
			ca, err := os.ReadFile(filepath.Join(dir, "server.pem"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "ca.pem"), ca)
			write(t, filepath.Join(dir, "word.secret"), []byte("word\n"))
			file := filepath.Join(dir, "config.yml")
			write(t, file, []byte(tt.text+roles))
			tt.edit(t, dir)

			told := func(list []config.Problem) (all []string) {
				for _, p := range list {
					p.Line = 0
					text := strings.ReplaceAll(p.String(), dir, "DIR")
					if i := strings.Index(text, "(mode "); i > 0 && !strings.Contains(text, "the group") {
						text = text[:i] + "(mode MODE" + text[i+len("(mode 0000"):]
					}
					all = append(all, text)
				}
				return all
			}
			c, err := config.Load(file)
			var p *config.Problems
			if errors.As(err, &p) {
				if diff := cmp.Diff(tt.refused, told(p.List)); diff != "" {
					t.Errorf("the problems differ (-want +got):\n%s", diff)
				}
				return
			}
			if err != nil || tt.refused != nil {
				t.Fatalf("Load = %v, want %q", err, tt.refused)
			}
			if diff := cmp.Diff(tt.warning, told(c.Warnings())); diff != "" {
				t.Errorf("the warnings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// link moves a file to another folder and links to it, as Kubernetes does.
func link(t *testing.T, dir, name string, mode os.FileMode) {
	t.Helper()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, name), filepath.Join(data, name)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(data, name), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("data", name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}
