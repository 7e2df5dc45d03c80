package ha_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

const limit = 3 // in config.yml

// The site is set up as the README says, with either HAProxy, and then lives
// through what the README has commands for.
func TestHighAvailability(t *testing.T) {
	needTools(t)
	bin := filepath.Join(t.TempDir(), program)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/"+program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ran := newRuns(t)
	t.Run("HAProxy", func(t *testing.T) {
		for _, via := range []string{"header", "protocol"} {
			t.Run(via, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, bin, ran)
				s.setUp(t, via)
				parts := []part{
					{"both replicas issue", s.testBothIssue},
					{"only its own address", s.testAddress},
					{"one count for both", s.testLimit},
					{"a replica is killed", s.testKilled},
				}
				if via == "header" {
					parts = append(parts,
						part{"denied on one, refused by both", s.testDeny}, part{"a replica is restarted", s.testRestart},
						part{"Redis is restarted", s.testRedisRestart}, part{"Redis lost everything", s.testRedisLost}, part{"backup and restore", s.testRestore})
				} else {
					parts = append(parts, part{"an upgrade", s.testUpgrade}, part{"another encryption key", s.testEncryptionKey})
				}
				for _, p := range parts { // each needs those before it
					if !t.Run(p.name, p.run) {
						return
					}
				}
			})
		}
	})
	if !t.Failed() {
		ran.compare(t)
	}
}

type part struct {
	name string
	run  func(*testing.T)
}

// needTools skips where Redis or HAProxy is missing, but not in CI, where that
// would hide that nothing is tried.
func needTools(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, tool := range []string{"haproxy", "redis-server", "redis-cli", "openssl", "curl", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
}

// setUp follows the README from its top.
func (s *site) setUp(t *testing.T, via string) {
	t.Helper()
	const heading = "Set up"
	s.readme(t, one, heading, "umask 077")
	s.readme(t, one, heading, "mkdir trial")
	s.readme(t, redis, heading, "sha256()")
	for _, m := range []string{one, two} {
		s.readme(t, m, heading, "cp example/ha/config.yml")
	}
	s.readme(t, two, heading, "sed -i 's/192.0.2.11/")
	if via == "protocol" {
		s.readme(t, one, heading, "sed -i 's/via: header/")
		s.readme(t, two, heading, "sed -i 's/via: header/")
	}
	for _, m := range []string{one, two} {
		s.readme(t, m, heading, "openstack-nova-authenticator check")
	}
	s.readme(t, one, heading, "openstack-nova-authenticator keys init")
	if via == "protocol" {
		s.readme(t, lb, heading, "cp example/ha/haproxy-tcp.cfg")
	} else {
		s.readme(t, lb, heading, "cat server.pem server-key.pem")
	}
	awaittest.True(t, "two healthy replicas", func() bool { return s.ready(one) && s.ready(two) })
	if got := s.readme(t, one, heading, "curl -sS --cacert ca.pem"); !strings.Contains(got, `"kid"`) {
		t.Fatalf("the key set is %s", got)
	}
}

// ready is whether a replica could issue.
func (s *site) ready(machine string) bool {
	resp, err := http.Get("http://" + s.address(machine, "18776") + "/readyz/auth")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// client speaks from an instance's address to the name in the certificate.
func (s *site) client(t *testing.T, from netip.Addr) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	dialer := &net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: service}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", s.address(lb, "443"))
		},
	}
	return &http.Client{Timeout: 30 * time.Second, Transport: transport}
}

// ask asks for a token, and gives the status and the token.
func (s *site) ask(t *testing.T, from netip.Addr, id string) (int, string) {
	t.Helper()
	resp, err := s.client(t, from).PostForm("https://"+service+"/auth", url.Values{"instance_id": {id}, "role": {"web"}})
	if err != nil {
		t.Errorf("%s: %v", id, err)
		return 0, ""
	}
	defer resp.Body.Close()
	var granted struct{ Token string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&granted); err != nil {
		t.Errorf("%s: %d, %v", id, resp.StatusCode, err)
	}
	return resp.StatusCode, granted.Token
}

// verify has the token looked at with the key set as HAProxy serves it.
func (s *site) verify(t *testing.T, token string) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), s.client(t, netip.MustParseAddr("127.0.0.1")))
	provider, err := oidc.NewProvider(ctx, "https://"+service)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: "https://" + service + "/roles/web"}).Verify(ctx, token); err != nil {
		t.Errorf("the token does not verify: %v", err)
	}
}

func (s *site) testBothIssue(t *testing.T) {
	awaittest.True(t, "tokens of both", func() bool {
		i := s.newInstance()
		if status, token := s.ask(t, i.addr, i.id); status != http.StatusOK {
			return false
		} else { //nolint:revive // the token is of this scope
			s.verify(t, token)
		}
		return len(s.granted(t, one)) > 0 && len(s.granted(t, two)) > 0
	})
}

func (s *site) granted(t *testing.T, machine string) (ids []string) {
	t.Helper()
	for _, d := range s.decisions(t, machine) {
		if d.Outcome == "granted" {
			ids = append(ids, d.Instance)
		}
	}
	return ids
}

func (s *site) testAddress(t *testing.T) {
	i, other := s.newInstance(), s.newInstance()
	for range 4 { // both replicas
		if status, _ := s.ask(t, other.addr, i.id); status != http.StatusForbidden {
			t.Errorf("from another's address: %d", status)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+service+"/auth", strings.NewReader("instance_id="+i.id+"&role=web"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Forwarded-For", i.addr.String())
	resp, err := s.client(t, other.addr).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("with a header of its own: %d", resp.StatusCode)
	}
	if status, _ := s.ask(t, i.addr, i.id); status != http.StatusOK {
		t.Errorf("from its own: %d", status)
	}
}

// Twelve at a time, of which as many are granted as one replica would.
func (s *site) testLimit(t *testing.T) {
	i := s.newInstance()
	var granted atomic.Int64
	var asking sync.WaitGroup
	for range 12 {
		asking.Go(func() {
			if status, _ := s.ask(t, i.addr, i.id); status == http.StatusOK {
				granted.Add(1)
			} else if status != http.StatusForbidden {
				t.Errorf("status %d", status)
			}
		})
	}
	asking.Wait()
	if granted.Load() != limit {
		t.Errorf("%d were granted, want %d", granted.Load(), limit)
	}
}

// A replica dies under load: a client that got no answer asks again and gets one,
// and the count is what it would have been.
func (s *site) testKilled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var lost, served atomic.Int64
	var mu sync.Mutex
	tries := map[string]int{} // by instance
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				i := s.newInstance()
				status, err := s.once(t, i)
				n := 1
				// The replica had it when it died: the instance asks again, as curl
				// --retry does, and may meet the dead once more.
				for ; err != nil && n < 4; n++ {
					lost.Add(1)
					status, err = s.once(t, i)
				}
				if err != nil || status != http.StatusOK {
					t.Errorf("%s: %d, %v", i.id, status, err)
				}
				mu.Lock()
				tries[i.id] = n
				mu.Unlock()
				served.Add(1)
			}
		})
	}
	awaittest.True(t, "load", func() bool { return served.Load() > 50 })
	s.units[one].kill()
	before := served.Load()
	awaittest.True(t, "more load", func() bool { return served.Load() > before+100 })
	cancel()
	load.Wait()
	if lost.Load() > 16 {
		t.Errorf("%d answers were lost, of 8 that could be under way", lost.Load())
	}
	t.Logf("%d were served, %d of them by asking again", served.Load(), lost.Load())
	// Each attempt that was answered is counted, and none twice, whatever HAProxy
	// tried again; one that got lost may or may not be.
	counts := s.counts(t, two)
	for id, n := range tries {
		if got := counts[id]; got < 1 || got > n {
			t.Errorf("%s asked %d times, and %d are counted", id, n, got)
		}
	}
	if err := s.units[one].start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaittest.True(t, "the replica again", func() bool { return s.ready(one) })
}

// counts are the attempts of each instance, as a replica knows them.
func (s *site) counts(t *testing.T, machine string) map[string]int {
	t.Helper()
	var list struct {
		Instances []struct {
			ID      string `json:"instance_id"`
			Windows []struct {
				Attempts int `json:"attempts"`
			} `json:"windows"`
		} `json:"instances"`
	}
	if err := json.Unmarshal([]byte(s.sh(t, machine, program+" instances list --json")), &list); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, i := range list.Instances {
		for _, w := range i.Windows {
			counts[i.ID] += w.Attempts
		}
	}
	return counts
}

// once asks without a word about what goes wrong; a 502 of HAProxy's is an answer
// that was lost.
func (s *site) once(t *testing.T, i instance) (int, error) {
	resp, err := s.client(t, i.addr).PostForm("https://"+service+"/auth", url.Values{"instance_id": {i.id}, "role": {"web"}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	if resp.StatusCode == http.StatusBadGateway {
		return 0, errors.New("502")
	}
	return resp.StatusCode, nil
}

func (s *site) testDeny(t *testing.T) {
	i := s.newInstance()
	if status, _ := s.ask(t, i.addr, i.id); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	s.sh(t, one, program+" instances deny "+i.id+" --reason test")
	began := time.Now()
	for n := 0; n < 4; n++ { // both replicas
		if status, _ := s.ask(t, i.addr, i.id); status != http.StatusForbidden {
			if time.Since(began) > time.Second {
				t.Fatalf("still %d after a second", status)
			}
			n = -1
		}
	}
	s.sh(t, two, program+" instances allow "+i.id)
	if status, _ := s.ask(t, i.addr, i.id); status != http.StatusOK {
		t.Errorf("allowed again: %d", status)
	}
}

// loaded calls what, while instances ask, and fails if one of them is not served.
func (s *site) loaded(t *testing.T, what func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				i := s.newInstance()
				if status, _ := s.ask(t, i.addr, i.id); status != http.StatusOK {
					t.Errorf("%s: %d", i.id, status)
				}
			}
		})
	}
	what()
	cancel()
	load.Wait()
}

func (s *site) testRestart(t *testing.T) {
	s.loaded(t, func() { s.readme(t, one, "Restart a replica", "") })
	awaittest.True(t, "the replica again", func() bool { return s.ready(one) })
}

func (s *site) testUpgrade(t *testing.T) {
	for _, m := range []string{one, two} {
		s.loaded(t, func() { s.readme(t, m, "Upgrade", "") })
		awaittest.True(t, m, func() bool { return s.ready(m) })
	}
}

// While Redis is away there are no tokens, but the key set; what was counted is
// still counted after it.
func (s *site) testRedisRestart(t *testing.T) {
	i := s.newInstance()
	_, token := s.ask(t, i.addr, i.id)
	if err := s.units[redis].stop(); err != nil {
		t.Fatal(err)
	}
	if status, got := s.ask(t, i.addr, i.id); status != http.StatusServiceUnavailable || got != "" {
		t.Errorf("without Redis: %d", status)
	}
	s.verify(t, token)
	s.readme(t, redis, "Restart Redis", "")
	awaittest.True(t, "tokens again", func() bool {
		j := s.newInstance()
		status, _ := s.ask(t, j.addr, j.id)
		return status == http.StatusOK
	})
	granted := 1
	for range limit + 1 {
		if status, _ := s.ask(t, i.addr, i.id); status == http.StatusOK {
			granted++
		}
	}
	if granted != limit {
		t.Errorf("%d were granted in all, want %d", granted, limit)
	}
}

func (s *site) testRedisLost(t *testing.T) {
	i := s.newInstance()
	_, token := s.ask(t, i.addr, i.id)
	s.redisCLI(t, "FLUSHALL")
	if status, _ := s.ask(t, i.addr, i.id); status != http.StatusServiceUnavailable {
		t.Errorf("with an empty Redis: %d", status)
	}
	s.verify(t, token)
	s.readme(t, one, "Redis lost what it held", "")
	awaittest.True(t, "tokens again", func() bool {
		j := s.newInstance()
		status, got := s.ask(t, j.addr, j.id)
		if status == http.StatusOK {
			s.verify(t, got)
		}
		return status == http.StatusOK
	})
	s.verify(t, token) // by the same keys
}

func (s *site) redisCLI(t *testing.T, command string) {
	t.Helper()
	s.sh(t, redis, fmt.Sprintf("REDISCLI_AUTH=$(cat redis-admin.password) redis-cli -h %s -p %s --user admin --no-auth-warning %s", s.host(redis), s.ports["6379"], command))
}

// A backup brings back neither a denial that was ended since nor a time without one:
// the replicas that run have the newer list.
func (s *site) testRestore(t *testing.T) {
	i, late := s.newInstance(), s.newInstance()
	s.sh(t, one, program+" instances deny "+i.id)
	s.readme(t, redis, "Backup and restore", "umask 077")
	s.sh(t, one, program+" instances allow "+i.id)
	s.sh(t, one, program+" instances deny "+late.id)
	s.readme(t, redis, "Backup and restore", "systemctl stop")
	awaittest.True(t, "the denial of after the backup", func() bool {
		status, _ := s.ask(t, late.addr, late.id)
		return status == http.StatusForbidden
	})
	awaittest.True(t, "a token for the instance that was allowed again", func() bool {
		status, _ := s.ask(t, i.addr, i.id)
		return status == http.StatusOK
	})
	j := s.newInstance()
	if status, token := s.ask(t, j.addr, j.id); status != http.StatusOK {
		t.Errorf("another: %d", status)
	} else {
		s.verify(t, token)
	}
}

func (s *site) testEncryptionKey(t *testing.T) {
	const heading = "Change the encryption key"
	i := s.newInstance()
	_, token := s.ask(t, i.addr, i.id)
	s.readme(t, one, heading, "umask 077")
	for _, step := range []string{"cp encryption-next.key", "sed -i 's/encryptionKeyFile: .*/encryptionKeyFile: [encryption-next.key, encryption.key]/'", "sed -i 's/encryptionKeyFile: .*/encryptionKeyFile: [encryption-next.key]/'"} {
		for _, m := range []string{one, two} {
			s.loaded(t, func() { s.readme(t, m, heading, step) })
			awaittest.True(t, m, func() bool { return s.ready(m) })
		}
	}
	s.verify(t, token)
}
