package attest_test

import (
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const someID = "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21"

var instanceIDs = []struct {
	name, in, want string // want is empty for what is refused
}{
	{"one letter short", someID[:35], ""},
	{"one letter long", someID + "0", ""},
	{"a letter that is not hexadecimal", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2g", ""},
	{"a letter before a", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2`", ""},
	{"a letter before A", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2@", ""},
	{"a colon, which follows the 9", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2:", ""},
	{"a slash, which precedes the 0", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2/", ""},
	{"a dash one too early", "1b9c7a3-e4f0d-4c63-9d0e-0e8f6f3c5a21", ""},
	{"a dash one too late", "1b9c7a3e-4f0d-4c63-9d0e0-e8f6f3c5a21", ""},
	{"a dash more at the end", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2-", ""},
	{"another separator", "1b9c7a3e_4f0d-4c63-9d0e-0e8f6f3c5a21", ""},
	{"36 digits and no dash", strings.Repeat("0", 36), ""},
	{"36 dashes", strings.Repeat("-", 36), ""},
	{"without dashes", "1b9c7a3e4f0d4c639d0e0e8f6f3c5a21", ""},
	{"in braces", "{" + someID + "}", ""},
	{"as a URN", "urn:uuid:" + someID, ""},
	{"a space in front", " " + someID, ""},
	{"a space behind", someID + " ", ""},
	{"a space in place of a digit", " b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21", ""},
	{"a newline behind", someID + "\n", ""},
	{"a newline in place of the last digit", someID[:35] + "\n", ""},
	{"a NUL behind", someID + "\x00", ""},
	{"a NUL in place of the last digit", someID[:35] + "\x00", ""},
	{"empty", "", ""},
	{"another path of Nova", "detail", ""},
	{"another path of Nova, upwards", "../flavors", ""},
	{"another path of Nova, of 36 letters", "../os-hypervisors/00000000-0000-0000", ""},
	{"with a query", someID + "?x=1", ""},
	{"with a percent escape", "1b9c7a3e%2d4f0d-4c63-9d0e-0e8f6f3c5a", ""},
	{"300 letters", strings.Repeat("a", 300), ""},
	{"full-width digits, 36 bytes", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5１", ""},
	{"full-width digits, 36 characters", "１b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21", ""},
	{"Arabic digits, 36 bytes", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a٣", ""},
	{"what is no UTF-8", "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a2\xff", ""},

	{"as Nova writes it", someID, someID},
	{"in upper case", strings.ToUpper(someID), someID},
	{"in mixed case", "1B9c7A3e-4f0D-4C63-9d0E-0e8F6f3C5a21", someID},
	{"all zeros, which is no version of UUID", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"},
	{"the ends of the ranges", "09afAF90-0000-0000-0000-FAfa09090909", "09afaf90-0000-0000-0000-fafa09090909"},
}

func TestParseInstanceID(t *testing.T) {
	for _, tt := range instanceIDs {
		t.Run(tt.name, func(t *testing.T) {
			id, err := attest.ParseInstanceID(tt.in)
			if id.String() != tt.want {
				t.Errorf("ParseInstanceID(%q) = %q, want %q", tt.in, id, tt.want)
			}
			if id.IsZero() != (tt.want == "") {
				t.Errorf("ParseInstanceID(%q).IsZero() = %v", tt.in, id.IsZero())
			}
			if refused := err != nil && strings.HasPrefix(err.Error(), "an instance ID is a UUID"); refused != (tt.want == "") {
				t.Errorf("ParseInstanceID(%q) = error %v", tt.in, err)
			}
		})
	}
}

func TestZeroValueInstanceIDIsInvalid(t *testing.T) {
	var id attest.InstanceID
	if !id.IsZero() || id.String() != "" {
		t.Errorf("the zero InstanceID is %q, IsZero %v", id, id.IsZero())
	}
}

// What is accepted is safe in a path, a key and a log line, and has one spelling.
func FuzzParseInstanceID(f *testing.F) {
	for _, tt := range instanceIDs {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := attest.ParseInstanceID(s)
		if err != nil {
			if !id.IsZero() {
				t.Errorf("%q was refused and is %q", s, id)
			}
			return
		}
		got := id.String()
		if len(got) != 36 || strings.Trim(got, "0123456789abcdef-") != "" || strings.Count(got, "-") != 4 {
			t.Errorf("%q became %q, which is no lower-case UUID", s, got)
		}
		if !strings.EqualFold(got, s) {
			t.Errorf("%q became %q, another UUID", s, got)
		}
		if again, err := attest.ParseInstanceID(got); again != id || err != nil {
			t.Errorf("%q parsed again is %q, %v", got, again, err)
		}
	})
}
