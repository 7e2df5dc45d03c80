package listen

import (
	"crypto/tls"
	"log/slog"
)

// What tests see beyond the front door.
var Bound = bound

// WatchCertificate gives the certificate as a listener would.
func WatchCertificate(files TLSConfig, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c, err := tlsConfig(files, log)
	if err != nil {
		return nil, err
	}
	return c.GetCertificate, nil
}
