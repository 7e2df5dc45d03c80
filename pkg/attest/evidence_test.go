package attest_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

func TestAddressProof(t *testing.T) {
	tests := []struct {
		name string
		has  []string // the instance's addresses
		from string   // where the caller speaks from
		want bool
	}{
		{"the neighbor", []string{"10.20.0.11"}, "10.20.0.12", false},
		{"the first letters of the instance's", []string{"10.20.0.11"}, "10.20.0.1", false},
		{"the instance's and a digit more", []string{"10.20.0.11"}, "10.20.0.110", false},
		{"the last letters of the instance's", []string{"10.20.0.11"}, "0.20.0.11", false},
		{"an IPv6 address that ends in the IPv4 one", []string{"10.20.0.11"}, "::10.20.0.11", false},
		{"an IPv6 address that translates to the IPv4 one", []string{"10.20.0.11"}, "64:ff9b::10.20.0.11", false},
		{"the neighbor, IPv4 in IPv6", []string{"10.20.0.11"}, "::ffff:10.20.0.12", false},
		{"the same subnet of IPv6", []string{"2001:db8::b"}, "2001:db8::c", false},
		{"an instance without addresses", nil, "10.20.0.11", false},

		{"link-local, though listed", []string{"169.254.0.5"}, "169.254.0.5", false},
		{"link-local, IPv4 in IPv6, though listed", []string{"169.254.0.5"}, "::ffff:169.254.0.5", false},
		{"link-local IPv6, though listed", []string{"fe80::5"}, "fe80::5", false},
		{"link-local IPv6 with a zone, though listed", []string{"fe80::5"}, "fe80::5%eth0", false},
		{"multicast, though listed", []string{"224.0.0.5"}, "224.0.0.5", false},
		{"wider multicast, though listed", []string{"239.1.2.3"}, "239.1.2.3", false},
		{"multicast IPv6, though listed", []string{"ff02::5"}, "ff02::5", false},
		{"wider multicast IPv6, though listed", []string{"ff0e::5"}, "ff0e::5", false},
		{"unspecified, though listed", []string{"0.0.0.0"}, "0.0.0.0", false},
		{"unspecified IPv6, though listed", []string{"::"}, "::", false},
		{"unspecified, IPv4 in IPv6, though listed", []string{"0.0.0.0"}, "::ffff:0.0.0.0", false},
		{"broadcast, though listed", []string{"255.255.255.255"}, "255.255.255.255", false},
		{"broadcast, IPv4 in IPv6, though listed", []string{"255.255.255.255"}, "::ffff:255.255.255.255", false},

		{"the only one", []string{"10.20.0.11"}, "10.20.0.11", true},
		{"the last of several", []string{"10.20.0.11", "2001:db8::b", "203.0.113.7"}, "203.0.113.7", true},
		{"the caller's is IPv4 in IPv6", []string{"10.20.0.11"}, "::ffff:10.20.0.11", true},
		{"the cloud's is IPv4 in IPv6", []string{"::ffff:10.20.0.11"}, "10.20.0.11", true},
		{"IPv4 in IPv6 in hexadecimal", []string{"10.20.0.11"}, "::ffff:0a14:000b", true},
		{"the caller's has a zone", []string{"2001:db8::b"}, "2001:db8::b%eth0", true},
		{"the cloud's has a zone", []string{"2001:db8::b%eth0"}, "2001:db8::b", true},
		{"another spelling of IPv6", []string{"2001:db8::b"}, "2001:0DB8:0:0:0:0:0:000B", true},
		{"IPv6 that ends as IPv4 does", []string{"2001:db8::a14:b"}, "2001:db8::10.20.0.11", true},
		{"a unique local address", []string{"fd00::b"}, "fd00::b", true},
		{"next to link-local", []string{"169.253.255.255"}, "169.253.255.255", true},
		{"next to multicast", []string{"223.255.255.255"}, "223.255.255.255", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.instance.Addresses = at(tt.has...)
			s.evidence = attest.FromAddress(netip.MustParseAddr(tt.from))
			want := no(attest.AddressMismatch)
			if tt.want {
				want = granted
			}
			if got := s.ask(t); got != want {
				t.Errorf("from %s to an instance with %v: %s, want %s", tt.from, tt.has, got, want)
			}
		})
		t.Run(tt.name+", but only the balancer was seen", func(t *testing.T) {
			s := newScene(t)
			s.instance.Addresses = at(tt.has...)
			s.evidence = attest.FromIntermediary(netip.MustParseAddr(tt.from), "it sent none")
			if got, want := s.ask(t), no(attest.AddressMismatch); got != want {
				t.Errorf("from %s to an instance with %v: %s, want %s", tt.from, tt.has, got, want)
			}
		})
	}
}

// An address that could not be parsed must not equal another that could not.
func TestZeroValueEvidenceProvesNothing(t *testing.T) {
	for name, e := range map[string]attest.Evidence{
		"the zero value":            {},
		"of the zero address":       attest.FromAddress(netip.Addr{}),
		"of a balancer without one": attest.FromIntermediary(netip.Addr{}, ""),
	} {
		s := newScene(t)
		s.instance.Addresses = append(s.instance.Addresses, attest.Address{})
		s.evidence = e
		if got, want := s.ask(t), no(attest.AddressMismatch); got != want {
			t.Errorf("evidence %s: %s, want %s", name, got, want)
		}
	}
}

// Limits and logs go by the address: it must have one form.
func TestEvidenceHasACanonicalAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.20.0.11":                 "10.20.0.11",
		"::ffff:10.20.0.11":          "10.20.0.11",
		"::ffff:10.20.0.11%eth0":     "10.20.0.11",
		"2001:0DB8::000b%eth0":       "2001:db8::b",
		"::10.20.0.11":               "::a14:b",
		"fe80::f816:3eff:fe01:2%tap": "fe80::f816:3eff:fe01:2",
	} {
		addr, want := netip.MustParseAddr(in), netip.MustParseAddr(want)
		if got := attest.Canonical(addr); got != want {
			t.Errorf("Canonical(%s) = %s, want %s", in, got, want)
		}
		if got := attest.FromAddress(addr).Addr(); got != want {
			t.Errorf("FromAddress(%s).Addr() = %s, want %s", in, got, want)
		}
		if got := attest.FromIntermediary(addr, "").Addr(); got != want {
			t.Errorf("FromIntermediary(%s).Addr() = %s, want %s", in, got, want)
		}
	}
}

// A denial must not read as "you are at your address, and yet you are not".
func TestEvidenceSaysWhichAddressIsAProxys(t *testing.T) {
	addr := netip.MustParseAddr("::ffff:10.20.0.11")
	if got, want := attest.FromAddress(addr).String(), "10.20.0.11"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := attest.FromIntermediary(addr, "").String(), "10.20.0.11, a trusted proxy that named no client"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := attest.FromIntermediary(addr, "it sent none").String(), "10.20.0.11, a trusted proxy that named no client: it sent none"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Nova lists no address of an instance that it spawns, which may run already: whether
// the caller is at one of them will be seen.
func TestAddressOfAnInstanceThatIsBuilt(t *testing.T) {
	for _, tt := range []struct {
		name  string
		phase attest.Phase
		has   []attest.Address
		age   time.Duration
		want  string
	}{
		{"spawning, without an address yet", attest.PhaseSpawning, nil, 0, later(attest.InstanceChanging)},
		{"spawning, after the window", attest.PhaseSpawning, nil, time.Hour, no(attest.WindowClosed)},
		{"spawning, with another address", attest.PhaseSpawning, at("10.20.0.12"), 0, no(attest.AddressMismatch)},
		{"building: nothing runs yet", attest.PhaseBuilding, nil, 0, no(attest.AddressMismatch)},
		{"changing, without an address", attest.PhaseChanging, nil, 0, no(attest.AddressMismatch)},
		{"running, without an address", attest.PhaseRunning, nil, 0, no(attest.AddressMismatch)},
		{"inactive, without an address", attest.PhaseInactive, nil, 0, no(attest.AddressMismatch)},
	} {
		s := newScene(t)
		s.instance.Phase, s.instance.Addresses = tt.phase, tt.has
		s.instance.Created = s.instance.Created.Add(-tt.age)
		if got := s.ask(t); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
