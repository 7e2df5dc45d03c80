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
set -eu
umask 077

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

# The token goes to curl on its standard input, not on a command line that others can see.
answer=$(printf '{"role":"%s","jwt":"%s"}' "$role" "$(cat "$file")" |
    curl -sS -f -m 20 ${cafile:+--cacert "$cafile"} -X POST -H 'Content-Type: application/json' -d @- "${address%/}/v1/auth/$mount/login")
printf '%s\n' "$answer" | grep -o '"client_token": *"[^"]*"' | cut -d '"' -f 4
