#!/bin/sh
# Logs in to Vault or OpenBao with this instance's token, and prints the client token.
#
#   vault-login.sh -a ADDRESS -r VAULT_ROLE [-m MOUNT] [-t FILE] [-c CAFILE]
#
#   -a ADDRESS     such as https://vault.example.com:8200; default: $VAULT_ADDR
#   -r VAULT_ROLE  the role of the JWT auth method
#   -m MOUNT       where that is mounted; default: jwt
#   -t FILE        the instance's token; default: /run/instance-token/token
#   -c CAFILE      default: $VAULT_CACERT, else the system's
#
# Proxies (http_proxy and the like), .curlrc and redirects are ignored.
set -eu
umask 077
export LC_ALL=C
unset SSLKEYLOGFILE # curl would write the keys of its connections there

address=${VAULT_ADDR:-} role="" mount=jwt file=/run/instance-token/token cafile=${VAULT_CACERT:-}
usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit "$1"
}
[ "${1:-}" != --help ] || usage 0
while getopts a:r:m:t:c:h option; do
    case $option in
    a) address=$OPTARG ;;
    r) role=$OPTARG ;;
    m) mount=$OPTARG ;;
    t) file=$OPTARG ;;
    c) cafile=$OPTARG ;;
    h) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
done
if [ -z "$address" ] || [ -z "$role" ]; then
    echo "${0##*/}: Vault's address (-a) and a role (-r) are needed" >&2
    exit 2
fi

# Refuse a value that would be an option of curl, several URLs, or more than a value in JSON.
case $address in
*[!!-~]* | *[\\{}]*) address= ;;
http://?* | https://?*) ;;
*) address= ;;
esac
case $role$mount in
*[!A-Za-z0-9._/-]*) address= ;;
esac
if [ -z "$address" ]; then
    echo "${0##*/}: the address is not a URL, or the role or the mount has a character that is not allowed" >&2
    exit 2
fi
token=$(grep -x '[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*' <"$file" | head -n 1)
if [ -z "$token" ]; then
    echo "${0##*/}: $file holds no token" >&2
    exit 1
fi

# The token goes to curl on its standard input, not on a command line, which other users can see.
client_token=$(printf '{"role":"%s","jwt":"%s"}' "$role" "$token" |
    curl -q --noproxy '*' --proto '=http,https' --max-redirs 0 --max-filesize 1048576 -g -sS -f -m 20 ${cafile:+--cacert "$cafile"} \
        -X POST -H 'Content-Type: application/json' -d @- "${address%/}/v1/auth/$mount/login" |
    grep -o '"client_token": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
[ -n "$client_token" ] || exit 1
printf '%s\n' "$client_token"
