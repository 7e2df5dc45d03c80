#!/bin/sh
# Makes the files for a trial, with only openssl: a signing key, a key that seals managed ones, and a self-signed
# certificate for the server.
#
#   try-out.sh [DIRECTORY [NAME-OR-ADDRESS...]]
#
# DIRECTORY: where to write, the current one by default. NAME-OR-ADDRESS: what clients will put into the URL; localhost
# and 127.0.0.1 by default. For a trial only: in production leave the signing keys to the server (`keys` in the
# configuration) and take a certificate that your instances already trust.
set -eu
umask 077

program=${0##*/}
die() {
    echo "$program: $*" >&2
    exit 1
}

case ${1:-} in
-*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
directory=${1:-.}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- localhost 127.0.0.1

command -v openssl >/dev/null || die "openssl is missing"
[ -d "$directory" ] || die "$directory: not a directory"
for file in signing-key.pem encryption.key server.pem server-key.pem; do
    if [ -e "$directory/$file" ] || [ -L "$directory/$file" ]; then
        die "$directory/$file exists; it is not overwritten"
    fi
done

names=
for name in "$@"; do
    case $name in
    '' | *[!A-Za-z0-9.:*-]*) die "not a name or an address: $name" ;;
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
    esac
    names=${names:+$names,}$kind:$name
done

# All or nothing: the files get their names when all of them exist.
work=$(mktemp -d "$directory/.try-out.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

quietly() {
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        die "openssl failed"
    }
}

# A configuration of our own, because what the system's one adds differs. Not a CA: a client that trusts this certificate
# trusts this server, and not everything that its key could sign. Only the names in subjectAltName count (RFC 9525).
cat >"$work/openssl.cnf" <<END
[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
[subject]
CN = openstack-nova-authenticator
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = $names
END
quietly openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out "$work/signing-key.pem"
quietly openssl req -x509 -config "$work/openssl.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
    -days 90 -keyout "$work/server-key.pem" -out "$work/server.pem"
quietly openssl rand -base64 -out "$work/encryption.key" 32
chmod 0600 "$work/signing-key.pem" "$work/server-key.pem" "$work/encryption.key"
chmod 0644 "$work/server.pem"

for file in signing-key.pem encryption.key server.pem server-key.pem; do
    mv "$work/$file" "$directory/$file"
done

cat <<END
$directory/signing-key.pem   signs tokens: RSA 3072; keep it secret
$directory/encryption.key    seals managed keys: keep it secret
$directory/server-key.pem    the server's key: EC P-256; keep it secret
$directory/server.pem        its certificate, for $*, 90 days; clients need it: curl --cacert server.pem

Next, beside a config.yml that names these files:

  openstack-nova-authenticator -c $directory/config.yml check
  openstack-nova-authenticator -c $directory/config.yml
END
