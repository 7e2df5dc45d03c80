// Package secret reads files that may contain secrets, and keeps secrets out of texts.
//
// Operators make two mistakes with secrets: they write one where the path of its file
// belongs, and they leave its file open to other users. This package reports whether a
// value looks like a path ([IsPath]), removes what may be a secret ([Text], [Values]) or
// is not printable ([Printable]) from a text, clips texts of other programs ([Clip]), reads
// files up to a limit ([ReadFile]), and reports what other users can do with a file
// ([AccessOf]) and whether root may act on it ([ReadOwned], [CheckSocket]).
//
// It judges a value by its form. It does not recognize a password that looks like a name,
// such as a single lower-case word.
package secret

import (
	"log/slog"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Hidden replaces a text that may be a secret.
const Hidden = "(not shown)"

var (
	// pemBlock matches a PEM block (RFC 7468), or its beginning if the end is missing. Its
	// newlines may be written as \n.
	pemBlock = regexp.MustCompile(`(?s)-----BEGIN .*?(?:-----END [^-]*-----|\z)`)
	// userInfo matches the authority of a URL up to the last @ (RFC 3986, section 3.2.1). A
	// password that is not escaped may contain any character.
	userInfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s"'<>/@]*(?:[^\s"'<>@]*)@)+`)
	// token matches a Fernet token of Keystone, and a JWT.
	token = regexp.MustCompile(`gAAAA[A-Za-z0-9_=-]{16,}|eyJ[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]*)*`)
	// quoted matches a text that %q has written.
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
)

// Text replaces PEM blocks, tokens and the user information of URLs by [Hidden].
func Text(s string) string {
	if !maySpill(s) {
		return s
	}
	s = pemBlock.ReplaceAllString(s, Hidden)
	s = userInfo.ReplaceAllString(s, "${1}"+Hidden+"@")
	return token.ReplaceAllString(s, Hidden)
}

// Attr applies [Text] to an attribute of a log line; see [slog.HandlerOptions].
func Attr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); maySpill(s) {
			a.Value = slog.StringValue(Text(s))
		}
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(errorText(err))
		}
	}
	return a
}

func errorText(err error) (text string) {
	defer func() {
		if recover() != nil { // a nil pointer, which slog also recovers
			text = "<nil>"
		}
	}()
	return Text(err.Error())
}

// maySpill is false for most texts, and faster than Text.
func maySpill(s string) bool {
	return strings.Contains(s, "-----BEGIN ") || strings.Contains(s, "@") || strings.Contains(s, "gAAAA") || strings.Contains(s, "eyJ")
}

// Values is [Text] for an error about values of a configuration. It also replaces values
// that %q has quoted, unless they are [Shown].
func Values(s string) string {
	return Text(quoted.ReplaceAllStringFunc(s, func(q string) string {
		v, err := strconv.Unquote(q)
		if err != nil {
			return Hidden
		}
		v = Text(v)
		if !Shown(strings.Replace(v, Hidden+"@", "", 1)) && !(filepath.IsAbs(v) && exists(v)) {
			return Hidden
		}
		return strconv.Quote(v)
	}))
}

// Show returns the value if it is [Shown], else [Hidden].
func Show(s string) string {
	if !Shown(s) {
		return Hidden
	}
	return s
}

// Quote returns the value in quotes if it is [Shown], else [Hidden].
func Quote(s string) string { return Values(strconv.Quote(s)) }

// Clip returns at most the first most bytes of a text of another program, with "..." after
// them if the text is longer. It replaces bytes that are not UTF-8 by ?.
func Clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "?") + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Printable returns the first 64 bytes of a client's text, for an answer or a log line. It
// replaces bytes that are not printable ASCII by ?.
func Printable(s string) string {
	b := []byte(s[:min(len(s), 64)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

var (
	// number and duration also match usual mistakes, such as 1,5 and "10 minutes".
	number   = regexp.MustCompile(`\A[-+]?(?:0x[0-9a-fA-F]{1,8}|[0-9][0-9.,_]{0,12}(?:[eE][-+]?[0-9]{1,3})?)\z`)
	duration = regexp.MustCompile(`\A[-+]?(?:[0-9]{1,9}(?:[.,][0-9]{1,9})? ?(?:[nuµm]?s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?) ?){1,4}\z`)
	// word matches a part of a name: letters with a few digits after them, or a few digits.
	word     = regexp.MustCompile(`\A(?:(?:v[0-9])?[A-Za-z]{1,20}[0-9]{0,4}|[0-9]{1,4})\z`)
	uuid     = regexp.MustCompile(`\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z`)
	label    = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\z`)
	topLevel = regexp.MustCompile(`\A[a-z]{2,12}\z`)
	digits   = regexp.MustCompile(`\A[0-9A-Fa-f.:\[\]%*/-]+\z`)
)

// Bounds of a value that is shown. Longer names are rare; longer secrets are not.
const (
	minSecret  = 4
	maxName    = 32
	maxKey     = 64
	maxWords   = 3
	maxNumber  = 24
	maxAddress = 64
	maxURL     = 128
)

// Shown reports whether a value looks like something that is not a secret: a name of at
// most three words, a number, a duration, an address, a host name, a UUID, or a URL
// without user information and query.
func Shown(s string) bool {
	if host, _, ok := strings.Cut(s, "/"); ok && isAddress(host) && isURL("http://"+s) {
		return true // a URL without its scheme
	}
	return isShort(s) || isName(s) || isNumber(s) || isAddress(s) || isURL(s) || uuid.MatchString(s)
}

// ShownKey is [Shown] for a name that an operator chooses, such as that of a role. It may
// have more words.
func ShownKey(s string) bool { return isShort(s) || len(s) <= maxKey && wordsOf(s) > 0 }

func isShort(s string) bool {
	return len(s) < minSecret && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func isName(s string) bool {
	n := wordsOf(s)
	return len(s) <= maxName && n > 0 && n <= maxWords
}

// wordsOf returns the number of words in a name, 0 if it is not a name.
func wordsOf(s string) int {
	words := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.+@$*? ", r) })
	for _, w := range words {
		if !word.MatchString(w) || mixed(w) {
			return 0
		}
	}
	return len(words)
}

// mixed reports whether the case of letters changes more often than in words, including
// camelCase with an acronym, such as EdDSA or projectID.
func mixed(w string) bool {
	changes := 0
	for i := 1; i < len(w); i++ {
		if isUpper(w[i-1]) != isUpper(w[i]) {
			changes++
		}
	}
	return changes > 4 || (changes > 3 && len(w) < 10)
}

func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }

func isNumber(s string) bool {
	return len(s) <= maxNumber && (number.MatchString(s) || duration.MatchString(s))
}

// isAddress accepts IP addresses, networks, and host names with a dot or a port.
func isAddress(s string) bool {
	if len(s) > maxAddress {
		return false
	}
	if digits.MatchString(s) && strings.Count(s, ".")+strings.Count(s, ":") > 1 && len(s) <= 48 {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, ""
	}
	if _, notNumber := strconv.ParseUint(port, 10, 32); port != "" && notNumber != nil {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if port == "" && len(labels) < 2 && host != "localhost" {
		return false
	}
	for _, l := range labels {
		if !label.MatchString(l) || looksRandom(l) {
			return false
		}
	}
	return port != "" || host == "localhost" || topLevel.MatchString(labels[len(labels)-1])
}

var pathSegment = regexp.MustCompile(`\A[A-Za-z0-9._~;,%-]{0,40}\z`)

// isURL accepts http and https URLs; see [Shown].
func isURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || strings.ContainsAny(s, "@?#") || u.Opaque != "" {
		return false
	}
	if h := u.Host; h != "" && !isAddress(h) && !label.MatchString(h) {
		return false
	}
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		if !pathSegment.MatchString(segment) || (len(segment) > maxName && !uuid.MatchString(segment)) || looksRandom(segment) {
			return false
		}
	}
	return true
}

// looksRandom reports whether a long word mixes digits, or upper and lower case.
func looksRandom(s string) bool {
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.~", r) }) {
		if len(w) >= 8 && (!word.MatchString(w) || mixed(w)) {
			return true
		}
	}
	return false
}

// extensions are usual for files that a configuration names.
var extensions = []string{".pem", ".key", ".crt", ".cer", ".secret", ".password", ".passwd", ".txt", ".yml", ".yaml", ".sock", ".db", ".log", ".json", ".jsonl"}

var plainPath = regexp.MustCompile(`\A[A-Za-z0-9._/-]{1,255}\z`)

// IsPath reports whether a value can be shown as the path of a file, relative to dir: the
// file exists, or the value contains a folder that exists, or it is a plain name with a
// usual extension. A pasted key, password or base64 text is not a path.
func IsPath(value, dir string) bool {
	if value == "" || len(value) > 4096 || strings.Contains(value, "-----BEGIN") || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return false
	}
	full := value
	if !filepath.IsAbs(full) {
		full = filepath.Join(dir, full)
	}
	if exists(full) {
		return true
	}
	name := path.Base(value)
	for _, e := range extensions {
		if stem, ok := strings.CutSuffix(name, e); ok && plainPath.MatchString(value) && len(stem) <= maxName && !looksRandom(stem) && !randomFolder(path.Dir(value)) {
			return true
		}
	}
	folder := filepath.Dir(full)
	return strings.Contains(value, "/") && folder != "/" && exists(folder)
}

func randomFolder(folder string) bool {
	for part := range strings.SplitSeq(folder, "/") {
		if len(part) > maxName || looksRandom(part) {
			return true
		}
	}
	return false
}
