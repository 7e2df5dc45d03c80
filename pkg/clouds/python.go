package clouds

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// The types of plain scalars in YAML 1.1, which PyYAML implements (https://yaml.org/type/).
var (
	pythonBool  = regexp.MustCompile(`\A(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\z`)
	pythonInt   = regexp.MustCompile(`\A[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)\z`)
	pythonFloat = regexp.MustCompile(`\A(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\z`)
	pythonTime  = regexp.MustCompile(`\A[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?\z`)
	pythonNull  = regexp.MustCompile(`\A(?:~|null|Null|NULL|)\z`)
)

// pythonType returns the type that PyYAML gives a plain scalar, in words, if openstacksdk then uses another text than is
// written; otherwise "".
func pythonType(text string) string {
	switch {
	case pythonBool.MatchString(text):
		return "a boolean"
	case pythonTime.MatchString(text):
		return "a date"
	case pythonInt.MatchString(text):
		// str() of a number in its usual form returns the same text.
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
			return ""
		}
		if isDigits(text) {
			return "" // Python's integers have any length
		}
		return "a number"
	case pythonFloat.MatchString(text):
		if f, err := strconv.ParseFloat(text, 64); err == nil && pythonRepr(f) == text {
			return ""
		}
		return "a number"
	}
	return ""
}

func isDigits(s string) bool {
	return s != "" && s[0] != '0' && strings.Trim(s, "0123456789") == ""
}

// pythonRepr is Python's repr() of a float.
func pythonRepr(f float64) string {
	exponent := 0
	if f != 0 {
		exponent = int(math.Floor(math.Log10(math.Abs(f))))
	}
	if exponent < -4 || exponent >= 16 {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// boolean returns a value as openstacksdk reads that of insecure: a word of YAML 1.1, or true or false in quotes or in a
// variable.
func (v *value) boolean() (is, ok bool) {
	word := strings.ToLower(v.text)
	switch {
	case word == "true":
		return true, true
	case word == "false":
		return false, true
	case v.plain && pythonBool.MatchString(v.text):
		return word == "yes" || word == "on", true
	}
	return false, false
}
