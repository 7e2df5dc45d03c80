//go:build !unix

package keyring

import "os"

// keepOwner does nothing, because there is no root user.
func keepOwner(*os.File, string) error { return nil }
