//go:build agents || lab

package guestfuzz

import (
	"fmt"
	"slices"
	"strings"
)

// chance is true once in n.
func (f *Fuzzer) chance(n int) bool { return f.IntN(n) == 0 }

func pick[T any](f *Fuzzer, from ...T) T { return from[f.IntN(len(from))] }

// conversation makes what is sent in a connection. It is whole if an answer to all of it can be expected soon.
func (f *Fuzzer) conversation() (sent string, whole bool) {
	n := 1
	if f.chance(4) {
		n += f.IntN(4)
	}
	var b strings.Builder
	whole = true
	for i := range n {
		whole = f.request(&b, i == n-1) && whole
	}
	if f.chance(10) {
		return f.damage(b.String()), false
	}
	return b.String(), whole
}

func (f *Fuzzer) method() string {
	switch f.IntN(10) {
	case 0, 1, 2, 3, 4:
		return "PUT"
	case 5, 6:
		return "GET"
	}
	return pick(f, "POST", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "MINT", "put")
}

// request makes a request, in half of the cases one that gets a token if its method is PUT. It is not whole if its body is shorter than it says.
func (f *Fuzzer) request(b *strings.Builder, last bool) (whole bool) {
	end := pick(f, "\r\n", "\r\n", "\r\n", "\r\n", "\n")
	calm := f.chance(2)
	target := f.target()
	if calm {
		target = pick(f, "/identity/token?role=", "/identity/token?format=token&role=") + pick(f, f.Guest.Role, f.Other.Role, f.Guest.ForAll)
	}
	b.WriteString(f.method() + " " + target + pick(f, " HTTP/1.1", " HTTP/1.1", " HTTP/1.1", " HTTP/1.1", " HTTP/1.1", " HTTP/1.0") + end)
	var headers []string
	if !f.chance(10) {
		headers = append(headers, "Host: 169.254.169.254")
	}
	if last {
		headers = append(headers, "Connection: close")
	}
	for range f.few(12) {
		headers = append(headers, f.header())
	}
	if f.chance(20) {
		for range f.IntN(150) {
			headers = append(headers, f.header())
		}
	}
	if calm {
		// Most of what a guest says about itself makes the agent refuse the request.
		headers = slices.DeleteFunc(headers, func(h string) bool { return strings.HasPrefix(strings.ToLower(h), "x-") && !f.chance(10) })
	}
	body := ""
	whole = true
	if !calm && f.chance(4) {
		body = f.text(f.few(2000))
		switch f.IntN(6) {
		case 0:
			headers = append(headers, fmt.Sprintf("Content-Length: %d", f.IntN(len(body)+10)))
			whole = false
		case 1, 2:
			headers = append(headers, "Transfer-Encoding: "+pick(f, "chunked", "chunked", "Chunked", "identity", "gzip, chunked"))
			var chunks strings.Builder
			for rest := body; rest != ""; {
				n := 1 + f.IntN(len(rest))
				fmt.Fprintf(&chunks, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			body = chunks.String() + "0\r\n\r\n"
		default:
			headers = append(headers, fmt.Sprintf("Content-Length: %d", len(body)))
		}
		if f.chance(4) {
			headers = append(headers, "Expect: 100-continue")
		}
	} else if f.chance(3) {
		headers = append(headers, "Content-Length: 0")
	}
	f.Shuffle(len(headers), func(i, j int) { headers[i], headers[j] = headers[j], headers[i] })
	for _, h := range headers {
		b.WriteString(h + end)
	}
	b.WriteString(end + body)
	return whole
}

// few is most often small, and below n.
func (f *Fuzzer) few(n int) int { return f.IntN(1 + f.IntN(1+f.IntN(n))) }

func (f *Fuzzer) target() string {
	path := pick(f, "/identity/token", "/identity/token", "/identity/token", "/identity/roles", "/identity/none", "/latest/meta-data/", "/openstack/latest/meta_data.json", "/openstack/latest/vendor_data2.json", "/long", "/", "*")
	for range f.few(4) {
		i := f.IntN(len(path))
		path = path[:i] + pick(f, "/", "//", "/./", "/../", "%2f", "%2F", "%2e", "%00", "%0d%0a", "%ff", "%25", ";a=b", "\\", f.escaped(path[i]), f.text(1)) + path[i+f.IntN(2):]
	}
	if f.chance(20) {
		path = pick(f, "http://", "https://", "HTTP://") + pick(f, "169.254.169.254", "id.example.com", "169.254.169.254:80", f.Other.Address) + path
	}
	if f.chance(8) {
		return path
	}
	query := "role=" + pick(f, f.Guest.Role, f.Guest.Role, f.Other.Role, f.Guest.ForAll, f.Guest.ForAll, f.text(f.few(20)))
	for range f.few(4) {
		query += "&" + pick(f, "audience", "format", "role", "instance_id", f.text(f.few(10))) + "=" + pick(f, "token", "https://vault.example.com", "a%26role%3Donly-db", f.Other.ID, f.text(f.few(300)))
	}
	if f.chance(30) {
		query += "&x=" + strings.Repeat("a", f.IntN(6000))
	}
	return path + pick(f, "?", "?", "?", "?", "%3f", "#", "??") + query
}

func (f *Fuzzer) escaped(b byte) string { return fmt.Sprintf(pick(f, "%%%02x", "%%%02X"), b) }

func (f *Fuzzer) header() string {
	name := pick(f, "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "X-Instance-ID", "X-Tenant-ID", "X-Instance-ID-Signature",
		"X-OVN-Network-ID", "X-Neutron-Network-ID", "X-Neutron-Router-ID", "X-Metadata-Provider", "Host", "Connection", "Content-Type", "Authorization",
		"Cookie", "Accept-Encoding", "Upgrade", "TE", "Trailer", "Via", "X-A", "X-B", "A")
	if f.chance(6) {
		name = f.text(1 + f.few(30))
	}
	if f.chance(6) {
		name = pick(f, strings.ToLower, strings.ToUpper)(name)
	}
	value := pick(f, f.Other.ID, f.Other.Project, f.Other.Address, f.Guest.Address, "close", "keep-alive", "X-Forwarded-For", "h2c", "trailers", "", f.text(f.few(200)))
	if f.chance(15) {
		value = strings.Repeat(pick(f, "a", "a, ", "0"), f.IntN(2500))
	}
	return name + pick(f, ": ", ": ", ": ", ":", ":\t", " : ") + value
}

// text is made of letters, or of any bytes but those that end a line.
func (f *Fuzzer) text(n int) string {
	b := make([]byte, n)
	letters := !f.chance(4)
	for i := range b {
		switch {
		case letters:
			b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."[f.IntN(64)]
		default:
			b[i] = byte(f.IntN(256)) //nolint:gosec // it fits
			if b[i] == '\r' || b[i] == '\n' {
				b[i] = ' '
			}
		}
	}
	return string(b)
}

// damage changes a few bytes of a conversation.
func (f *Fuzzer) damage(s string) string {
	b := []byte(s)
	for range 1 + f.few(5) {
		if len(b) == 0 {
			break
		}
		i := f.IntN(len(b))
		switch f.IntN(4) {
		case 0:
			b[i] = byte(f.IntN(256)) //nolint:gosec // it fits
		case 1:
			b = append(b[:i], b[i+1:]...)
		case 2:
			b = append(b[:i:i], append([]byte(pick(f, "\r", "\n", "\r\n", "\r\n\r\n", " ", "\t", "\x00", ":", ",")), b[i:]...)...)
		case 3:
			b = b[:i]
		}
	}
	return string(b)
}
