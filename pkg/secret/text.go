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

// Hidden replaces what may be a secret.
const Hidden = "(not shown)"

var (
	// pemBlock is a PEM block (RFC 7468), or its beginning if the end is missing.
	// Its newlines may be written as \n.
	pemBlock = regexp.MustCompile(`(?s)-----BEGIN .*?(?:-----END [^-]*-----|\z)`)
	// userInfo is the part of a URL's authority before the last @ (RFC 3986, section
	// 3.2.1). A password that is not escaped may have any character.
	userInfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:/{1,2})([^\s"'<>/@]*(?:[^\s"'<>@]*)@)+`)
	// token is a Fernet token of Keystone, or a JWT.
	token = regexp.MustCompile(`gAAAA[A-Za-z0-9_=-]{16,}|eyJ[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]*)*`)
	// quoted is a Go string, as %q writes it.
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
)

// Text takes PEM blocks, tokens and the user information of URLs out of a text.
func Text(s string) string {
	if !maySpill(s) {
		return s
	}
	s = pemBlock.ReplaceAllString(s, Hidden)
	s = userInfo.ReplaceAllString(s, "${1}"+Hidden+"@")
	return token.ReplaceAllString(s, Hidden)
}

// Attr is [Text] for an attribute of a log line; see [slog.HandlerOptions].
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
		if recover() != nil { // a nil pointer; slog bears it, too
			text = "<nil>"
		}
	}()
	return Text(err.Error())
}

// maySpill is false for most texts, at little cost.
func maySpill(s string) bool {
	return strings.Contains(s, "-----BEGIN ") || strings.Contains(s, "@") || strings.Contains(s, "gAAAA") || strings.Contains(s, "eyJ")
}

// Values is [Text] for an error about values of a configuration: values that %q
// quoted are taken out unless [Shown].
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

// Show is the value if it can be shown, else [Hidden].
func Show(s string) string {
	if !Shown(s) {
		return Hidden
	}
	return s
}

// Quote is the value in quotes if it can be shown, else [Hidden].
func Quote(s string) string { return Values(strconv.Quote(s)) }

// Clip returns the first most bytes of a text that another program sent, with ? for what
// is not UTF-8, and "..." at the end if the text is longer.
func Clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "?") + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Printable returns the first 64 bytes of a client's text, with ? for each that is not
// printable ASCII, for an answer or a log line.
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
	// number is one, or an attempt at one; duration is a Go duration, or another way to
	// write it.
	number   = regexp.MustCompile(`\A[-+]?(?:0x[0-9a-fA-F]{1,8}|[0-9][0-9.,_]{0,12}(?:[eE][-+]?[0-9]{1,3})?)\z`)
	duration = regexp.MustCompile(`\A[-+]?(?:[0-9]{1,9}(?:[.,][0-9]{1,9})? ?(?:[nuµm]?s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?) ?){1,4}\z`)
	// word is a part of a name: letters with a few digits behind, or a few digits.
	word     = regexp.MustCompile(`\A(?:(?:v[0-9])?[A-Za-z]{1,20}[0-9]{0,4}|[0-9]{1,4})\z`)
	uuid     = regexp.MustCompile(`\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z`)
	label    = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\z`)
	topLevel = regexp.MustCompile(`\A[a-z]{2,12}\z`)
	digits   = regexp.MustCompile(`\A[0-9A-Fa-f.:\[\]%*/-]+\z`)
)

// The most that a value can have to be shown. A longer name is rare, and a longer
// secret is not.
const (
	minSecret  = 4
	maxName    = 32
	maxKey     = 64
	maxWords   = 3
	maxNumber  = 24
	maxAddress = 64
	maxURL     = 128
)

// Shown reports whether a value has the shape of something that is not a secret: a
// name of at most three words, a number, a duration, an address, a host name, a
// UUID, or a URL without user information and query.
func Shown(s string) bool {
	if host, _, ok := strings.Cut(s, "/"); ok && isAddress(host) && isURL("http://"+s) {
		return true // a URL that lacks its beginning
	}
	return isShort(s) || isName(s) || isNumber(s) || isAddress(s) || isURL(s) || uuid.MatchString(s)
}

// ShownKey is [Shown] for what an operator names, such as a role: it may have more
// words.
func ShownKey(s string) bool { return isShort(s) || len(s) <= maxKey && wordsOf(s) > 0 }

func isShort(s string) bool {
	return len(s) < minSecret && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func isName(s string) bool {
	n := wordsOf(s)
	return len(s) <= maxName && n > 0 && n <= maxWords
}

// wordsOf is the number of words in a name, 0 if it is not a name.
func wordsOf(s string) int {
	words := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.+@$*? ", r) })
	for _, w := range words {
		if !word.MatchString(w) || mixed(w) {
			return 0
		}
	}
	return len(words)
}

// mixed reports whether the case of letters changes as it does in no word: more
// than in camelCase with an acronym, such as EdDSA or projectID.
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

// isAddress takes IP addresses, networks and host names with a dot or a port.
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

// isURL takes http and https URLs; see [Shown].
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

// looksRandom reports whether a long word is a mixture of letters, cases and digits.
func looksRandom(s string) bool {
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune("-_.~", r) }) {
		if len(w) >= 8 && (!word.MatchString(w) || mixed(w)) {
			return true
		}
	}
	return false
}

// extensions are those of files that a configuration names.
var extensions = []string{".pem", ".key", ".crt", ".cer", ".secret", ".password", ".passwd", ".txt", ".yml", ".yaml", ".sock", ".db", ".log", ".json", ".jsonl"}

var plainPath = regexp.MustCompile(`\A[A-Za-z0-9._/-]{1,255}\z`)

// IsPath reports whether a value can be shown as the path of a file, relative to
// dir: the file exists, or its folder does and the value names one, or the name is
// a plain one with an extension that such files have. A pasted key, password or
// base64 text is none of that.
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
